//! Health: the alerts of the app, findings about readers and groups from store and bus, and the doctor's findings.

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
        match findings(source).await {
            Ok(found) => {
                let is_new = |finding: &Finding| {
                    alerts.iter().all(|alert| finding.replaced_by.iter().all(|part| !alert.contains(part)))
                };
                let found: Vec<_> = found.into_iter().filter(is_new).map(|finding| finding.text).collect();
                alerts.extend(found);
            }
            Err(error) if summary.is_none() => return Err(error),
            Err(error) => alerts.push(format!("readers and groups are not shown: {}", error.to_line())),
        }
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

/// A finding from store and bus, with or without the application.
struct Finding {
    text: String,
    /// Parts of alerts of the application that report the same.
    replaced_by: Vec<String>,
}

/// Finds readers that are behind or halted, groups without a consumer, and dead letters; while the bus does not answer,
/// what the store knows of them.
async fn findings(source: &DashboardSource) -> Result<Vec<Finding>, CommandError> {
    const RELAY_STOPPED: &str = "the relay does not publish: ";
    let own_relay = source.bus().as_bus().destination();
    let mut found = Vec::new();
    let lags = source.lags().await?;
    for row in lags.rows {
        if row.events == Some(0) || row.is_at_rest() || row.position.is_none() && row.seconds.is_none() {
            continue;
        }
        let (kind, name) = (row.kind.as_str(), &row.name);
        let replaced_by = match row.kind {
            ReaderSort::Projection => vec![format!("projection `{name}`")],
            ReaderSort::Relay if **name == **own_relay => vec!["relay lags: ".to_owned(), RELAY_STOPPED.to_owned()],
            ReaderSort::Relay => Vec::new(),
            ReaderSort::Handler | ReaderSort::Group => vec![format!("`{name}`")],
        };
        let text = match row.seconds {
            None => {
                format!("the store cannot read the next event of {kind} `{name}`: how far it is behind is unknown")
            }
            Some(seconds) if seconds > lag_max() => {
                // one process has the role of a reader; a group has no role
                let lacks_owner = row.kind != ReaderSort::Group && row.owner.is_none() && row.position.is_some();
                let owner = match row.kind {
                    ReaderSort::Handler if lacks_owner => "; no process runs it",
                    _ if lacks_owner => "; no process has its role",
                    _ => "",
                };
                format!("{kind} `{name}` is behind by {seconds:.0} s{owner}")
            }
            Some(_) => continue,
        };
        found.push(Finding { text, replaced_by });
    }
    if source.optional_store().is_some() {
        let relays = match lags.bus_problem {
            Some(_) => source.stored_relays().await?,
            None => source.relays().await?.rows,
        };
        for row in relays.into_iter().filter(|row| row.halted_at.is_some()) {
            let text = format!("the relay to `{}` has stopped until an operator decides", row.destination);
            let is_own = *row.destination == **own_relay;
            found.push(Finding { text, replaced_by: is_own.then(|| RELAY_STOPPED.to_owned()).into_iter().collect() });
        }
    }
    if let Some(problem) = lags.bus_problem {
        let text = format!("groups and dead letters are not shown: {problem}");
        found.push(Finding { text, replaced_by: Vec::new() });
        return Ok(found);
    }
    for row in source.groups().await? {
        if row.lacks_consumer() {
            let text = format!("group `{}` has unfinished entries and no consumer", row.group);
            found.push(Finding { text, replaced_by: Vec::new() });
        }
    }
    let dead = source.count_dead().await?;
    if dead.number > 0 {
        let text = format!("{dead} dead letters wait for an operator");
        found.push(Finding { text, replaced_by: vec![" dead letters, more than ".to_owned()] });
    }
    Ok(found)
}

fn report_content(report: &Report) -> Markup {
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
            (table("Findings, the worst first", "Check, Severity, Finding, Consequence, Repair", &rows))
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
