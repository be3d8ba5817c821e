//! Checks of the file of a store on SQLite.

use std::{fs, time::Duration};

use eventstore_sqlite::{
    SqliteEventStore,
    rusqlite::{self, Connection, Params},
};
use serde_json::json;

use super::{
    check::{Check, Run},
    config::DoctorConfig,
    disk::check_free_space,
    finding::Finding,
    known_types::KnownTypes,
    outcome::{CheckError, Outcome},
    postgres_tables::compare_migrations,
    sqlite_target::SqliteTarget,
    store_contents::{
        DamagedStream, SAMPLED_VERSIONS_MAX, abandoned_roles, compare_retention, damaged_streams, orphaned_checkpoints,
        readers_ahead, readers_in_sql,
    },
};
use crate::query::RETIRED;

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "sqlite-store",
        "a file without a store, or of a different release",
        Run::Sqlite(|target, _| Box::pin(check_release(target))),
    ),
    Check::new(
        "sqlite-journal",
        "a file that is not in WAL mode",
        Run::Sqlite(|target, _| Box::pin(check_journal(target))),
    ),
    Check::new(
        "sqlite-wal-size",
        "a write-ahead log that only grows",
        Run::Sqlite(|target, config| Box::pin(check_log_size(target, config))),
    ),
    Check::new(
        "sqlite-disk",
        "a disk that is nearly full",
        Run::Sqlite(|target, config| Box::pin(check_disk(target, config))),
    ),
    Check::new(
        "sqlite-index",
        "indexes and triggers that are missing",
        Run::Sqlite(|target, _| Box::pin(check_parts(target))),
    ),
    Check::new(
        "sqlite-missing-events",
        "missing events of the newest streams",
        Run::Sqlite(|target, config| Box::pin(check_newest_streams(target, config))),
    ),
    Check::new(
        "sqlite-checkpoint-ahead",
        "readers that are ahead of the store",
        Run::Sqlite(|target, _| Box::pin(check_checkpoints_ahead(target))),
    ),
    Check::new(
        "sqlite-orphaned-checkpoint",
        "checkpoints that no process moves",
        Run::Sqlite(|target, config| Box::pin(check_orphaned_checkpoints(target, config))),
    ),
    Check::new(
        "sqlite-abandoned-role",
        "roles without an owner: a relay or projection that does not run",
        Run::Sqlite(|target, config| Box::pin(check_abandoned_roles(target, config))),
    ),
    Check::new(
        "sqlite-event-types",
        "stored event types and versions that this program does not know",
        Run::SqliteTypes(|target, known| Box::pin(check_event_types(target, known))),
    ),
    Check::new(
        "sqlite-dead-letter-age",
        "dead letters that are older than the inbox remembers",
        Run::Sqlite(|target, config| Box::pin(check_dead_letters(target, config))),
    ),
    Check::deep("sqlite-integrity", "a damaged file", Run::Sqlite(|target, _| Box::pin(check_integrity(target)))),
    Check::deep(
        "sqlite-missing-events-all",
        "missing events of all streams",
        Run::Sqlite(|target, _| Box::pin(check_all_streams(target))),
    ),
];

/// Runs a statement, and decodes each row.
fn rows<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    decode: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(sql)?.query_map(params, decode)?.collect()
}

/// Converts an error about a damaged file to a finding.
fn with_damage(checked: Result<Outcome, CheckError>, target: &SqliteTarget) -> Result<Outcome, CheckError> {
    let error = match checked {
        Err(error) if error.is_damage() => error,
        checked => return checked,
    };
    let path = target.path().display().to_string();
    let found = format!("`{path}` is damaged, or no database of SQLite: {error}");
    Ok(Some(Finding::fault(found, DAMAGED, RESTORE).observed(json!({ "path": path }))).into())
}

const DAMAGED: &str = "reads fail or return wrong rows, and writes may damage more of it";
const RESTORE: &str =
    "stop the application, keep a copy, and restore a backup; `.recover` of the sqlite3 shell saves the rest";

async fn check_release(target: &SqliteTarget) -> Result<Outcome, CheckError> {
    let path = target.path().display().to_string();
    let checked = target
        .read(move |connection| {
            let has: bool = connection.query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name IN ('eventbus_events', 'eventbus_migrations')",
                [],
                |row| Ok(row.get::<_, i64>(0)? == 2),
            )?;
            if !has {
                let found = format!("`{path}` holds no store: it lacks `eventbus_events`");
                let consequence = "the store cannot be read; opening it makes new, empty tables";
                let fault = Finding::fault(found, consequence, "give the right file, or restore it from a backup");
                return Ok(Some(fault.observed(json!({ "path": path }))).into());
            }
            let sql = "SELECT version, name, kind FROM eventbus_migrations ORDER BY version";
            let applied = rows(connection, sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok(compare_migrations(&applied, SqliteEventStore::NEWEST_MIGRATION))
        })
        .await;
    with_damage(checked, target)
}

