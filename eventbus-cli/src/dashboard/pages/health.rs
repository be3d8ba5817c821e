//! Health: the alerts of the app, what store and bus show of readers and groups, and the doctor's findings.

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
    let (mut summary, mut alerts, mut is_reachable) = (None, Vec::new(), true);
    if let Some(app) = source.app() {
        let health = app.health().await;
        alerts = health.alerts(&HealthThresholds::default());
        is_reachable = health.connected && health.store.is_none();
        summary = Some((health.status, health.is_ready()));
    }
    if is_reachable {
        let found = findings(source).await?;
        let is_known = |finding: &Finding| {
            finding.subject.as_ref().is_some_and(|subject| alerts.iter().any(|alert| alert.contains(subject)))
        };
        let found: Vec<_> =
            found.into_iter().filter(|finding| !is_known(finding)).map(|finding| finding.text).collect();
        alerts.extend(found);
    }
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

/// What store and bus show, with or without the application.
struct Finding {
    /// What it is about, as an alert of the application names it: an alert about the same replaces the finding. `None` if
    /// the application has no such alert.
    subject: Option<String>,
    text: String,
}

/// Finds readers that are behind or halted, groups that nothing consumes, and dead letters.
async fn findings(source: &DashboardSource) -> Result<Vec<Finding>, CommandError> {
    let own_relay = source.bus().as_bus().destination();
    let subject_of = |kind: ReaderSort, name: &str| match kind {
        ReaderSort::Relay if *name == **own_relay => Some("relay".to_owned()),
        ReaderSort::Projection => Some(format!("projection `{name}`")),
        ReaderSort::Relay | ReaderSort::Group => None,
    };
    let mut found = Vec::new();
    for row in source.lags().await? {
        if row.events == Some(0) || row.position.is_none() && row.seconds.is_none() {
            continue;
        }
        let (kind, name, subject) = (row.kind.as_str(), &row.name, subject_of(row.kind, &row.name));
        let Some(seconds) = row.seconds else {
            let what = "how far it is behind is unknown";
            let text = format!("the store cannot read the next event of {kind} `{name}`: {what}");
            found.push(Finding { subject, text });
            continue;
        };
        if seconds > lag_max() {
            // the role of a reader is one process's; a group has none
            let lacks_owner = row.kind != ReaderSort::Group && row.owner.is_none() && row.position.is_some();
            let owner = if lacks_owner { "; no process has its role" } else { "" };
            found.push(Finding { subject, text: format!("{kind} `{name}` is behind by {seconds:.0} s{owner}") });
        }
    }
    if source.optional_store().is_some() {
        for row in source.relays().await?.into_iter().filter(|row| row.halted_at.is_some()) {
            let text = format!("the relay to `{}` has stopped until an operator decides", row.destination);
            found.push(Finding { subject: subject_of(ReaderSort::Relay, &row.destination), text });
        }
    }
    for row in source.groups().await?.0 {
        let text = match row.is_lost {
            true => format!("the server has lost group `{}`", row.group),
            false if row.lacks_consumer() => format!("group `{}` has unfinished entries and no consumer", row.group),
            false => continue,
        };
        found.push(Finding { subject: None, text });
    }
    let dead = source.count_dead().await?;
    if dead.number > 0 {
        let text = format!("{dead} dead letters wait for an operator");
        found.push(Finding { subject: Some("dead letters".into()), text });
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
