//! The consumer groups of the bus.

use std::time::Duration;

use maud::{Markup, html};

use crate::{
    dashboard::{
        parts::{number, optional, position, seconds, table},
        source::DEAD_LETTERS_READ_MAX,
        visit::Visit,
    },
    error::CommandError,
    output::age,
};

pub(in crate::dashboard) async fn groups(visit: &Visit) -> Result<Markup, CommandError> {
    let (groups, are_all_counted) = visit.inner().source().groups().await?;
    let has_pages = visit.inner().source().has_group_pages();
    let columns = [
        ("Group", false),
        ("Consumers", true),
        ("Pending", true),
        ("Oldest", true),
        ("Unread", true),
        ("Lag", true),
        ("Dead letters", true),
        ("Finished", true),
        ("Trimming", false),
    ];
    let rows = html! {
        @for row in &groups {
            tr {
                th scope="row" {
                    @if has_pages {
                        a href=(visit.link("group", &[("name", &row.group)])) { (row.group) }
                    } @else {
                        (row.group)
                    }
                }
                td.number { (optional(row.consumers.map(number))) }
                td.number { (optional(row.pending.map(number))) }
                td.number { (optional(row.oldest_ms.map(|oldest| age(Duration::from_millis(oldest))))) }
                td.number { (optional(row.unread.map(number))) }
                td.number { (seconds(row.seconds)) }
                td.number {
                    a href=(visit.link("dead-letters", &[("group", &row.group)])) { (number(row.dead_letters)) }
                }
                td.number { (position(row.position.as_deref())) }
                td { @if row.holds_trim { "holds it" } }
            }
        }
    };
    Ok(html! {
        div data-live {
            @if groups.is_empty() { p { "The bus knows no group." } } @else { (table("Consumer groups", &columns, &rows)) }
            @if !are_all_counted {
                p.hint { "Of the dead letters the oldest " (DEAD_LETTERS_READ_MAX) " are counted; there are more." }
            }
            @if groups.iter().any(|row| row.pending.is_none()) {
                p.hint { "The command " code { "groups" } " counts the pending deliveries: it reads each of them." }
            }
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
    })
}