async fn check_journal(target: &SqliteTarget) -> Result<Outcome, CheckError> {
    let mode: String =
        target.read(|connection| Ok(connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?)).await?;
    let finding = || {
        let found = format!("the file is in the journal mode `{mode}`");
        let consequence = "a program has changed it: readers and writers block each other until a store opens the file";
        let repair = "open the store, which sets `journal_mode = WAL`; find the program that changes it";
        Finding::warning(found, consequence, repair).observed(json!({ "journal_mode": mode }))
    };
    Ok((!mode.eq_ignore_ascii_case("wal")).then(finding).into())
}

async fn check_log_size(target: &SqliteTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let mut log = target.path().as_os_str().to_owned();
    log.push("-wal");
    // absent while no process has the file open
    let size = fs::metadata(&log).map_or(0, |log| log.len());
    if size <= config.sqlite_wal_bytes {
        return Ok(Outcome::healthy());
    }
    let found = format!("the write-ahead log of the file has {} MiB", size >> 20);
    let consequence = "every read takes longer, and the log grows until the disk is full";
    let repair = "end the program that keeps a read transaction open; then PRAGMA wal_checkpoint(TRUNCATE)";
    Ok(Some(Finding::warning(found, consequence, repair).observed(json!({ "wal_bytes": size }))).into())
}

async fn check_disk(target: &SqliteTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let folder = target.path().parent().filter(|folder| !folder.as_os_str().is_empty());
    check_free_space(folder.unwrap_or(".".as_ref()), config)
}

/// The indexes and triggers of a new file, beside those of its keys.
const PARTS: [&str; 7] = [
    "eventbus_commands_handled_at_idx",
    "eventbus_deliveries_handled_at_idx",
    "eventbus_events_keep_the_last",
    "eventbus_handler_rows_dead_idx",
    "eventbus_streams_keep_rows",
    "eventbus_unfinished_deliveries_dead_idx",
    "eventbus_tags_keep_rows",
];

async fn check_parts(target: &SqliteTarget) -> Result<Outcome, CheckError> {
    let found: Vec<String> = target
        .read(|connection| {
            let sql = "SELECT name FROM sqlite_schema WHERE type IN ('index', 'trigger') AND name LIKE 'eventbus%'";
            Ok(rows(connection, sql, [], |row| row.get(0))?)
        })
        .await?;
    let missing: Vec<_> = PARTS.into_iter().filter(|part| !found.iter().any(|found| found == part)).collect();
    if missing.is_empty() {
        return Ok(Outcome::healthy());
    }
    let text = format!("the file lacks indexes or triggers of the store: `{}`", missing.join("`, `"));
    let consequence = "without an index statements read whole tables; without a trigger a deleted row lets a number be \
                       used again, and readers miss an event";
    let repair = "make them again as the migrations of eventstore-sqlite do";
    Ok(Some(Finding::fault(text, consequence, repair).observed(json!({ "missing": missing }))).into())
}

