//! The overview: throughput, lag of all readers, the number of dead letters.

use eventbus::health::HealthThresholds;
use maud::{Markup, html};

use crate::{
    dashboard::{
        chart::line_chart,
        parts::{number, optional, position, seconds, table, time},
        visit::Visit,
    },
    error::CommandError,
    query::{LagRow, ReaderSort},
};

/// The readers that have a chart of their own.
const CHARTS_MAX: usize = 12;

pub(in crate::dashboard) async fn overview(visit: &Visit) -> Result<Markup, CommandError> {
    let source = visit.inner().source();
    let (read_at, lags) = visit.inner().samples().latest_lags(source).await?;
    let dead = match lags.bus_problem {
        Some(_) => None,
        None => source.count_dead().await.ok(),
    };
    let head = match source.optional_store() {
        Some(store) => Some((store.describe(), store.head().await?.to_string())),
        None => None,
    };
    let alerts = match source.app() {
        Some(app) => app.health().await.alerts(&HealthThresholds::default()),
        None => Vec::new(),
    };
    let (now, samples) = (source.clock().now(), visit.inner().samples());
    let bus = source.bus().as_bus().describe();
    Ok(html! {
        div data-live {
            @if !alerts.is_empty() {
                section aria-labelledby="alerts" {
                    h2 #alerts { "Alerts" }
                    ul.problems { @for alert in &alerts { li { (alert) } } }
                }
            }
            dl.facts {
                @if let Some((store, head)) = &head {
                    div { dt { "Store" } dd { (store) } }
                    div { dt { "Last position" } dd { (position(Some(head))) } }
                }
                div { dt { "Bus" } dd { (bus) } }
                div {
                    dt { "Dead letters" }
                    dd { a href=(visit.link("dead-letters", &[])) { (dead.map_or_else(|| "unknown".into(), |dead| dead.to_string())) } }
                }
            }
            @if head.is_some() {
                section aria-labelledby="throughput" {
                    h2 #throughput { "Throughput" }
                    (line_chart("Stored", "events/s", &samples.throughput(now)))
                }
            }
            section aria-labelledby="lag" {
                h2 #lag { "Lag" }
                @if let Some(problem) = &lags.bus_problem {
                    p.problem role="alert" { "Groups, and what the bus holds, are not shown: " (problem) }
                }
                @if lags.rows.is_empty() { p { "No projection, relay, handler or group is known." } } @else {
                    (lag_table(visit, &lags.rows))
                    p.hint { "Read at " (time(Some(read_at))) }
                }
            }
            @for row in lags.rows.iter().take(CHARTS_MAX) {
                section aria-label=(format!("Lag of {} {}", row.kind.as_str(), row.name)) {
                    h3 { (row.kind.as_str()) " " code { (row.name) } }
                    (line_chart("Lag", "s", &samples.lag(row.kind, &row.name, now)))
                }
            }
        }
    })
}

fn lag_table(visit: &Visit, lags: &[LagRow]) -> Markup {
    let page = |kind| match kind {
        ReaderSort::Projection => "projections",
        ReaderSort::Relay => "relay",
        ReaderSort::Handler | ReaderSort::Group => "groups",
    };
    let rows = html! {
        @for row in lags {
            tr {
                th scope="row" { a href=(visit.link(page(row.kind), &[])) { (row.name) } }
                td { (row.kind.as_str()) }
                td.number { (seconds(row.seconds)) }
                td.number { (optional(row.events.map(number))) }
                td.number { (position(row.position.as_deref())) }
                td { (row.remark.map_or_else(|| optional(row.owner.as_ref()), str::to_owned)) }
            }
        }
    };
    table("How far the readers are behind", "Reader, Kind, Lag>, Events>, Position>, Owner", &rows)
}
