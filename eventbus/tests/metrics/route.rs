//! The page for Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use eventbus::{App, axum::metrics_route, prelude::*, testkit::TestApp};
use tower_service::Service;

use crate::{
    page::{self, Family},
    shop::{self, Booked, Paid, SharedCounts},
};

/// Metrics without samples in memory and without a bus: the store joins no appends, and nothing relays.
const OF_SERVERS: [&str; 7] = [
    "eventbus_commit_appends",
    "eventbus_relay_failing",
    "eventbus_relay_lag_events",
    "eventbus_relay_lag_seconds",
    "eventbus_relay_leader",
    "eventbus_relay_published_total",
    "eventbus_relay_stopped",
];

/// The metrics that the documentation lists, with their labels.
pub(crate) fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let docs = include_str!("../../src/docs/metrics.md");
    let rows = docs.lines().filter(|line| line.starts_with("| `eventbus_"));
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let cells = rows.map(|row| row.split('|').map(names).collect::<Vec<_>>());
    cells.map(|cells| (cells[1].first().unwrap().clone(), cells[4].clone())).collect()
}

/// Gets the page of an app as Prometheus does.
pub(crate) async fn scrape(app: &App) -> BTreeMap<String, Family> {
    let mut router: Router = Router::new().merge(metrics_route(app));
    let response = router.call(Request::get("/metrics").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    page::parse(std::str::from_utf8(&body).unwrap())
}

/// An app of which every metric has a sample, but for those of stores on a server.
pub(crate) async fn busy_app() -> TestApp {
    let app = shop::start(&SharedCounts::default(), |builder| builder).await;
    for number in 1..10 {
        app.save(format!("o-{number}"), Booked { seat: "x".into() }).await;
        app.save(format!("o-{number}"), Paid { cents: number }).await;
    }
    app.advance(Duration::from_hours(1)).await;
    app
}

#[tokio::test]
async fn the_page_parses_and_holds_every_metric_of_the_documentation() {
    let app = busy_app().await;
    let families = scrape(&app).await;
    let documented = documented();
    assert!(documented.len() > 40);
    assert!(families.keys().eq(documented.keys()), "{families:?}");
    let empty: Vec<_> = families.iter().filter(|(_, family)| family.samples.is_empty()).map(|(name, _)| name).collect();
    assert_eq!(empty, OF_SERVERS);
    for (name, family) in &families {
        for (_, labels, _) in &family.samples {
            let labels = labels.keys().filter(|label| *label != "le");
            assert!(labels.eq(&documented[name]), "{name}");
        }
    }
    assert!(families.values().all(|family| !family.kind.is_empty() && family.help.ends_with('.')));
}

#[handler(name = "a \"quoted\\ name")]
async fn quoted(_: &Paid) {}

#[tokio::test]
async fn names_with_quotes_are_escaped() {
    let app = TestApp::start(|| App::builder().handler::<quoted>()).await;
    let families = scrape(&app).await;
    let handlers: BTreeSet<_> = families["eventbus_handler_retries_total"]
        .samples
        .iter()
        .map(|(_, labels, _)| labels["handler"].clone())
        .collect();
    assert_eq!(handlers.into_iter().collect::<Vec<_>>(), [r#"a \"quoted\\ name"#]);
}

#[tokio::test]
async fn an_app_that_only_consumes_has_no_metrics_of_a_store() {
    let app = App::builder().bus(eventbus::InMemoryEventBus::new()).start().await.unwrap();
    let families = scrape(&app).await;
    let with_samples: Vec<_> =
        families.iter().filter(|(_, family)| !family.samples.is_empty()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        with_samples,
        [
            "eventbus_build_info",
            "eventbus_bus_reconnections_total",
            "eventbus_bus_up",
            "eventbus_dead_letters",
            "eventbus_dead_letters_total",
            "eventbus_deliveries_reclaimed_total",
            "eventbus_deliveries_total",
        ]
    );
}
