//! The relays, which publish the events of the store.

use maud::{Markup, html};

use super::projections::skipped_events;
use crate::{
    dashboard::{
        parts::{number, optional, seconds, table, time},
        source::KnownRows,
        visit::Visit,
    },
    error::CommandError,
};

pub(in crate::dashboard) async fn relay(visit: &Visit) -> Result<Markup, CommandError> {
    let source = visit.inner().source();
    let KnownRows { rows: relays, bus_problem } = source.relays().await?;
    let status = match source.app() {
        Some(app) => app.relay_status().await,
        None => None,
    };
    let problem = status.as_ref().and_then(|status| {
        let stopped = status.stopped.as_ref().map(ToString::to_string);
        stopped.or_else(|| status.trouble.clone()).map(|text| (text, status.since))
    });
    let rows = html! {
        @for row in &relays {
            tr {
                th scope="row" { (row.destination) }
                td.number { (seconds(row.lag.seconds)) }
                td.number { (number(row.lag.events)) }
                td.number { (number(row.position.get())) }
                td.number { (number(row.head.get())) }
                td { (optional(row.leader.as_ref())) }
                td { (time(row.updated_at)) }
            }
        }
    };
    let skipped: Vec<_> =
        relays.iter().flat_map(|row| row.skipped.iter().map(|event| (row.destination.as_str(), event))).collect();
    Ok(html! {
        div data-live {
            @if let Some((text, since)) = &problem {
                p.problem role="alert" { "The relay of this process does not publish: " (text) " (since " (time(*since)) ")" }
            }
            @if let Some(problem) = &bus_problem {
                p.problem role="alert" { "The positions are those that the leader saved last: " (problem) }
            }
            @for row in relays.iter().filter(|row| row.halted_at.is_some()) {
                p.problem role="alert" {
                    "The relay to " code { (row.destination) } " has stopped: position " (optional(row.halted_at.as_ref()))
                    " was published by a newer copy of the store. To go on from the last event that both have, run "
                    code { "eventbus relay republish" }
                }
            }
            @if relays.is_empty() {
                p { "The store knows no relay: its events go to no bus, or to one in the process of the application." }
            } @else {
                (table("Relays", "Bus, Lag>, Events>, Published>, Last>, Leader, Saved", &rows))
            }
            (skipped_events(&skipped))
        }
    })
}
