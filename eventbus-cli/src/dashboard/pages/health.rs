//! Health: the alerts of the app, what readers lack, and the doctor's findings.

use eventbus::health::HealthThresholds;
use maud::{Markup, html};

use crate::{
    dashboard::{parts::table, source::DashboardSource, visit::Visit},
    doctor::Report,
    error::CommandError,
    query::ReaderSort,
};

/// The seconds after which a lag is an alert, as in [`HealthThresholds`].
fn lag_max() -> f64 {
    HealthThresholds::default().lag_seconds as f64
}

pub(in crate::dashboard) async fn health(visit: &Visit) -> Result<Markup, CommandError> {
    content(visit, &[]).await
}

/// Examines the servers, and shows the doctor's findings beside what [`health`] shows.
pub(in crate::dashboard) async fn examine(visit: &Visit) -> Result<Markup, CommandError> {
    let reports = match visit.inner().source().examine() {
        Some(examine) => examine().await?,
        None => Vec::new(),
    };
    content(visit, &reports).await
}

async fn content(visit: &Visit, reports: &[Report]) -> Result<Markup, CommandError> {
    let source = visit.inner().source();
    let (summary, alerts) = match source.app() {
        Some(app) => {
            let health = app.health().await;
            (Some((health.status, health.is_ready())), health.alerts(&HealthThresholds::default()))
        }
        None => (None, findings(source).await?),
    };
    Ok(html! {
        @if let Some((status, is_ready)) = summary {
            dl.facts {
                div { dt { "This process" } dd { (status) } }
                div { dt { "Ready for requests" } dd { @if is_ready { "yes" } @else { "no" } } }
            }
        }
        @if alerts.is_empty() { p.done { "No alerts." } } @else {
            ul.problems { @for alert in &alerts { li { (alert) } } }
        }
        @if source.examine().is_some() {
            section aria-labelledby="doctor" {
                h2 #doctor { "Doctor" }
                form method="post" action=(visit.link("examine", &[])) {
                    button { "Examine the servers" }
                }
                @for report in reports { (report_content(report)) }
            }
        }
    })
}

/// What store and bus show of readers that are behind, without the application.
async fn findings(source: &DashboardSource) -> Result<Vec<String>, CommandError> {
    let mut found = Vec::new();
    for row in source.lags().await? {
        if row.events == Some(0) || row.position.is_none() && row.seconds.is_none() {
            continue;
        }
        let (kind, name) = (row.kind.as_str(), &row.name);
        let Some(seconds) = row.seconds else {
            found.push(format!(
                "the store cannot read the next event of {kind} `{name}`: how far it is behind is unknown"
            ));
            continue;
        };
        if seconds > lag_max() {
            // the role of a reader is one process's; a group has none
            let lacks_owner = row.kind != ReaderSort::Group && row.owner.is_none() && row.position.is_some();
            let owner = if lacks_owner { "; no process has its role" } else { "" };
            found.push(format!("{kind} `{name}` is behind by {seconds:.0} s{owner}"));
        }
    }
    if source.optional_store().is_some() {
        let halted = source.relays().await?.into_iter().filter(|row| row.halted_at.is_some());
        found.extend(
            halted.map(|row| format!("the relay to `{}` has stopped until an operator decides", row.destination)),
        );
    }
    for row in source.groups().await?.0 {
        if row.is_lost {
            found.push(format!("the server has lost group `{}`", row.group));
        } else if row.lacks_consumer() {
            found.push(format!("group `{}` has unfinished entries and no consumer", row.group));
        }
    }
    let dead = source.count_dead().await?;
    if dead.number > 0 {
        found.push(format!("{dead} dead letters wait for an operator"));
    }
    Ok(found)
}

fn report_content(report: &Report) -> Markup {
    let columns =
        [("Check", false), ("Severity", false), ("Finding", false), ("Consequence", false), ("Repair", false)];
    let rows = html! {
        @for found in report.findings() {
            tr {
                th scope="row" { code { (found.check) } }
                td { (found.finding.severity) }
                td.text { (found.finding.finding) }
                td.text { (found.finding.consequence) }
                td.text { (found.finding.repair) }
            }
        }
    };
    html! {
        @if report.findings().is_empty() { p.done { "No finding." } } @else {
            (table("Findings, the worst first", &columns, &rows))
        }
        @if !report.not_checked().is_empty() {
            h3 { "Not checked" }
            ul { @for check in report.not_checked() { li { code { (check.check) } ": " (check.reason) } } }
        }
        details {
            summary { (report.healthy().len()) " checks found all well" }
            p { (report.healthy().join(", ")) }
        }
    }
}
