//! One consumer group: its consumers, and its oldest pending deliveries.

use std::time::Duration;

use eventbus::Name;
use maud::{Markup, html};
use serde::Deserialize;

use crate::{
    dashboard::{
        parts::{number, optional, position, table},
        visit::Visit,
    },
    error::CommandError,
    output::age,
};

/// The group of a link.
#[derive(Debug, Deserialize)]
pub(in crate::dashboard) struct GroupChoice {
    pub(in crate::dashboard) name: String,
}

/// Returns `None` if the bus does not know the group.
pub(in crate::dashboard) async fn group(visit: &Visit, choice: &GroupChoice) -> Result<Option<Markup>, CommandError> {
    let name = Name::new("group", &choice.name).map_err(|error| CommandError::Usage(error.to_string()))?;
    let Some(view) = visit.inner().source().group(&name).await? else { return Ok(None) };
    let since = |milliseconds: u64| age(Duration::from_millis(milliseconds));
    let consumers = html! {
        @for consumer in &view.consumers {
            tr {
                th scope="row" { (consumer.name) }
                td.number { (number(consumer.pending)) }
                td.number { (since(consumer.idle_ms)) }
            }
        }
    };
    let pending = html! {
        @for row in &view.pending {
            tr {
                th scope="row" { (row.event_type.as_ref().unwrap_or(&row.entry)) }
                td { (optional(row.stream.as_ref())) }
                td.number { (position(row.position.as_deref())) }
                td { (row.consumer) }
                td.number { (since(row.idle_ms)) }
                td.number { (number(row.attempts.failed_runs.into())) }
                td { @for (handler, error) in &row.attempts.failed { p { code { (handler) } ": " (error) } } }
            }
        }
    };
    Ok(Some(html! {
        div data-live {
            (table("Consumers", "Consumer, Pending>, Idle>", &consumers))
            @if view.pending.is_empty() {
                p { "No delivery is pending." }
            } @else {
                (table("Oldest pending deliveries", "Event, Stream, Position>, Consumer, Idle>, Failed runs>, Last errors", &pending))
            }
        }
    }))
}
