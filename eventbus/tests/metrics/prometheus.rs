//! A real Prometheus reads the page, the alert rules, and the queries of the dashboard.
//!
//! `apt-get install prometheus`, then `cargo test -p eventbus --test metrics -- --ignored`.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::Router;
use eventbus::axum::metrics_route;

use crate::{
    counts::save_orders,
    files::{collect, read},
    route::OF_SERVERS,
    shop::{self, Sales, SharedCounts},
};

const LONGEST: Duration = Duration::from_secs(60);

struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs `promtool` with a text as its input; returns its output, or its complaint.
fn promtool(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("`promtool` is installed: apt-get install prometheus");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let [said, complaint] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    if output.status.success() && complaint.is_empty() { Ok(said) } else { Err(format!("{said}{complaint}")) }
}

/// Starts Prometheus, which scrapes an address every second.
fn start(folder: &Path, target: &str, port: u16) -> Prometheus {
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [{}]\n\
         scrape_configs: [{{ job_name: shop, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
        path("alert-rules.yml")
    );
    fs::write(folder.join("prometheus.yml"), config).unwrap();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Prometheus(child.expect("`prometheus` is installed: apt-get install prometheus"))
}

/// Returns `true` if a query has no result; also as long as Prometheus does not listen.
fn is_empty(url: &str, query: &str) -> bool {
    promtool(&["query", "instant", url, query], "").unwrap_or_default().trim().is_empty()
}

fn path(file: &str) -> String {
    format!("{}/../docs/metrics/{file}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
#[ignore = "needs `prometheus` and `promtool`: apt-get install prometheus"]
async fn prometheus_reads_the_page_and_the_rules_and_fills_each_panel() {
    promtool(&["check", "rules", &path("alert-rules.yml")], "").unwrap();
    promtool(&["test", "rules", &path("alert-rules.test.yml")], "").unwrap();

    let app = shop::start(&SharedCounts::default(), |builder| builder).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let served = axum::serve(listener, Router::new().merge(metrics_route(&app)));
    tokio::spawn(async move { served.await });
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus");
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    // free a moment ago
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _prometheus = start(&folder, &target, port);

    let dashboard = serde_json::from_str(&read("grafana-dashboard.json")).unwrap();
    let mut expressions = Vec::new();
    collect(&dashboard, "expr", &mut expressions);
    let fill_in = |text: &str| text.replace("$job", "shop").replace("$__rate_interval", "20s");
    let mut empty: Vec<_> = expressions.into_iter().map(|text| fill_in(text.as_str().unwrap())).collect();
    empty.retain(|expression| !OF_SERVERS.iter().any(|metric| expression.contains(metric)));
    let (url, began) = (format!("http://127.0.0.1:{port}"), Instant::now());
    let mut orders = 0..30;
    while !empty.is_empty() {
        save_orders(&app, orders.clone()).await;
        orders = orders.end..orders.end + 30;
        app.advance(Duration::from_mins(10)).await;
        app.rebuild::<Sales>().await.unwrap();
        // this thread also answers Prometheus, which asks every second
        tokio::time::sleep(Duration::from_secs(1)).await;
        empty.retain(|text| is_empty(&url, text));
        assert!(began.elapsed() < LONGEST, "{empty:#?}");
    }
    assert!(is_empty(&url, "eventbus_no_such_metric"));
    promtool(&["check", "metrics"], &app.metrics().await.to_prometheus_text()).unwrap();
}
