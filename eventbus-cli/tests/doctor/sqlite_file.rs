//! The file of a store on SQLite.

use std::path::PathBuf;

use eventbus_cli::doctor::{
    CheckFinding, Doctor, DoctorConfig,
    Severity::{self, *},
};
use eventstore_sqlite::{SqliteEventStore, rusqlite::Connection};

use super::common::{append, config, expect_finding, expect_healthy, expect_only};

/// A file with three events in two streams.
struct File {
    folder: tempfile::TempDir,
}

impl File {
    async fn new() -> Self {
        let file = Self { folder: tempfile::tempdir().unwrap() };
        let store = file.open().await;
        append(&store, "ada", 2).await;
        append(&store, "bob", 1).await;
        file
    }

    async fn open(&self) -> SqliteEventStore {
        SqliteEventStore::open(self.path()).await.unwrap()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("bank.db")
    }

    fn doctor(&self) -> Doctor {
        Doctor::new().config(config()).sqlite(self.path()).deep(true)
    }

    fn run(&self, sql: &str) {
        let connection = Connection::open(self.path()).unwrap();
        connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Fails unless all is well before `sql` breaks the file, and the doctor finds only this afterwards.
    async fn broken_by(&self, sql: &str, check: &str, severity: Severity, text: &str) -> CheckFinding {
        expect_healthy(&self.doctor(), check).await;
        self.run(sql);
        expect_only(&self.doctor(), check, severity, text).await
    }
}

#[tokio::test]
async fn a_used_file_is_healthy_while_a_store_has_it_open_and_afterwards() {
    let file = File::new().await;
    let known = || file.doctor().known_types([("Deposited".to_owned(), 1)]);
    for is_open in [true, false] {
        let store = if is_open { Some(file.open().await) } else { None };
        let report = known().run().await;
        assert_eq!((report.findings(), report.not_checked()), (&[][..], &[][..]), "{report}");
        assert_eq!(report.healthy().len(), 13, "{report}");
        drop(store);
    }
}

#[tokio::test]
async fn a_wrong_file_and_a_different_release_are_found() {
    let file = File::new().await;
    let migration = "INSERT INTO eventbus_migrations (version, name, kind) VALUES (99, 'future', 'breaking')";
    file.broken_by(migration, "sqlite-store", Fault, "breaking migration 99 `future`").await;
    let wrong = file.folder.path().join("wrong.db");
    Connection::open(&wrong).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    expect_finding(&file.doctor().sqlite(wrong), "sqlite-store", Fault, "holds no store").await;
    let absent = file.folder.path().join("absent.db");
    let report = file.doctor().sqlite(&absent).only(["sqlite-store"]).unwrap().run().await;
    assert!(report.not_checked()[0].reason.contains("unable to open"), "{report}");
    assert!(!absent.exists());
}

#[tokio::test]
async fn a_file_that_is_not_in_wal_mode_is_found() {
    let file = File::new().await;
    file.broken_by("PRAGMA journal_mode = DELETE", "sqlite-journal", Warning, "journal mode `delete`").await;
}

#[tokio::test]
async fn a_log_that_a_reader_holds_is_found() {
    let file = File::new().await;
    let reader = Connection::open(file.path()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM eventbus_events").unwrap();
    file.run("CREATE TABLE filler (x); INSERT INTO filler SELECT randomblob(200000)");
    expect_healthy(&file.doctor(), "sqlite-wal-size").await;
    let strict = file.doctor().config(DoctorConfig { sqlite_wal_bytes: 100_000, ..config() });
    expect_finding(&strict, "sqlite-wal-size", Warning, "the write-ahead log of the file has").await;
    reader.execute_batch("ROLLBACK").unwrap();
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_is_found() {
    let file = File::new().await;
    expect_healthy(&file.doctor(), "sqlite-disk").await;
    let full = file.doctor().config(DoctorConfig { free_disk_share: 8.0, ..config() });
    expect_finding(&full, "sqlite-disk", Fault, "of the disk of").await;
}

/// Fails if a migration adds an index or a trigger that the check does not know.
#[tokio::test]
async fn missing_indexes_and_triggers_are_found() {
    let file = File::new().await;
    let dropped = "DROP TRIGGER eventbus_events_keep_the_last";
    file.broken_by(dropped, "sqlite-index", Fault, "`eventbus_events_keep_the_last`").await;
    let connection = Connection::open(file.path()).unwrap();
    let sql = "SELECT type, name FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL";
    let mut parts = connection.prepare(sql).unwrap();
    let parts: Vec<(String, String)> =
        parts.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap();
    for (kind, name) in &parts {
        file.run(&format!("DROP {kind} {name}"));
    }
    let found = expect_only(&file.doctor(), "sqlite-index", Fault, "lacks indexes or triggers").await;
    let missing = found.finding.observed["missing"].as_array().unwrap().len();
    assert_eq!(missing, parts.len() + 1, "{found:?}");
}

#[tokio::test]
async fn a_reader_that_is_ahead_of_the_store_is_found() {
    let file = File::new().await;
    // neither a move from a different store nor a relay that stopped on purpose is such a reader
    for name in ["import:7b3e", "relay-halted:bus"] {
        file.run(&format!("INSERT INTO eventbus_checkpoints VALUES ('{name}', 999, 0)"));
    }
    expect_healthy(&file.doctor(), "sqlite-checkpoint-ahead").await;
    file.run("INSERT INTO eventbus_checkpoints VALUES ('projection:rows', 999, 0)");
    let repair = |found: &CheckFinding| file.run(found.finding.repair.split_once("to the head: ").unwrap().1);
    let text = "`projection:rows` is at position 999";
    repair(&expect_only(&file.doctor(), "sqlite-checkpoint-ahead", Fault, text).await);
    file.run("INSERT INTO eventbus_checkpoints VALUES ('projection:bob''s', 998, 0)");
    let text = "`projection:bob's` is at position 998";
    repair(&expect_only(&file.doctor(), "sqlite-checkpoint-ahead", Fault, text).await);
    expect_healthy(&file.doctor(), "sqlite-checkpoint-ahead").await;
}

/// The present time in the file, for SQL.
const NOW: &str = "unixepoch() * 1000000";
const DAY: u64 = 24 * 3_600 * 1_000_000;

#[tokio::test]
async fn a_checkpoint_that_no_process_moves_is_found() {
    let file = File::new().await;
    let save = |age: u64| format!("REPLACE INTO eventbus_checkpoints VALUES ('projection:rows', 1, {NOW} - {age})");
    // the events are seconds old
    file.run(&save(2 * DAY));
    expect_healthy(&file.doctor(), "sqlite-orphaned-checkpoint").await;
    file.run(&format!("UPDATE eventbus_events SET recorded_at = {NOW} - {}; {}", 3 * DAY, save(DAY / 2)));
    let text = "`projection:rows` is at 1 of 3";
    file.broken_by(&save(2 * DAY), "sqlite-orphaned-checkpoint", Warning, text).await;
    // a process has the role
    file.run(&format!("INSERT INTO eventbus_leases VALUES ('projection:rows', 'vm:1', 1, {NOW}, {NOW} + {DAY})"));
    expect_healthy(&file.doctor(), "sqlite-orphaned-checkpoint").await;
    // all events are handled
    file.run("DELETE FROM eventbus_leases; UPDATE eventbus_checkpoints SET position = 3");
    expect_healthy(&file.doctor(), "sqlite-orphaned-checkpoint").await;
    // a relay is examined by its lease
    file.run("UPDATE eventbus_checkpoints SET name = 'relay:memory', position = 1");
    expect_healthy(&file.doctor(), "sqlite-orphaned-checkpoint").await;
}

#[tokio::test]
async fn a_role_without_an_owner_is_found_while_events_are_added() {
    let file = File::new().await;
    let lease = |role: &str, expires_at: &str| {
        let renewed_at = format!("{NOW} - {}", 2 * DAY);
        file.run(&format!("REPLACE INTO eventbus_leases VALUES ('{role}', 'vm:1', 1, {renewed_at}, {expires_at})"));
    };
    // of a command that has ended
    lease("rebuild:rows", "0");
    expect_healthy(&file.doctor(), "sqlite-abandoned-role").await;
    // its process has just died
    lease("relay:memory", &format!("{NOW} - 1"));
    expect_healthy(&file.doctor(), "sqlite-abandoned-role").await;
    let expired = format!("{NOW} - {}", 2 * DAY);
    for expires_at in [expired.as_str(), "0"] {
        lease("relay:memory", expires_at);
        let text = "no process has had the role `relay:memory` for 1728";
        expect_only(&file.doctor(), "sqlite-abandoned-role", Warning, text).await;
    }
    // `relay retire` had it last
    file.run("UPDATE eventbus_leases SET owner = 'retired' WHERE role = 'relay:memory'");
    expect_healthy(&file.doctor(), "sqlite-abandoned-role").await;
    file.run("UPDATE eventbus_leases SET owner = 'vm:1'");
    // a lease that was released a moment ago
    file.run(&format!("UPDATE eventbus_leases SET renewed_at = {NOW} WHERE role = 'relay:memory'"));
    expect_healthy(&file.doctor(), "sqlite-abandoned-role").await;
    // the whole application rests since
    lease("relay:memory", &expired);
    file.run(&format!("UPDATE eventbus_events SET recorded_at = {NOW} - {}", 3 * DAY));
    expect_healthy(&file.doctor(), "sqlite-abandoned-role").await;
}

#[tokio::test]
async fn event_types_that_the_program_does_not_know_are_found() {
    let file = File::new().await;
    let knowing = |name: &str| file.doctor().known_types([(name.to_owned(), 1)]);
    expect_healthy(&knowing("Deposited"), "sqlite-event-types").await;
    let text = "does not know are stored: `Deposited`";
    let found = expect_only(&knowing("Closed"), "sqlite-event-types", Warning, text).await;
    let repair = &found.finding.repair;
    assert!(repair.starts_with(r#"if an event was renamed, add `#[event(was("..")"#), "{repair}");
    assert!(repair.ends_with("their effect on the state is lost"), "{repair}");
}

#[tokio::test]
async fn a_dead_letter_that_the_inbox_has_forgotten_is_found() {
    let file = File::new().await;
    file.run("INSERT INTO eventbus_handler_rows VALUES ('mail', 1, 0, '{}', unixepoch() * 1000000 - 86400000000, 0)");
    expect_healthy(&file.doctor(), "sqlite-dead-letter-age").await;
    file.run("UPDATE eventbus_handler_rows SET dead_since = 1");
    expect_only(&file.doctor(), "sqlite-dead-letter-age", Warning, "the inbox remembers 30 days").await;
}

#[tokio::test]
async fn missing_events_are_found() {
    let file = File::new().await;
    expect_healthy(&file.doctor(), "sqlite-missing-events").await;
    expect_healthy(&file.doctor(), "sqlite-missing-events-all").await;
    file.run("DELETE FROM eventbus_events WHERE position = 2");
    let missing = "Account ada (version 2: 1 of 2)";
    expect_finding(&file.doctor(), "sqlite-missing-events", Fault, missing).await;
    expect_finding(&file.doctor(), "sqlite-missing-events-all", Fault, missing).await;
    // the newest stream is whole
    let doctor = file.doctor().config(DoctorConfig { sampled_streams: 1, ..config() });
    expect_healthy(&doctor, "sqlite-missing-events").await;
}

#[tokio::test]
async fn a_damaged_file_is_found() {
    let file = File::new().await;
    expect_healthy(&file.doctor(), "sqlite-integrity").await;
    // the index no longer has what the table has
    file.run(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(sql, 'handled_at)', 'handler)')
         WHERE name = 'eventbus_deliveries_handled_at_idx';",
    );
    file.run(
        "INSERT INTO eventbus_deliveries VALUES ('mail', x'01', 'a', 'A', x'00', 1);
         PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(sql, 'handler)', 'handled_at)')
         WHERE name = 'eventbus_deliveries_handled_at_idx'",
    );
    expect_only(&file.doctor(), "sqlite-integrity", Fault, "the file is damaged").await;
}
