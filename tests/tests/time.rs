//! The library takes time, waiting and ids from the clock that it was given, and from no second source.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use workspace_tests::source::{SourceFile, product_files};

/// The clock itself.
const CLOCK: &str = "eventbus/src/domain/clock.rs";

/// Waits that the clock cannot shorten: the file, the number of its lines that use the system's time, and the reason,
/// which a comment in the code repeats.
const REAL: &[(&str, usize, &str)] = &[
    ("eventbus-file/src/bus/mod.rs", 1, "what other workers read in files"),
    ("eventbus-file/src/bus/worker.rs", 2, "what other workers read in files"),
    ("eventbus-file/src/config.rs", 1, "a name that no other worker has"),
    ("eventbus-file/src/redis_coordination/coordinator.rs", 1, "a connection to Redis"),
    ("eventbus-file/src/redis_coordination/monitor.rs", 2, "a connection to Redis"),
    ("eventbus-file/src/redis_coordination/resync.rs", 1, "the replies of Redis"),
    ("eventbus-file/src/disk.rs", 3, "the file system's times, and names that no other worker has"),
    ("eventbus-file/src/event.rs", 1, "the times that workers compare through files"),
    ("eventbus-file/src/log.rs", 3, "publishers in other processes"),
    ("eventbus-file/src/poll_backoff.rs", 1, "what other workers write into files"),
    ("eventbus-file/src/payload.rs", 1, "a name that no other worker has"),
    ("eventbus-file/src/claimed_event.rs", 2, "claims that other workers read in files"),
    ("eventbus/src/axum/health.rs", 2, "the replies of a server"),
    ("eventbus-redis-core/src/connection.rs", 5, "connecting, and the replies of Redis"),
    ("eventbus-redis/src/consumer/reader.rs", 4, "the replies of Redis"),
    ("eventbus-redis/src/consumer/tasks.rs", 7, "claims and leases, by the clock of Redis, and its replies"),
    ("eventbus-redis/src/consumer/recover.rs", 1, "claims, by the clock of Redis"),
    ("eventbus-redis/src/consumer/outage_log.rs", 3, "connecting to Redis again"),
    ("eventbus-redis/src/history.rs", 2, "connecting to Redis again"),
    ("eventbus-redis/src/streams/projection/event_projection.rs", 1, "connecting to Redis again"),
    ("eventbus-redis/src/blocking_read.rs", 3, "the replies of Redis"),
    ("eventbus-cli/src/doctor/run.rs", 2, "the replies of the servers that it checks"),
    ("eventbus-test/src/actor.rs", 5, "the output of a process"),
    ("eventbus-test/src/local/process.rs", 3, "a server that starts"),
    ("eventbus-test/src/local/run_folder.rs", 1, "the file system's times"),
    ("eventbus-test/src/name.rs", 1, "a name that no other process has"),
    ("eventbus/src/delivery/run.rs", 2, "a thread that a handler blocks"),
    ("eventbus/src/delivery/consuming.rs", 1, "the last word of a store that may be gone"),
    ("eventbus/src/delivery/watchdog.rs", 1, "threads that handlers block"),
    ("eventbus/src/runtime/app/exit.rs", 1, "the end of a process whose threads are blocked"),
    ("eventbus/src/runtime/app/inner.rs", 1, "the reply of a store"),
    ("eventbus/src/runtime/app/metrics.rs", 4, "the replies of store and bus to a reader of metrics"),
    ("eventbus/src/runtime/app/relay_health.rs", 3, "the replies of store and bus to a health check"),
    ("eventbus/src/runtime/app/wait_idle.rs", 3, "the work of other tasks, in tests"),
    ("eventbus/src/runtime/app/tasks.rs", 2, "the reply of a store that may be gone"),
    ("eventbus/src/runtime/projection/runner.rs", 1, "the reply of a store that may be gone"),
    ("eventbus/src/runtime/engine/handler_queue.rs", 5, "leases, by the clock of a store"),
    ("eventbus/src/runtime/engine/feeder.rs", 4, "the processor, whose time handlers share"),
    ("eventbus/src/runtime/engine/heartbeats.rs", 6, "leases, by the clock of a store"),
    ("eventbus/src/runtime/engine/saver.rs", 5, "how long changes gather, so that one save writes many"),
    ("eventbus/src/runtime/held_lease.rs", 2, "the replies of a store before and to the release of a lease"),
    ("eventbus/src/runtime/lease_renewer.rs", 2, "the replies of a store to renewing leases"),
    ("eventbus/src/support/spans.rs", 1, "the end of a span, whose start OpenTelemetry takes from the machine"),
    ("eventstore-postgres/src/append/retry_budget.rs", 2, "connecting to PostgreSQL again"),
    ("eventstore-postgres/src/append/group_commit.rs", 1, "the replies of PostgreSQL"),
    ("eventstore-postgres/src/append/executor.rs", 1, "the replies of PostgreSQL"),
    ("eventstore-postgres/src/gate.rs", 1, "the replies of PostgreSQL"),
    ("eventstore-postgres/src/migrate.rs", 3, "locks of other sessions"),
    ("eventstore-postgres/src/migration_lock.rs", 4, "locks of other processes"),
    ("eventstore-postgres/src/notify.rs", 6, "a connection to PostgreSQL"),
    ("eventstore-postgres/src/last_fault.rs", 2, "how old a fault of connections to PostgreSQL is"),
    ("eventstore-postgres/src/pool.rs", 8, "the replies of PostgreSQL, and the ages of connections to it"),
    ("eventstore-postgres/src/statement_pool.rs", 4, "connections to PostgreSQL, and how long they were idle"),
    ("eventstore-postgres/src/setup_session.rs", 5, "the replies of PostgreSQL"),
    (
        "eventstore-postgres/src/transaction.rs",
        7,
        "the replies of PostgreSQL, which ends transactions by its own clock",
    ),
    ("eventstore-sqlite/src/writer/batch.rs", 2, "how long the disk takes"),
    ("eventstore-sqlite/src/connection.rs", 2, "locks of other processes"),
    ("eventstore-sqlite/src/shadow_databases.rs", 1, "a name that no other process has"),
    ("eventstore-sqlite/src/writer/transaction.rs", 3, "a lock that other threads wait for"),
    ("eventstore-sqlite/src/writer/permit.rs", 2, "a lock that other threads wait for"),
    ("eventstore-sqlite/src/member_locks.rs", 1, "a name that no other process has"),
    ("eventstore-sqlite/src/location.rs", 1, "a name that no other store of the process has"),
    ("eventstore-sqlite/src/transaction.rs", 2, "how long the disk takes"),
    ("eventstore-sqlite/src/writer/watchdog.rs", 2, "a lock that other threads wait for"),
    ("eventstore-sqlite/src/writer/writer.rs", 6, "how long the disk takes, and locks of other processes"),
];