async fn check_checkpoints_ahead(target: &SqliteTarget) -> Result<Outcome, CheckError> {
    let ahead: Vec<(String, i64, i64)> = target
        .read(|connection| {
            let sql = "SELECT c.name, c.position, h.position
                FROM (
                    SELECT name, position FROM eventbus_checkpoints
                    UNION ALL
                    SELECT 'floor of ' || consumer_group, position FROM eventbus_floors) c,
                    (SELECT coalesce(max(position), 0) AS position FROM eventbus_events) h
                WHERE c.position > h.position ORDER BY 1";
            Ok(rows(connection, sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?)
        })
        .await?;
    Ok(readers_ahead(readers_in_sql(("eventbus_checkpoints", "eventbus_floors"), ahead)))
}

/// Returns the present time, and the time before which a reader that has not moved counts as abandoned, in
/// microseconds, the unit of the file.
fn now_and_abandoned(config: &DoctorConfig) -> (i64, i64) {
    let now = i64::try_from(config.clock.now().unix_timestamp_nanos() / 1_000).unwrap_or_default();
    (now, now.saturating_sub(i64::try_from(config.abandoned.as_micros()).unwrap_or(i64::MAX)))
}

async fn check_orphaned_checkpoints(target: &SqliteTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let times = now_and_abandoned(config);
    let orphaned: Vec<(String, i64, i64, f64)> = target
        .read(move |connection| {
            let sql = "SELECT c.name, c.position, h.position, (?1 - c.updated_at) / 1e6
                FROM eventbus_checkpoints c, (SELECT coalesce(max(position), 0) AS position FROM eventbus_events) h
                WHERE c.position < h.position
                    AND c.name GLOB 'projection:*'
                    AND c.updated_at < ?2
                    AND NOT EXISTS (SELECT 1 FROM eventbus_leases l WHERE l.role = c.name AND l.expires_at > ?1)
                    -- an event waits for the reader for as long
                    AND ?2 > (
                        SELECT e.recorded_at FROM eventbus_events e
                        WHERE e.position > c.position ORDER BY e.position LIMIT 1)
                ORDER BY c.updated_at LIMIT 20";
            Ok(rows(connection, sql, times, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?)
        })
        .await?;
    Ok(orphaned_checkpoints(orphaned))
}

async fn check_abandoned_roles(target: &SqliteTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (now, abandoned_before) = now_and_abandoned(config);
    let abandoned: Vec<(String, String, f64)> = target
        .read(move |connection| {
            // a lease that was released has no expiry: it ended when it was renewed last
            let sql = "SELECT role, owner, (?1 - ended_at) / 1e6
                FROM (SELECT role, owner, max(renewed_at, expires_at) AS ended_at FROM eventbus_leases)
                -- other roles are those of single commands: they end with them
                WHERE (role GLOB 'projection:*' OR role GLOB 'relay:*')
                    AND owner <> ?3
                    AND ended_at < ?2
                    -- without events since, the whole application may rest
                    AND ended_at < (SELECT recorded_at FROM eventbus_events ORDER BY position DESC LIMIT 1)
                ORDER BY ended_at LIMIT 20";
            Ok(rows(connection, sql, (now, abandoned_before, RETIRED), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?)
        })
        .await?;
    Ok(abandoned_roles(abandoned))
}

async fn check_event_types(target: &SqliteTarget, known: &KnownTypes) -> Result<Outcome, CheckError> {
    let stored: Vec<(String, i64)> = target
        .read(|connection| {
            let sql = "SELECT event_type, schema_version FROM eventbus_event_types ORDER BY 1";
            Ok(rows(connection, sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
        })
        .await?;
    Ok(known.compare(&stored))
}

async fn check_dead_letters(target: &SqliteTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let oldest: Option<i64> = target
        .read(|connection| {
            let sql = "SELECT min(dead_since) FROM eventbus_handler_rows WHERE dead_since IS NOT NULL";
            Ok(connection.query_row(sql, [], |row| row.get(0))?)
        })
        .await?;
    let Some(oldest) = oldest.and_then(|microseconds| u64::try_from(microseconds).ok()) else {
        return Ok(Outcome::healthy());
    };
    let age = config.clock.unix_millis().saturating_sub(oldest / 1_000);
    Ok(compare_retention(Duration::from_millis(age), config).into())
}

async fn check_integrity(target: &SqliteTarget) -> Result<Outcome, CheckError> {
    let checked = target.read(|connection| {
        let problems: Vec<String> = rows(connection, "PRAGMA integrity_check(20)", [], |row| row.get(0))?;
        let problems: Vec<_> = problems.into_iter().filter(|problem| problem != "ok").collect();
        let Some(first) = problems.first() else { return Ok(Outcome::healthy()) };
        let found = format!("the file is damaged, {} problems: {first}", problems.len());
        Ok(Some(Finding::fault(found, DAMAGED, RESTORE).observed(json!({ "problems": problems }))).into())
    });
    with_damage(checked.await, target)
}

async fn check_newest_streams(target: &SqliteTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    check_missing_events(target, (i64::from(config.sampled_streams), SAMPLED_VERSIONS_MAX)).await
}

async fn check_all_streams(target: &SqliteTarget) -> Result<Outcome, CheckError> {
    // a negative limit means no limit
    check_missing_events(target, (-1, i64::MAX)).await
}

/// Compares the versions of streams with their events; `limits` are the number of streams, and of versions per stream.
async fn check_missing_events(target: &SqliteTarget, limits: (i64, i64)) -> Result<Outcome, CheckError> {
    let damaged: Vec<DamagedStream> = target
        .read(move |connection| {
            let sql = "SELECT s.aggregate_type, s.aggregate_id, s.version,
                    s.version - s.archived_through, count(e.version)
                FROM (
                    SELECT * FROM eventbus_streams WHERE kind = 0 AND version - archived_through <= ?2
                    ORDER BY stream_no DESC LIMIT ?1) s
                LEFT JOIN eventbus_events e ON e.stream_no = s.stream_no AND e.version > s.archived_through
                GROUP BY s.stream_no
                HAVING count(e.version) <> s.version - s.archived_through
                    OR coalesce(max(e.version), s.version) <> s.version
                ORDER BY s.stream_no LIMIT 20";
            Ok(rows(connection, sql, limits, |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })?)
        })
        .await?;
    Ok(damaged_streams(&damaged))
}
