//! Checks of the file of a store on SQLite.

use std::fs;

use eventstore_sqlite::SqliteEventStore;
use serde_json::json;

use super::{
    disk::check_free_space,
    migrations::compare_migrations,
    outcome::{CheckError, Outcome},
    statement::{Database as _, Known, Row},
    subjects::Subjects,
};

/// Runs a statement; an error about a damaged file becomes a finding.
async fn rows_unless_damaged(on: &Subjects<'_>, sql: &str) -> Result<Result<Vec<Row>, Outcome>, CheckError> {
    let target = on.sqlite()?;
    match target.with_clock(&on.config.clock).query(sql, on.config).await {
        Err(error) if error.is_damage() => {
            let path = target.path().display().to_string();
            Ok(Err(Outcome::of_row(json!({ "_is_damaged": true, "_error": error.to_string(), "path": path }))))
        }
        rows => rows.map(Ok),
    }
}

pub(crate) async fn check_release(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    const TABLES: &str = "SELECT 1 FROM sqlite_schema WHERE name IN ('eventbus_events', 'eventbus_migrations')";
    const MIGRATIONS: &str = "SELECT version, name, kind FROM {table migrations} ORDER BY version";
    match rows_unless_damaged(on, TABLES).await? {
        Ok(tables) if tables.len() == 2 => {}
        Ok(_) => {
            let path = on.sqlite()?.path().display().to_string();
            return Ok(Outcome::of_row(json!({ "_is_missing": true, "path": path })));
        }
        Err(damage) => return Ok(damage),
    }
    match rows_unless_damaged(on, MIGRATIONS).await? {
        Ok(rows) => compare_migrations(&rows, SqliteEventStore::NEWEST_MIGRATION),
        Err(damage) => Ok(damage),
    }
}

pub(crate) fn compare_journal(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let mode: String = rows.first().map(|row| row.get("journal_mode")).transpose()?.unwrap_or_default();
    Ok(Outcome::of_row(json!({ "_is_other": !mode.eq_ignore_ascii_case("wal"), "journal_mode": mode })))
}

pub(crate) async fn check_log_size(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let mut log = on.sqlite()?.path().as_os_str().to_owned();
    log.push("-wal");
    // absent while no process has the file open
    let size = fs::metadata(&log).map_or(0, |log| log.len());
    let is_long = size > on.config.sqlite_wal_bytes;
    Ok(Outcome::of_row(json!({ "_is_long": is_long, "_mib": size >> 20, "wal_bytes": size })))
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

pub(crate) fn compare_parts(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let found: Vec<String> = rows.iter().map(|row| row.get("name")).collect::<Result<_, _>>()?;
    let missing: Vec<_> = PARTS.into_iter().filter(|part| !found.iter().any(|found| found == part)).collect();
    let list = missing.join("`, `");
    Ok(Outcome::of_row(json!({ "_lacks": !missing.is_empty(), "_list": list, "missing": missing })))
}

pub(crate) async fn check_integrity(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let rows = match rows_unless_damaged(on, "PRAGMA integrity_check(20)").await? {
        Ok(rows) => rows,
        Err(damage) => return Ok(damage),
    };
    let problems: Vec<String> = rows.iter().map(|row| row.get("integrity_check")).collect::<Result<_, _>>()?;
    let problems: Vec<_> = problems.into_iter().filter(|problem| problem != "ok").collect();
    Ok(Outcome::of_row(json!({
        "_has_problems": !problems.is_empty(), "_number": problems.len(), "_first": problems.first(),
        "problems": problems,
    })))
}