/// Uses of the system's time, as written in code. A function call is `name(` after a character that is part of no name
/// and is no dot.
const SOURCES: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "Utc::now",
    "now_utc",
    "now_local",
    "now_v7",
    "now_v6",
    "now_v1",
    "Uuid::new_v4",
    "EventId::new()",
    ".elapsed()",
    "recv_timeout(",
    "park_timeout(",
    "wait_timeout(",
];
const FUNCTIONS: &[&str] = &["sleep", "sleep_until", "timeout", "timeout_at", "interval", "interval_at"];

/// Returns the lines of code that use the system's time, without comments, documentation and unit tests.
fn asks(file: &SourceFile) -> Vec<String> {
    file.code().lines().filter(|line| asks_the_system(line)).map(|line| line.trim().to_owned()).collect()
}

fn asks_the_system(line: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let calls = |function: &&str| {
        line.match_indices(&format!("{function}(")).any(|(at, _)| {
            let before = &line[..at];
            !before.ends_with(is_name) && !before.ends_with('.') && !before.ends_with("fn ")
        })
    };
    let names = |source: &&str| {
        line.match_indices(source).any(|(at, _)| {
            let before = &line[..at];
            !source.starts_with(is_name) || !before.ends_with(is_name) && !before.ends_with("fn ")
        })
    };
    SOURCES.iter().any(names) || FUNCTIONS.iter().any(calls)
}

#[test]
fn only_the_clock_asks_the_system() {
    let files = product_files().unwrap();
    assert!(files.len() > 100, "{} files", files.len());
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path != CLOCK) {
        found.insert(&file.path, asks(file));
    }
    let mut wrong = Vec::new();
    for (place, lines) in &found {
        let real = REAL.iter().find(|(real, ..)| real == place).map_or(0, |(_, count, _)| *count);
        if lines.len() > real {
            let lines = lines.join("\n  ");
            wrong.push(format!("{place}, where {real} lines may ask the system:\n  {lines}"));
        }
    }
    assert!(wrong.is_empty(), "take it from the clock that was given (`SharedClock`):\n{}", wrong.join("\n"));
    for (place, count, _) in REAL {
        let asking = found.get(place).map_or(0, Vec::len);
        assert_eq!(asking, *count, "fewer lines of {place} ask the system than are listed: correct the number");
    }
}

#[test]
fn the_check_itself_sees_every_form() {
    for line in [
        "let now = std::time::SystemTime::now();",
        "let began = Instant::now();",
        "id.get_or_insert_with(Uuid::now_v7);",
        "tokio::time::sleep(pause).await;",
        "match timeout(limit, answer).await {",
        "std::thread::sleep(PAUSE);",
        "if began.elapsed() < limit {",
        "let mut tick = tokio::time::interval_at(start, period);",
    ] {
        assert!(asks_the_system(line), "{line}");
    }
    for line in [
        "self.clock.sleep(pause).await;",
        "clock.elapsed(began)",
        "pub async fn timeout(&self) {}",
        ".acquire_timeout(config.connect_timeout)",
        "connection.busy_timeout(limit)?;",
        "let now = clock.now();",
    ] {
        assert!(!asks_the_system(line), "{line}");
    }
}
