//! A real Prometheus reads the metrics of an app on PostgreSQL and Redis: its page, and by it the queries of the dashboard
//! and the alert rules.
//!
//! `apt-get install prometheus`, then `cargo test -p workspace-tests --test metrics -- --ignored`.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod prometheus;
mod shop;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use axum::Router;
use eventbus::{App, axum::metrics_route};
use eventbus_redis::RedisEventBusConfig;
use prometheus::{Prometheus, SCRAPE_INTERVAL, promtool};
use serde_json::Value;
use workspace_tests::source::workspace;

/// The time limit of the whole run.
const LONGEST: Duration = Duration::from_secs(180);

/// The alerts that the shop raises.
const RAISED: [&str; 3] = ["EventbusDeadLettersGrowing", "EventbusHandlerPanics", "EventbusHandlerTimeouts"];

/// A panel or an alert, and a query of it.
type Query = (String, String);

fn path(file: &str) -> PathBuf {
    workspace().join("docs/metrics").join(file)
}

/// Returns the queries of the panels of the dashboard; each panel has one, but for the headings.
fn panels() -> Vec<Query> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path("grafana-dashboard.json")).unwrap()).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let text = target["expr"].as_str().unwrap().replace("$job", "shop").replace("$__rate_interval", "20s");
            assert!(!text.contains('$'), "{text}");
            queries.push((format!("panel {}", panel["title"]), text));
        }
    }
    queries
}

/// Returns a query for each metric of each alert rule, with its labels: a rule whose metric is missing never fires.
fn metrics_of_alerts(rules: &str) -> Vec<Query> {
    let mut queries = Vec::new();
    let mut alert = "";
    for line in rules.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alert = name;
        } else if let Some(expression) = line.strip_prefix("expr: ") {
            let before = queries.len();
            queries.extend(selectors(expression).map(|metric| (format!("alert {alert}"), metric)));
            assert!(queries.len() > before, "{line}");
        }
    }
    queries
}

/// Returns the metrics of an expression, each with the labels that it selects.
fn selectors(expression: &str) -> impl Iterator<Item = String> {
    expression.match_indices("eventbus_").map(|(start, _)| {
        let rest = &expression[start..];
        let name_end = rest.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(rest.len());
        let end = if rest[name_end..].starts_with('{') { rest.find('}').unwrap() + 1 } else { name_end };
        rest[..end].to_owned()
    })
}

#[test]
fn selectors_are_metrics_with_their_labels() {
    let expression =
        r#"sum by (job) (increase(eventbus_a_count{outcome="x"}[10m])) > 0 or eventbus_b unless eventbus_c"#;
    let selectors: Vec<_> = selectors(expression).collect();
    assert_eq!(selectors, [r#"eventbus_a_count{outcome="x"}"#, "eventbus_b", "eventbus_c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs `prometheus` and `promtool`: apt-get install prometheus"]
async fn prometheus_reads_the_page_and_fills_each_panel_and_each_alert_rule() {
    let rules = path("alert-rules.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "").unwrap();
    promtool(&["test", "rules", path("alert-rules.test.yml").to_str().unwrap()], "").unwrap();

    let (database, redis) = (eventbus_test::postgres(), eventbus_test::redis());
    let config = RedisEventBusConfig {
        redis_url: redis.url().into(),
        stream_prefix: redis.prefix().into(),
        block_ms: 50,
        retry_delay_ms: 20,
        ..RedisEventBusConfig::default()
    };
    let app = shop::start(&database, config).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let served = axum::serve(listener, Router::new().merge(metrics_route(&app)));
    tokio::spawn(async move { served.await });
    let prometheus = Prometheus::start(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus"), &target, &rules);

    let mut empty = panels();
    assert!(empty.len() > 40);
    empty.extend(metrics_of_alerts(&fs::read_to_string(&rules).unwrap()));
    let raised = |alert| format!("ALERTS{{alertname=\"{alert}\"}}");
    empty.extend(RAISED.map(|alert| (format!("alert {alert}"), raised(alert))));
    let (began, mut orders) = (Instant::now(), 0..30);
    while !empty.is_empty() {
        shop::save_orders(&app, orders.clone()).await;
        orders = orders.end..orders.end + 30;
        app.rebuild::<shop::Sales>().await.unwrap();
        tokio::time::sleep(SCRAPE_INTERVAL).await;
        empty.retain(|(_, query)| !prometheus.has_number(query));
        assert!(began.elapsed() < LONGEST, "{empty:#?}");
    }
    // a query without numbers is seen
    for nothing in ["eventbus_no_such_metric", "vector(0) / 0"] {
        assert!(!prometheus.has_number(nothing), "{nothing}");
    }
    // the app is well, apart from its handlers
    let further = format!("ALERTS{{alertname!~\"{}\"}}", RAISED.join("|"));
    loop {
        let alerts = prometheus.query(&further).unwrap();
        if alerts.is_empty() {
            break;
        }
        assert!(began.elapsed() < LONGEST, "{alerts}");
        tokio::time::sleep(SCRAPE_INTERVAL).await;
    }
    promtool(&["check", "metrics"], &app.metrics().await.to_prometheus_text()).unwrap();
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reclaimed_deliveries_and_reconnections_are_counted() {
    let (database, redis) = (eventbus_test::postgres(), eventbus_test::private_redis());
    let config =
        RedisEventBusConfig { redis_url: redis.url().into(), pending_idle_ms: 300, ..RedisEventBusConfig::default() };
    let app = shop::start(&database, config.clone()).await;
    shop::save_orders(&app, 1..2).await;
    app.settled().await.unwrap();
    app.shutdown(Duration::from_secs(60)).await.unwrap();

    // a consumer reads one more entry, and dies
    let (mut server, stream) = (eventbus_test::internal::redis_connection(redis.url()).await, config.stream_name());
    let entries: Vec<(String, Vec<String>)> =
        redis::cmd("XRANGE").arg(&[&stream, "-", "+", "COUNT", "1"]).query_async(&mut server).await.unwrap();
    let _: String = redis::cmd("XADD").arg(&stream).arg("*").arg(&entries[0].1).query_async(&mut server).await.unwrap();
    let read = ["GROUP", "mail", "dead", "COUNT", "1", "STREAMS", &stream, ">"];
    let _: redis::Value = redis::cmd("XREADGROUP").arg(&read).query_async(&mut server).await.unwrap();

    let app = shop::start(&database, config).await;
    wait_for_count(&app, "eventbus_deliveries_reclaimed_total").await;
    assert_eq!(app.metrics().await.number("eventbus_bus_reconnections_total", &[]), Some(0.0));
    let _: u64 = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).query_async(&mut server).await.unwrap();
    wait_for_count(&app, "eventbus_bus_reconnections_total").await;
    assert_eq!(app.metrics().await.number("eventbus_deliveries_reclaimed_total", &[]), Some(1.0));
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Waits until a counter is not 0.
async fn wait_for_count(app: &App, counter: &str) {
    let waiting = async {
        while app.metrics().await.number(counter, &[]).is_none_or(|count| count == 0.0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("{counter} stays 0"));
}
