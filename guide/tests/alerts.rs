//! Each alert of `Health` has a section in the chapter on operating, and each text there is that of an alert.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeSet, fs, path::Path};

use eventbus::{
    Name, Position,
    clock::SharedClock,
    health::{CatchingUp, Health, HealthThresholds, OldestUnfinished, SilentConsumer},
    projection::ProjectionError,
    relay::RelayError,
};
use serde_json::json;

/// The fields of `Health` that become alerts, and the heading of each in the chapter.
const SECTIONS: &[(&str, &str)] = &[
    ("connected", "The bus is away"),
    ("error", "The bus is away"),
    ("consuming", "Not consuming"),
    ("store", "The store cannot be read"),
    ("relay", "The relay does not publish"),
    ("catching_up", "A projection catches up"),
    ("projections", "A projection stopped"),
    ("handlers", "Handlers do not get their events"),
    ("lost_through", "The bus has lost its data"),
    ("waiting", "Waits for its database"),
    ("unfinished", "A handler fails"),
    ("in_flight", "A handler takes long"),
    ("silent", "A consumer is silent"),
    ("crowded", "A group reads no more"),
    ("lag_seconds", "Lag"),
    ("pending_messages", "Too many pending"),
    ("dlq_messages", "Too many dead letters"),
];
/// The fields that are no alerts of their own.
const NO_ALERTS: &[&str] = &["status", "has_nothing_to_consume", "has_store", "paused"];

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns the part of the chapter below the heading `Alerts`.
fn chapter() -> String {
    let chapter = text("src/operating.md");
    // the next heading by its name: hidden lines of code begin like headings
    chapter.split("\n# Alerts\n").nth(1).unwrap().split("\n# Dead letters\n").next().unwrap().to_owned()
}

