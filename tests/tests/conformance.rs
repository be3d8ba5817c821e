//! The guide's tables of backends, the suites that each passes, and the limits that each declares.
//!
//! The suites run in the backends' own tests; this test checks that they are called there, and with how many rules.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fmt::Write as _, fs, path::Path};

/// The file that calls a suite, and the name of its module there.
type Call = Option<(&'static str, &'static str)>;

/// A backend, the calls of its suites in the order of the columns, and the guarantees that it does not claim.
type Backend = (&'static str, &'static [Call], &'static str);

const STORE_SUITES: [(&str, &str); 5] = [
    ("event_store_conformance", "events"),
    ("handler_progress_conformance", "handlers"),
    ("event_store_reopen_conformance", "reopening"),
    ("event_store_tags_conformance", "tags"),
    ("event_store_transactions_conformance", "transactions"),
];

const STORES: &[Backend] = &[
    (
        "`InMemoryEventStore`",
        &[
            Some(("eventbus/tests/conformance.rs", "memory_store")),
            Some(("eventbus/tests/conformance.rs", "handlers_of_memory_store")),
            Some(("eventbus/tests/conformance.rs", "memory_store_handles")),
            Some(("eventbus/tests/conformance.rs", "tags_of_memory_store")),
            None,
        ],
        "to outlive the process; transactions",
    ),
    (
        "`SqliteEventStore`, a file",
        &[
            Some(("eventstore-sqlite/tests/store/conformance.rs", "file")),
            Some(("eventstore-sqlite/tests/store/conformance.rs", "handlers_in_a_file")),
            Some(("eventstore-sqlite/tests/store/conformance.rs", "reopened")),
            Some(("eventstore-sqlite/tests/store/conformance.rs", "tags_in_a_file")),
            Some(("eventstore-sqlite/tests/store/conformance.rs", "transactions")),
        ],
        "several machines",
    ),
    (
        "`SqliteEventStore`, in memory",
        &[
            Some(("eventstore-sqlite/tests/store/conformance.rs", "memory")),
            Some(("eventstore-sqlite/tests/store/conformance.rs", "handlers_in_memory")),
            None,
            Some(("eventstore-sqlite/tests/store/conformance.rs", "tags_in_memory")),
            None,
        ],
        "to outlive the process; to hide an open transaction from the reads of its own task",
    ),
    (
        "`PgEventStore`",
        &[
            Some(("eventstore-postgres/tests/store/conformance.rs", "postgres")),
            Some(("eventstore-postgres/tests/store/conformance.rs", "handlers")),
            Some(("eventstore-postgres/tests/store/conformance.rs", "reopened")),
            Some(("eventstore-postgres/tests/store/conformance.rs", "tags")),
            Some(("eventstore-postgres/tests/store/conformance.rs", "transactions")),
        ],
        "–",
    ),
    (
        "`PgEventStore`, on a pool of the application",
        &[
            Some(("eventstore-postgres/tests/store/conformance.rs", "on_pool")),
            Some(("eventstore-postgres/tests/store/conformance.rs", "handlers_on_pool")),
            None,
            Some(("eventstore-postgres/tests/store/conformance.rs", "tags_on_pool")),
            Some(("eventstore-postgres/tests/store/conformance.rs", "transactions_on_pool")),
        ],
        "transactions on a pool of one connection",
    ),
    (
        "`RedisEventStore`",
        &[
            Some(("eventstore-redis/tests/store/conformance.rs", "redis")),
            Some(("eventstore-redis/tests/store/conformance.rs", "handlers")),
            Some(("eventstore-redis/tests/store/conformance.rs", "reopened")),
            None,
            None,
        ],
        "tags; transactions; what the server loses: `durability()` says what that may be",
    ),
];

const BUS_SUITES: [(&str, &str); 1] = [("event_bus_conformance", "delivery")];

const BUSES: &[Backend] = &[
    (
        "`InMemoryEventBus`",
        &[Some(("eventbus/tests/bus_conformance.rs", "in_process"))],
        "other processes, and dead letters that outlive it",
    ),
    (
        "`RedisEventBus`",
        &[Some(("eventbus-redis/tests/bus/conformance.rs", "redis"))],
        "order across consumers of a group",
    ),
];

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap()
}

/// Returns the number of rules in a suite's macro.
fn rules(suite: &str) -> usize {
    let (port, _) = suite.split_once("_conformance").unwrap();
    let port = if port.starts_with("event_bus") { "event_bus" } else { "event_store" };
    let source = text(&format!("eventbus/src/testkit/{port}/mod.rs"));
    let (_, of_suite) = source.split_once(&format!("macro_rules! {suite} {{")).unwrap();
    let lists = of_suite.split("\n}").next().unwrap();
    let is_name = |name: &str| name.contains('_') && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let listed = lists.lines().filter(|line| line.trim().strip_suffix(',').is_some_and(is_name)).count();
    let written_out = lists.lines().filter(|line| line.trim().starts_with("async fn ") && !line.contains('$')).count();
    listed + written_out
}

fn is_called(suite: &str, (file, module): (&str, &str)) -> bool {
    let source: String = text(file).split_whitespace().collect();
    source.contains(&format!("eventbus::{suite}!({module},"))
}

/// Returns the table of some backends, in Markdown.
fn matrix(title: &str, suites: &[(&str, &str)], backends: &[Backend]) -> String {
    let mut table = format!("| {title} |");
    suites.iter().for_each(|(_, column)| write!(table, " {column} |").unwrap());
    writeln!(table, " does not claim |").unwrap();
    writeln!(table, "|---|{}---|", "---:|".repeat(suites.len())).unwrap();
    for (backend, calls, unclaimed) in backends {
        assert_eq!(calls.len(), suites.len(), "{backend}");
        write!(table, "| {backend} |").unwrap();
        for (call, (suite, _)) in calls.iter().zip(suites) {
            let cell = call.map_or_else(
                || "–".into(),
                |call| {
                    assert!(is_called(suite, call), "{backend}: `{suite}` is not called as `{}` in {}", call.1, call.0);
                    rules(suite).to_string()
                },
            );
            write!(table, " {cell} |").unwrap();
        }
        writeln!(table, " {unclaimed} |").unwrap();
    }
    table
}

#[test]
#[allow(clippy::print_stdout, reason = "the tables to copy into the guide")]
fn the_guide_shows_which_backend_passes_which_suite() {
    let chapter = text("guide/src/backends.md");
    for table in [matrix("store", &STORE_SUITES, STORES), matrix("bus", &BUS_SUITES, BUSES)] {
        println!("{table}");
        assert!(chapter.contains(&table), "the guide lacks this table:\n{table}");
    }
}

/// An added rule, or a missing suite of a backend, changes the table.
#[test]
fn rules_are_counted_as_they_are_listed() {
    let stores: usize = STORE_SUITES.iter().map(|(suite, _)| rules(suite)).sum();
    let source = text("eventbus/src/testkit/event_store/mod.rs");
    assert!(source.contains(&format!("assert_eq!(rules, {stores});")), "{stores} rules are listed");
    assert!(!is_called("event_store_conformance", ("eventstore-postgres/tests/store/conformance.rs", "unknown")));
}
