//! The dashboard and the alert rules use metrics and labels that a running app has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::Value;

use crate::{
    page::Family,
    route::{busy_app, documented, scrape},
};

/// Labels that Prometheus adds.
const OF_THE_SCRAPE: [&str; 2] = ["job", "instance"];

fn read(file: &str) -> String {
    fs::read_to_string(format!("{}/../docs/metrics/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A query with its metrics, each with the labels of its matchers, and the labels by which it groups.
#[derive(Debug, PartialEq)]
struct Query {
    metrics: Vec<(String, BTreeSet<String>)>,
    grouped_by: BTreeSet<String>,
}

impl Query {
    /// Reads an expression of PromQL, as far as the files use it.
    fn parse(expression: &str) -> Self {
        let (mut metrics, mut grouped_by) = (Vec::new(), BTreeSet::new());
        let mut rest = expression;
        while let Some(start) = rest.find(|char: char| char.is_ascii_alphabetic() || char == '_') {
            rest = &rest[start..];
            let end = rest.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = after;
            let in_parentheses = |after: &str| {
                let inner = after.trim_start().strip_prefix('(').unwrap().split_once(')').unwrap().0.to_owned();
                inner.split(',').map(|label| label.trim().to_owned()).collect::<BTreeSet<_>>()
            };
            if word == "by" {
                grouped_by.extend(in_parentheses(after));
                rest = after.split_once(')').unwrap().1;
            } else if word.starts_with("eventbus_") {
                let mut labels = BTreeSet::new();
                if let Some(matchers) = after.strip_prefix('{') {
                    let (matchers, after) = matchers.split_once('}').unwrap();
                    let label = |matcher: &str| matcher.split(['=', '!']).next().unwrap().trim().to_owned();
                    labels.extend(matchers.split(',').map(label));
                    rest = after;
                }
                metrics.push((word.to_owned(), labels));
            } else if let Some(range) = rest.strip_prefix('[') {
                rest = range.split_once(']').unwrap().1;
            }
        }
        Self { metrics, grouped_by }
    }
}

/// Returns the labels of a series, or `None` if the page has no such metric.
fn labels_of(families: &BTreeMap<String, Family>, series: &str) -> Option<BTreeSet<String>> {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
        let name = series.strip_suffix(suffix)?;
        families.get(name).filter(|family| family.kind == "histogram").map(|_| name)
    });
    let plain = || families.get(series).filter(|family| family.kind != "histogram").map(|_| series);
    let mut labels = documented().remove(of_histogram.or_else(plain)?)?;
    if series.ends_with("_bucket") {
        labels.insert("le".into());
    }
    Some(labels)
}

/// Returns the metrics and labels of an expression that the page does not have.
fn unknown(families: &BTreeMap<String, Family>, expression: &str) -> Vec<String> {
    let query = Query::parse(expression);
    let mut unknown = Vec::new();
    if query.metrics.is_empty() {
        unknown.push(format!("{expression}: no metric"));
    }
    for (series, matched) in &query.metrics {
        match labels_of(families, series) {
            None => unknown.push(format!("{expression}: no metric {series}")),
            Some(known) => {
                let wanted = matched.iter().chain(&query.grouped_by);
                let missing =
                    wanted.filter(|label| !known.contains(*label) && !OF_THE_SCRAPE.contains(&label.as_str()));
                unknown.extend(missing.map(|label| format!("{expression}: {series} has no label {label}")));
            }
        }
    }
    unknown
}

/// Collects the texts under `key` in a JSON document.
fn collect<'a>(json: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match json {
        Value::Object(map) => map.iter().for_each(|(name, value)| match name == key {
            true => found.push(value),
            false => collect(value, key, found),
        }),
        Value::Array(values) => values.iter().for_each(|value| collect(value, key, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_dashboard_shows_metrics_that_exist() {
    let app = busy_app().await;
    let families = scrape(&app).await;
    let dashboard: Value = serde_json::from_str(&read("grafana-dashboard.json")).unwrap();
    let mut expressions = Vec::new();
    collect(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() > 40);
    let expressions: Vec<_> = expressions.into_iter().map(|expression| expression.as_str().unwrap()).collect();
    let wrong: Vec<_> = expressions.iter().flat_map(|expression| unknown(&families, expression)).collect();
    assert_eq!(wrong, [""; 0]);

    // it belongs to no server: Prometheus is a variable, and Grafana gives the id
    assert_eq!(dashboard["id"], Value::Null);
    let mut sources = Vec::new();
    collect(&dashboard, "datasource", &mut sources);
    assert!(sources.iter().all(|source| source["uid"] == "${datasource}"), "{sources:?}");
    for panel in dashboard["panels"].as_array().unwrap() {
        let says = |key: &str| panel[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(says("title") && (panel["type"] == "row" || says("description")), "{panel}");
    }
}

/// An alert rule: its fields, with those of labels and annotations, and their values.
type Rule = BTreeMap<String, String>;

/// Reads the rules; the file has one field in a line.
fn rules(file: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for line in file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line}"));
        if key == "- alert" {
            rules.push(Rule::new());
        }
        let value = value.trim();
        if let Some(rule) = rules.last_mut().filter(|_| !value.is_empty()) {
            assert!(
                rule.insert(key.trim_start_matches("- ").into(), value.trim_matches('"').into()).is_none(),
                "{line}"
            );
        }
    }
    rules
}

#[tokio::test]
async fn the_alerts_watch_metrics_that_exist_and_say_what_to_do() {
    let app = busy_app().await;
    let families = scrape(&app).await;
    let rules = rules(&read("alert-rules.yml"));
    let names: BTreeSet<_> = rules.iter().map(|rule| &rule["alert"]).collect();
    assert!(names.len() == rules.len() && rules.len() > 12);
    let cases = read("alert-rules.test.yml");
    for rule in &rules {
        let fires = format!("{{alertname=\"{}\",", rule["alert"]);
        assert!(cases.contains(&fires), "no case in which {} fires", rule["alert"]);
        assert_eq!(unknown(&families, &rule["expr"]), [""; 0]);
        assert!(["page", "ticket"].contains(&rule["severity"].as_str()) && rule["for"].ends_with('m'), "{rule:?}");
        assert!(rule["summary"].len() > 20 && rule["description"].len() > 100, "{rule:?}");
        assert!(rule["guide"].starts_with("operating.md#"), "{rule:?}");
        // the texts name only labels that the alert keeps
        let kept = Query::parse(&rule["expr"]).grouped_by;
        for text in [&rule["summary"], &rule["description"]] {
            let labels = text.split("$labels.").skip(1).map(|rest| rest.split([' ', '}']).next().unwrap());
            assert_eq!(labels.filter(|label| !kept.contains(*label)).collect::<Vec<_>>(), [""; 0], "{text}");
        }
    }
    for subject in ["store", "bus", "feed", "relay", "projection", "dead_letters", "group", "handler"] {
        let prefix = format!("eventbus_{subject}_");
        let is_of =
            |rule: &&Rule| rule["expr"].contains(&prefix) || rule["expr"].contains(&format!("eventbus_{subject}["));
        assert!(rules.iter().any(|rule| is_of(&rule)), "no alert for {subject}");
    }
}

#[tokio::test]
async fn unknown_metrics_and_labels_are_found() {
    let app = busy_app().await;
    let families = scrape(&app).await;
    let known =
        r#"histogram_quantile(0.99, sum by (le, handler) (rate(eventbus_handler_seconds_bucket{job=~"$job"}[5m])))"#;
    assert_eq!(unknown(&families, known), [""; 0]);
    for wrong in [
        "sum(rate(eventbus_handler_seconds[5m]))",
        "sum(eventbus_relay_lag)",
        "sum by (event) (eventbus_relay_lag_seconds)",
        r#"eventbus_projection_owner{handler="x"}"#,
        "sum(up)",
    ] {
        assert_eq!(unknown(&families, wrong).len(), 1, "{wrong}");
    }
}
