//! The projections, and rebuilding them.

use std::collections::BTreeMap;

use eventbus::{projection::ProjectionStatus, support::source_chain};
use maud::{Markup, html};

use crate::{
    dashboard::{
        parts::{number, optional, seconds, table, time},
        rebuilds::RebuildState,
        visit::Visit,
    },
    error::CommandError,
    query::{ProjectionRow, SkippedRow, StoppedRow},
};

pub(in crate::dashboard) async fn projections(visit: &Visit) -> Result<Markup, CommandError> {
    let source = visit.inner().source();
    let rows = source.projections().await?;
    let statuses: BTreeMap<_, _> = match source.app() {
        Some(app) => app.projections().await?.into_iter().map(|status| (status.name, status)).collect(),
        None => BTreeMap::new(),
    };
    let stored = |name: &str| rows.iter().any(|row| row.name == name);
    let in_memory: Vec<_> = statuses.values().filter(|status| !stored(status.name)).collect();
    let table_rows = html! {
        @for row in &rows {
            tr {
                th scope="row" { (row.name) }
                td.number { (seconds(row.lag.seconds)) }
                td.number { (number(row.lag.events)) }
                td.number { (number(row.position.get())) }
                td { (optional(row.owner.as_ref())) }
                td { (time(row.updated_at)) }
                td { (state(row, statuses.get(row.name.as_str()))) }
            }
        }
        @for status in &in_memory {
            tr {
                th scope="row" { (status.name) }
                td.number { "–" }
                td.number { (number(status.lag)) }
                td.number { (number(status.position.get())) }
                td { "each process" }
                td { "–" }
                td { (problems(status)) }
            }
        }
    };
    let skipped: Vec<_> =
        rows.iter().flat_map(|row| row.skipped.iter().map(|event| (row.name.as_str(), event))).collect();
    Ok(html! {
        div data-live {
            @if rows.is_empty() && in_memory.is_empty() {
                p { "The store knows no projection." }
            } @else {
                (table("Projections", "Projection, Lag>, Events>, Position>, Owner, Saved, State", &table_rows))
            }
            @for status in statuses.values() { (rebuild(visit, status.name)) }
            @if source.app().is_none() {
                p.hint { "The application rebuilds projections, as it has their code: mount the dashboard there." }
            }
            (skipped_events(&skipped))
        }
    })
}

fn state(row: &ProjectionRow, status: Option<&ProjectionStatus>) -> Markup {
    html! {
        @if let Some(by) = &row.rebuilt_by { "rebuilt by " (by) " " }
        @if let Some(status) = status { (problems(status)) }
        @match &row.stopped {
            // the status of this process has its own stop
            Some(stop) if status.is_none_or(|status| status.stopped.is_none()) => (noted_stop(stop)),
            None if status.is_none() && row.owner.is_none() && row.lag.events > 0 => {
                span.problem { "no process feeds it" }
            },
            _ => "",
        }
    }
}

fn noted_stop(stop: &StoppedRow) -> Markup {
    let position = number(stop.position.get());
    html! {
        span.problem { "stopped at position " (position) " (" (stop.event_type) "): " (stop.error) }
        " since " (time(Some(stop.since))) " in " (stop.owner)
    }
}

fn problems(status: &ProjectionStatus) -> Markup {
    html! {
        @if let Some(error) = &status.stopped {
            span.problem { "stopped: " (source_chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")) }
            " since " (time(status.stopped_since))
        }
        @if let Some(trouble) = &status.trouble {
            span.problem { "waits: " (trouble) }
            " since " (time(status.trouble_since))
        }
    }
}

/// The form that begins a rebuild, and the progress of the last one.
fn rebuild(visit: &Visit, name: &str) -> Markup {
    let state = visit.inner().rebuilds().state_of(name);
    if state.is_none() && !visit.may_change() {
        return html! {};
    }
    html! {
        section aria-label=(format!("Rebuild of {name}")) {
            h2 { "Rebuild " code { (name) } }
            @match &state {
                Some(RebuildState::Running(share, text)) => {
                    progress max="1" value=(format!("{share:.3}")) aria-label=(format!("Rebuild of {name}")) {}
                    p { (text) }
                },
                Some(RebuildState::Done(text)) => p role="status" { (text) },
                Some(RebuildState::Failed(text)) => p.problem role="alert" { (text) },
                None => {},
            }
            @if visit.may_change() && !matches!(state, Some(RebuildState::Running(..))) {
                details {
                    summary { "Rebuild from the first event …" }
                    p { "The present rows serve until the new ones have caught up." }
                    form method="post" action=(visit.link("rebuild", &[])) {
                        input type="hidden" name="projection" value=(name);
                        button.primary { "Rebuild " (name) }
                    }
                }
            }
        }
    }
}

/// The events that readers skip by order of an operator.
pub(super) fn skipped_events(skipped: &[(&str, &SkippedRow)]) -> Markup {
    let rows = html! {
        @for (reader, event) in skipped {
            tr {
                th.number scope="row" { (number(event.position.get())) }
                td { (reader) }
                td { (event.reason) }
                td { (event.by) }
                td { (time(Some(event.at))) }
            }
        }
    };
    html! {
        @if !skipped.is_empty() {
            section aria-labelledby="skipped" {
                h2 #skipped { "Skipped events" }
                (table("Events that readers skip by order of an operator", "Position>, Reader, Reason, By, At", &rows))
            }
        }
    }
}
