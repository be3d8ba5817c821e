//! The handlers of the store, and the consumer groups of the bus.

use std::{collections::BTreeMap, time::Duration};

use maud::{Markup, html};

use crate::{
    dashboard::{
        parts::{number, optional, position, seconds, table},
        visit::Visit,
    },
    error::CommandError,
    output::age,
    query::HandlerRow,
};

pub(in crate::dashboard) async fn groups(visit: &Visit) -> Result<Markup, CommandError> {
    let handlers = visit.inner().source().handlers().await?;
    let groups = visit.inner().source().groups().await?;
    let rows = html! {
        @for row in &groups {
            tr {
                th scope="row" { (row.group) }
                td.number { (number(row.consumers)) }
                td.number { (number(row.pending)) }
                td.number { (optional(row.oldest_ms.map(|oldest| age(Duration::from_millis(oldest))))) }
                td.number { (optional(row.unread.map(number))) }
                td.number { (seconds(row.seconds)) }
                td { a href=(visit.link("dead-letters", &[("group", &row.group)])) { "list" } }
                td { @if row.holds_trim { "holds it" } }
            }
        }
    };
    Ok(html! {
        div data-live {
            @if handlers.is_empty() && groups.is_empty() { p { "No handler and no group is known." } }
            @if !handlers.is_empty() { (handler_table(visit, &handlers)) }
            @if !groups.is_empty() { (table("Consumer groups", "Group, Consumers>, Pending>, Oldest>, Unread>, Lag>, Dead letters, Trimming", &rows)) }
            @for row in groups.iter().filter(|row| !row.remarks.is_empty()) {
                section aria-label=(format!("Consumers of {}", row.group)) {
                    h2 { "Consumers of " code { (row.group) } }
                    ul.problems { @for remark in &row.remarks { li { (remark) } } }
                }
            }
            @for row in groups.iter().filter(|row| row.lacks_consumer()) {
                @let wait = if row.unfinished().is_some() { "wait" } else { "may wait" };
                p.problem { "No consumer of " code { (row.group) } " is alive, and entries " (wait) "." }
            }
        }
        @if visit.may_change() { (pause_forms(visit, &handlers)) }
    })
}

fn handler_table(visit: &Visit, handlers: &[HandlerRow]) -> Markup {
    let rows = html! {
        @for row in handlers {
            tr {
                th scope="row" { (row.handler) }
                td { (row.group) }
                td.number { (number(row.shards.len() as u64)) }
                td { (row.remark().map_or_else(|| optional(row.owner()), str::to_owned)) }
                td.number { (seconds(row.lag.seconds)) }
                td.number { (position(Some(&row.position.to_string()))) }
                td.number { (number(row.waiting)) }
                td.number {
                    a href=(visit.link("dead-letters", &[("handler", &row.handler)])) { (number(row.dead_letters)) }
                }
            }
        }
    };
    table("Handlers", "Handler, Group, Shards>, Owner, Lag>, Position>, Waiting>, Dead letters>", &rows)
}

/// The forms that pause and resume the groups of handlers.
fn pause_forms(visit: &Visit, handlers: &[HandlerRow]) -> Markup {
    let groups: BTreeMap<_, _> = handlers.iter().map(|row| (&row.group, row.is_paused)).collect();
    html! {
        @if !groups.is_empty() {
            section aria-labelledby="pause" {
                h2 #pause { "Pause or resume" }
                p { "Running handlers of a paused group end, and none begins, also after a restart." }
                div.actions {
                    @for (group, is_paused) in groups {
                        form method="post" action=(visit.link(if is_paused { "resume" } else { "pause" }, &[])) {
                            input type="hidden" name="group" value=(group);
                            button { (if is_paused { "Resume " } else { "Pause " }) (group) }
                        }
                    }
                }
            }
        }
    }
}