/// Returns the texts of alerts in the chapter, each with `..` for what differs.
fn patterns(chapter: &str) -> Vec<String> {
    let blocks = chapter.split("```text\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// Returns `true` if a text has all parts of a pattern in their order, from its beginning to its end.
fn matches(pattern: &str, text: &str) -> bool {
    let parts: Vec<_> = pattern.split("..").collect();
    let (first, rest) = parts.split_first().unwrap();
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let Some((last, between)) = rest.split_last() else { return left.is_empty() };
    for part in between {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

fn since() -> String {
    "2026-05-05T03:00:00Z".to_owned()
}

/// Returns alerts of each kind that other crates can make.
fn alerts() -> Vec<String> {
    let group = || "mail".to_owned();
    let run = |blocks: bool| {
        serde_json::from_value(json!({
            "name": "thank", "group": "mail", "event_type": "Deposited", "event_id": "8f14e45f", "since": since(),
            "seconds": 31, "blocks_its_thread": blocks,
        }))
    };
    let clock = SharedClock::SYSTEM;
    let six_minutes_ago = clock.unix_millis() - 360_000;
    let oldest = |group: &str, handler: &str| OldestUnfinished::new(group, handler, six_minutes_ago, 2, &clock);
    let name = "balances";
    let position = Position::new(7);
    let stops = [
        ProjectionError::MissedEvents { name, position, types: "Closed".into(), is_elsewhere: true },
        ProjectionError::WentBack { name },
        ProjectionError::NoTable { name, table: "rows" },
        ProjectionError::NoColumn { name, table: "rows", column: "id" },
    ];
    let relay = RelayError::StoreBehindBus {
        destination: Name::from_static("bank:stream"),
        published: position,
        fork: Position::new(6),
    };
    let mut health = Health::disconnected(false, "connection refused")
        .with_store_problem("the server is away".into())
        .with_relay_stopped(relay.to_string())
        .with_oldest_unfinished([oldest("mail", "thank"), oldest("audit", "")]);
    health.pending_messages = 1_001;
    health.dlq_messages = 11;
    health.catching_up = vec![CatchingUp { name: name.into(), position }];
    health.projections = stops.iter().map(|stop| format!("{stop} (since {})", since())).collect();
    health.handlers = [
        "handlers wait, the feed cannot be read: the server is away; mend a damaged event, or skip it with \
         `app.skip_published_event`",
        "the progress of handlers cannot be saved",
        "handler `thank` is of crate `bank` here and of `mail` in another process: each gets only a part of the events; \
         name one of them by `#[handler(name = \"..\")]`",
    ]
    .map(str::to_owned)
    .into();
    health.lost_through = Some(position);
    health.in_flight = [false, true].map(|blocks| run(blocks).unwrap()).into();
    health.silent =
        vec![SilentConsumer { consumer: "worker-1".into(), group: group(), entry_id: "1-0".into(), seconds: 31 }];
    health.lag_seconds = [("relay".to_owned(), 61), ("projection `balances`".to_owned(), 61)].into();
    let thresholds = HealthThresholds::default();
    let mut alerts = health.alerts(&thresholds);
    alerts.extend(Health::default().alerts(&thresholds));
    alerts
}

#[test]
fn each_alert_has_a_section() {
    let source = syn::parse_file(&text("../eventbus/src/port/health.rs")).unwrap();
    let health = source.items.iter().find_map(|item| match item {
        syn::Item::Struct(item) if item.ident == "Health" => Some(item),
        _ => None,
    });
    let fields: BTreeSet<_> =
        health.unwrap().fields.iter().filter_map(|field| field.ident.as_ref()).map(ToString::to_string).collect();
    let known = SECTIONS.iter().map(|(field, _)| *field).chain(NO_ALERTS.iter().copied());
    assert_eq!(fields, known.map(str::to_owned).collect(), "say where the guide has the alert of a field");
    let chapter = chapter();
    for (field, heading) in SECTIONS {
        assert!(chapter.contains(&format!("\n## {heading}\n")), "{field}: {heading}");
    }
}

#[test]
fn the_texts_of_the_chapter_are_those_of_the_alerts() {
    let (patterns, alerts) = (patterns(&chapter()), alerts());
    for alert in &alerts {
        assert!(patterns.iter().any(|pattern| matches(pattern, alert)), "the chapter lacks: {alert}");
    }
    // some texts can be made within the library only: their parts stand in its sources
    let sources = ["port/health.rs", "runtime/projection/error.rs", "runtime/engine/process.rs"];
    let sources = sources.map(|source| format!("../eventbus/src/{source}"));
    let source: String = sources.map(|source| text(&source)).join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    let source = source.replace("\\\" ", "\"").replace("\\ ", "");
    for pattern in patterns {
        let is_made = alerts.iter().any(|alert| matches(&pattern, alert));
        let parts = pattern.split("..").map(str::trim).filter(|part| part.len() > 3 && !part.starts_with("(since"));
        let missing = parts.filter(|part| !source.contains(part.trim_end_matches(" (since"))).collect::<Vec<_>>();
        assert!(is_made || missing.is_empty(), "no alert has the text `{pattern}`: {missing:?}");
    }
}

/// Returns the texts in the first column of the tables of a chapter below a heading, without names of methods and fields.
fn quoted_texts(chapter: &str, heading: &str) -> Vec<String> {
    let part = chapter.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("{heading}"));
    let part = part.split("\n#").next().unwrap();
    let cells = part.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    cells.filter(|cell| cell.contains(' ')).map(str::to_owned).collect()
}

/// Returns all sources of the library, with each text in one line and without the marks of code in it.
fn library() -> String {
    let (mut folders, mut all) = (vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../eventbus/src")], String::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => all += &fs::read_to_string(path).unwrap(),
            }
        }
    }
    let all = all.split_whitespace().collect::<Vec<_>>().join(" ");
    all.replace("\\\" ", "\"").replace("\\ ", "").replace('`', "")
}

#[test]
fn texts_that_tables_quote_stand_in_the_library() {
    let (operating, troubleshooting, library) = (text("src/operating.md"), text("src/troubleshooting.md"), library());
    for (chapter, heading, count) in [
        (&operating, "## The relay does not publish", 5),
        (&troubleshooting, "## The app does not start", 10),
        (&troubleshooting, "## A save fails", 1),
        (&troubleshooting, "## A load fails", 3),
    ] {
        let quoted = quoted_texts(chapter, heading);
        assert_eq!(quoted.len(), count, "{heading}: {quoted:?}");
        for quoted in quoted {
            let parts = quoted.split("..").flat_map(|part| part.split(": "));
            let parts = parts.map(|part| part.trim_matches([' ', '(', ')', '<', '>', ',', ':']));
            let missing: Vec<_> = parts.filter(|part| part.len() > 3 && !library.contains(part)).collect();
            assert!(missing.is_empty(), "`{quoted}`: no text of the library has {missing:?}");
        }
    }
}

#[test]
fn the_chapter_has_the_default_thresholds() {
    let chapter = text("src/operating.md");
    let HealthThresholds { pending_messages, dlq_messages, in_flight_age, unfinished_age, lag_seconds } =
        HealthThresholds::default();
    assert_eq!((pending_messages, in_flight_age.as_secs(), unfinished_age.as_secs()), (1_000, 30, 300));
    for row in [
        "| `pending_messages` | 1,000 |".to_owned(),
        format!("| `dlq_messages` | {dlq_messages};"),
        "| `in_flight_age` | 30 s |".to_owned(),
        "| `unfinished_age` | 5 min |".to_owned(),
        format!("| `lag_seconds` | {lag_seconds} |"),
    ] {
        assert!(chapter.contains(&row), "{row}");
    }
}

#[test]
fn the_check_itself_compares_parts_in_their_order() {
    assert!(matches("a .. b .. c", "a 1 b 2 c"));
    assert!(matches("a ..", "a 1"));
    assert!(matches("a", "a"));
    for (pattern, text) in [("a", "a 1"), ("a .. b", "a 1 c"), ("a .. b .. c", "a 1 c"), ("..b", "a")] {
        assert!(!matches(pattern, text), "{pattern} {text}");
    }
}

/// Returns the alert rules for Prometheus, each with the section that it names; the file has one field in a line.
fn rules() -> Vec<(String, String)> {
    let file = text("../docs/metrics/alert-rules.yml");
    let fields = |key: &'static str| file.lines().filter_map(move |line| line.trim().strip_prefix(key));
    let named = fields("guide: ").map(|section| section.trim_matches('"').to_owned());
    let rules: Vec<_> = fields("- alert: ").map(str::to_owned).zip(named).collect();
    assert_eq!(rules.len(), fields("- alert: ").count(), "each rule names a section");
    rules
}

#[test]
fn the_chapter_lists_each_alert_rule_and_has_the_section_that_it_names() {
    let (chapter, rules) = (text("src/operating.md"), rules());
    let listed: Vec<_> = chapter.lines().filter_map(|line| line.strip_prefix("| `Eventbus")).collect();
    let listed: Vec<_> = listed.iter().map(|row| format!("Eventbus{}", row.split('`').next().unwrap())).collect();
    assert_eq!(listed, rules.iter().map(|(alert, _)| alert.clone()).collect::<Vec<_>>());
    let headings = chapter.lines().filter(|line| line.starts_with('#') && line.contains("# "));
    let sections: BTreeSet<_> = headings
        .map(|line| format!("operating.md#{}", line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")))
        .collect();
    for (alert, section) in &rules {
        assert!(sections.contains(section), "{alert}: no section {section}");
    }
}
