//! Checks of the file of a store on SQLite.

use std::fs;

use eventstore_sqlite::SqliteEventStore;
use serde_json::json;

use super::{
    disk::check_free_space,
    finding::Finding,
    outcome::{CheckError, Outcome},
    postgres_tables::compare_migrations,
    statement::{Database as _, Known, Row},
    subjects::Subjects,
};

/// Runs a statement; an error about a damaged file becomes a finding.
async fn rows_unless_damaged(on: &Subjects<'_>, sql: &str) -> Result<Result<Vec<Row>, Finding>, CheckError> {
    let target = on.sqlite()?;
    match target.with_clock(&on.config.clock).ask(sql, on.config).await {
        Err(error) if error.is_damage() => {
            let path = target.path().display().to_string();
            let found = format!("`{path}` is damaged, or no database of SQLite: {error}");
            Ok(Err(Finding::fault(found, DAMAGED, RESTORE).observed(json!({ "path": path }))))
        }
        rows => rows.map(Ok),
    }
}

const DAMAGED: &str = "reads fail or return wrong rows, and writes may damage more of it";
const RESTORE: &str =
    "stop the application, keep a copy, and restore a backup; `.recover` of the sqlite3 shell saves the rest";

pub(crate) async fn check_release(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    const TABLES: &str = "SELECT 1 FROM sqlite_schema WHERE name IN ('eventbus_events', 'eventbus_migrations')";
    const MIGRATIONS: &str = "SELECT version, name, kind FROM {table migrations} ORDER BY version";
    match rows_unless_damaged(on, TABLES).await? {
        Ok(tables) if tables.len() == 2 => {}
        Ok(_) => {
            let path = on.sqlite()?.path().display().to_string();
            let found = format!("`{path}` holds no store: it lacks `eventbus_events`");
            let consequence = "the store cannot be read; opening it makes new, empty tables";
            let fault = Finding::fault(found, consequence, "give the right file, or restore it from a backup");
            return Ok(fault.observed(json!({ "path": path })).into());
        }
        Err(damage) => return Ok(damage.into()),
    }
    match rows_unless_damaged(on, MIGRATIONS).await? {
        Ok(rows) => compare_migrations(&rows, SqliteEventStore::NEWEST_MIGRATION),
        Err(damage) => Ok(damage.into()),
    }
}

pub(crate) fn judge_journal(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let mode: String = rows.first().map(|row| row.get("journal_mode")).transpose()?.unwrap_or_default();
    let finding = || {
        let found = format!("the file is in the journal mode `{mode}`");
        let consequence = "a program has changed it: readers and writers block each other until a store opens the file";
        let repair = "open the store, which sets `journal_mode = WAL`; find the program that changes it";
        Finding::warning(found, consequence, repair).observed(json!({ "journal_mode": mode }))
    };
    Ok((!mode.eq_ignore_ascii_case("wal")).then(finding).into())
}

pub(crate) async fn check_log_size(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let mut log = on.sqlite()?.path().as_os_str().to_owned();
    log.push("-wal");
    // absent while no process has the file open
    let size = fs::metadata(&log).map_or(0, |log| log.len());
    if size <= on.config.sqlite_wal_bytes {
        return Ok(Outcome::healthy());
    }
    let found = format!("the write-ahead log of the file has {} MiB", size >> 20);
    let consequence = "every read takes longer, and the log grows until the disk is full";
    let repair = "end the program that keeps a read transaction open; then PRAGMA wal_checkpoint(TRUNCATE)";
    Ok(Finding::warning(found, consequence, repair).observed(json!({ "wal_bytes": size })).into())
}

pub(crate) async fn check_disk(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let folder = on.sqlite()?.path().parent().filter(|folder| !folder.as_os_str().is_empty());
    check_free_space(folder.unwrap_or(".".as_ref()), on.config)
}

/// The indexes and triggers of a new file, beside those of its keys.
const PARTS: [&str; 6] = [
    "eventbus_commands_handled_at_idx",
    "eventbus_deliveries_handled_at_idx",
    "eventbus_events_keep_the_last",
    "eventbus_handler_rows_dead_idx",
    "eventbus_streams_keep_rows",
    "eventbus_tags_keep_rows",
];

pub(crate) fn judge_parts(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let found: Vec<String> = rows.iter().map(|row| row.get("name")).collect::<Result<_, _>>()?;
    let missing: Vec<_> = PARTS.into_iter().filter(|part| !found.iter().any(|found| found == part)).collect();
    if missing.is_empty() {
        return Ok(Outcome::healthy());
    }
    let text = format!("the file lacks indexes or triggers of the store: `{}`", missing.join("`, `"));
    let consequence = "without an index statements read whole tables; without a trigger a deleted row lets a number be \
                       used again, and readers miss an event";
    let repair = "make them again as the migrations of eventstore-sqlite do";
    Ok(Finding::fault(text, consequence, repair).observed(json!({ "missing": missing })).into())
}

pub(crate) async fn check_integrity(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let rows = match rows_unless_damaged(on, "PRAGMA integrity_check(20)").await? {
        Ok(rows) => rows,
        Err(damage) => return Ok(damage.into()),
    };
    let problems: Vec<String> = rows.iter().map(|row| row.get("integrity_check")).collect::<Result<_, _>>()?;
    let problems: Vec<_> = problems.into_iter().filter(|problem| problem != "ok").collect();
    let Some(first) = problems.first() else { return Ok(Outcome::healthy()) };
    let found = format!("the file is damaged, {} problems: {first}", problems.len());
    Ok(Finding::fault(found, DAMAGED, RESTORE).observed(json!({ "problems": problems })).into())
}
