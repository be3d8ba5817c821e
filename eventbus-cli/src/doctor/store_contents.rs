//! Checks of what a store on PostgreSQL holds: events, checkpoints, leases, dead letters. The findings are those of all
//! stores.

use std::time::Duration;

use eventbus::support::ReaderKind;
use serde_json::json;

use super::{
    check::{Check, Run},
    config::DoctorConfig,
    finding::{Finding, Severity},
    known_types::KnownTypes,
    outcome::{CheckError, Outcome},
    postgres_target::PostgresTarget,
};
use crate::transfer::MOVE_PREFIX;

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "pg-missing-events",
        "missing events of the newest streams",
        Run::PostgresStore(|target, config| Box::pin(check_newest_streams(target, config))),
    ),
    Check::deep(
        "pg-missing-events-all",
        "missing events of all streams",
        Run::PostgresStore(|target, config| Box::pin(check_all_streams(target, config))),
    ),
    Check::new(
        "pg-checkpoint-ahead",
        "readers that are ahead of the store",
        Run::PostgresStore(|target, config| Box::pin(check_checkpoints_ahead(target, config))),
    ),
    Check::new(
        "pg-orphaned-checkpoint",
        "checkpoints that no process moves",
        Run::PostgresStore(|target, config| Box::pin(check_orphaned_checkpoints(target, config))),
    ),
    Check::new(
        "pg-abandoned-role",
        "roles without an owner: a relay or projection that does not run",
        Run::PostgresStore(|target, config| Box::pin(check_abandoned_roles(target, config))),
    ),
    Check::new(
        "pg-event-types",
        "stored event types and versions that this program does not know",
        Run::PostgresTypes(|target, known, config| Box::pin(check_event_types(target, known, config))),
    ),
    Check::new(
        "pg-dead-letter-age",
        "dead letters that are older than the inbox remembers",
        Run::PostgresStore(|target, config| Box::pin(check_dead_letters(target, config))),
    ),
    Check::new(
        "pg-event-times",
        "events that occurred after they were recorded",
        Run::PostgresStore(|target, config| Box::pin(check_event_times(target, config))),
    ),
];

/// Streams with missing events that a finding names.
const NAMED_MAX: usize = 5;

/// Versions that a check of the newest streams counts in one stream.
pub(crate) const SAMPLED_VERSIONS_MAX: i64 = 1_000;

async fn check_newest_streams(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let limits = (i64::from(config.sampled_streams), SAMPLED_VERSIONS_MAX);
    check_missing_events(target, config.statement_timeout, Some(limits)).await
}

async fn check_all_streams(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    check_missing_events(target, config.deep_timeout, None).await
}

/// Compares the versions of streams with their events; `limits` are the number of streams, and that of versions of one.
async fn check_missing_events(
    target: &PostgresTarget,
    timeout: Duration,
    limits: Option<(i64, i64)>,
) -> Result<Outcome, CheckError> {
    let (streams, versions) = limits.unzip();
    let damaged: Vec<DamagedStream> = target
        .session_within(timeout)
        .await?
        .rows_with(
            "SELECT s.aggregate_type, s.aggregate_id, s.version, s.version - s.archived_through, count(e.version)
             FROM (
                 SELECT * FROM {schema}.streams
                 WHERE kind = 0 AND ($2::bigint IS NULL OR version - archived_through <= $2::bigint)
                 ORDER BY stream_no DESC LIMIT $1::bigint) s
             LEFT JOIN {schema}.events e ON e.stream_no = s.stream_no AND e.version > s.archived_through
             GROUP BY s.stream_no, s.aggregate_type, s.aggregate_id, s.version, s.archived_through
             HAVING count(e.version) <> s.version - s.archived_through
                 OR coalesce(max(e.version), s.version) <> s.version
             ORDER BY s.stream_no LIMIT 20",
            |statement| statement.bind(streams).bind(versions),
        )
        .await?;
    Ok(damaged_streams(&damaged))
}

/// A stream that does not have the events of its version: aggregate type and id, the version, and how many events it should
/// have and has.
pub(crate) type DamagedStream = (String, String, i64, i64, i64);

/// Reports damaged streams, of which a check loads 20 at most.
pub(crate) fn damaged_streams(damaged: &[DamagedStream]) -> Outcome {
    if damaged.is_empty() {
        return Outcome::healthy();
    }
    let named: Vec<_> = damaged
        .iter()
        .take(NAMED_MAX)
        .map(|(kind, id, version, wanted, found)| format!("{kind} {id} (version {version}: {found} of {wanted})"))
        .collect();
    let least = if damaged.len() == 20 { "at least " } else { "" };
    let found =
        format!("{least}{} streams do not have the events of their version: {}", damaged.len(), named.join(", "));
    let streams: Vec<_> = damaged
        .iter()
        .map(|(kind, id, version, wanted, found)| {
            json!({ "aggregate_type": kind, "aggregate_id": id, "version": version, "wanted": wanted, "found": found })
        })
        .collect();
    Some(missing_events(found).observed(json!({ "streams": streams }))).into()
}

pub(crate) fn missing_events(found: String) -> Finding {
    Finding::fault(
        found,
        "software that is not the store has removed or added events: loads of these aggregates fail, and readers stop",
        "restore the events from a backup; what was archived on purpose is noted in `archived_through`",
    )
}

async fn check_checkpoints_ahead(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let ahead: Vec<(String, i64, i64)> = target
        .session(config)
        .await?
        .rows(
            "WITH head AS (SELECT coalesce(max(position), 0) AS position FROM {schema}.events)
             SELECT c.name, c.position, h.position FROM {schema}.checkpoints c, head h WHERE c.position > h.position
             UNION ALL
             SELECT 'floor of ' || f.consumer_group, f.position, h.position
             FROM {schema}.floors f, head h WHERE f.position > h.position
             ORDER BY 1",
        )
        .await?;
    Ok(readers_ahead(&ahead))
}

/// The most readers of one report.
const READERS_MAX: usize = 20;

/// Reports the readers among checkpoints that are ahead of the store: each with its name, its position and the store's head.
pub(crate) fn readers_ahead(checkpoints: &[(String, i64, i64)]) -> Outcome {
    // the checkpoint of a move is a position of the other store; that of a halted relay, and the limit up to which a group
    // reads, are ahead by their meaning
    let others = [MOVE_PREFIX, ReaderKind::HaltedRelay.prefix(), ReaderKind::GroupReadLimit.prefix()];
    let readers = checkpoints.iter().filter(|(name, ..)| !others.iter().any(|other| name.starts_with(other)));
    readers.take(READERS_MAX).map(|(name, at, head)| reader_ahead(name, *at, *head)).collect()
}

fn reader_ahead(name: &str, at: i64, head: i64) -> Finding {
    Finding::fault(
        format!("the checkpoint `{name}` is at position {at}, and the store ends at {head}"),
        "the store came back from an older copy: the reader skips the next events, which take these positions",
        "compare with what the reader has written; rebuild the projection, or set the checkpoint to the head",
    )
    .observed(json!({ "name": name, "at": at.to_string(), "head": head.to_string() }))
}

async fn check_orphaned_checkpoints(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let orphaned: Vec<(String, i64, i64, f64)> = target
        .session(config)
        .await?
        .rows_with(
            "SELECT c.name, c.position, h.position, extract(epoch FROM clock_timestamp() - c.updated_at)::float8
             FROM {schema}.checkpoints c
             CROSS JOIN (SELECT coalesce(max(position), 0) AS position FROM {schema}.events) h
             WHERE c.position < h.position
               AND (c.name LIKE 'projection:%' OR c.name LIKE 'group:%')
               AND extract(epoch FROM clock_timestamp() - c.updated_at) > $1
               AND NOT EXISTS (
                   SELECT FROM {schema}.leases l WHERE l.role = c.name AND l.expires_at > clock_timestamp())
               -- an event waits for the reader for as long
               AND extract(epoch FROM clock_timestamp() - (
                   SELECT e.recorded_at FROM {schema}.events e
                   WHERE e.position > c.position ORDER BY e.position LIMIT 1)) > $1
             ORDER BY c.updated_at LIMIT 20",
            |statement| statement.bind(config.abandoned.as_secs_f64()),
        )
        .await?;
    Ok(orphaned_checkpoints(orphaned))
}

/// Reports checkpoints that no process moves: each with its name, its position, the store's head, and the seconds since it
/// was saved.
pub(crate) fn orphaned_checkpoints(orphaned: Vec<(String, i64, i64, f64)>) -> Outcome {
    let finding = |(name, at, head, age): (String, i64, i64, f64)| {
        let found = format!("the checkpoint `{name}` is at {at} of {head}, and has not moved for {age:.0} s");
        let consequence = "its reader does not run, or has a different name now: its read model is out of date";
        let repair = "start the process with that reader; delete the row if the reader is gone for good";
        let observed = json!({ "name": name, "at": at.to_string(), "head": head.to_string(), "seconds": age });
        Finding::warning(found, consequence, repair).observed(observed)
    };
    orphaned.into_iter().map(finding).collect()
}

async fn check_abandoned_roles(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let abandoned: Vec<(String, String, f64)> = target
        .session(config)
        .await?
        .rows_with(
            "SELECT l.role, l.owner, extract(epoch FROM clock_timestamp() - l.expires_at)::float8
             FROM {schema}.leases l
             -- other roles are those of single commands: they end with them
             WHERE (l.role LIKE 'projection:%' OR l.role LIKE 'relay:%')
               AND extract(epoch FROM clock_timestamp() - l.expires_at) > $1
               -- without events since, the whole application may rest
               AND l.expires_at < (
                   SELECT e.recorded_at FROM {schema}.events e ORDER BY e.position DESC LIMIT 1)
             ORDER BY l.expires_at LIMIT 20",
            |statement| statement.bind(config.abandoned.as_secs_f64()),
        )
        .await?;
    Ok(abandoned_roles(abandoned))
}

/// Reports roles without an owner: each with the last one, and the seconds since then.
pub(crate) fn abandoned_roles(abandoned: impl IntoIterator<Item = (String, String, f64)>) -> Outcome {
    let finding = |(role, owner, age): (String, String, f64)| {
        let found = format!("no process has had the role `{role}` for {age:.0} s (the last one: `{owner}`)");
        let consequence = "events are saved, and the relay or projection of that role does not run";
        let repair = "start the process that has it; delete its lease if the role is gone for good";
        Finding::warning(found, consequence, repair).observed(json!({ "role": role, "owner": owner, "seconds": age }))
    };
    abandoned.into_iter().take(READERS_MAX).map(finding).collect()
}

async fn check_event_types(
    target: &PostgresTarget,
    known: &KnownTypes,
    config: &DoctorConfig,
) -> Result<Outcome, CheckError> {
    let stored: Vec<(String, i64)> = target
        .session(config)
        .await?
        .rows("SELECT event_type, max(schema_version)::bigint FROM {schema}.event_types GROUP BY event_type ORDER BY 1")
        .await?;
    Ok(known.compare(&stored))
}

async fn check_dead_letters(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (age,): (Option<f64>,) = target
        .session(config)
        .await?
        .row(
            "SELECT extract(epoch FROM clock_timestamp() - min(dead_since))::float8
             FROM {schema}.unfinished_deliveries WHERE dead_since IS NOT NULL",
        )
        .await?;
    let age = Duration::try_from_secs_f64(age.unwrap_or_default()).unwrap_or_default();
    Ok(compare_retention(age, config).into())
}

/// Compares the age of the oldest dead letter with the retention of the inbox.
pub(crate) fn compare_retention(age: Duration, config: &DoctorConfig) -> Option<Finding> {
    const DAY: u64 = 24 * 3_600;
    let (age, retention) = (age.as_secs(), config.inbox_retention.as_secs());
    if age <= retention {
        return None;
    }
    let found =
        format!("the oldest dead letter is {} days old, and the inbox remembers {} days", age / DAY, retention / DAY);
    let consequence = "a replay repeats effects of handlers that had succeeded with the event";
    let repair = "replay or discard it after checking its effects; let `inbox_retention` of the app be longer";
    let observed = json!({ "age_seconds": age, "retention_seconds": retention });
    Some(Finding::new(Severity::Warning, found, consequence, repair).observed(observed))
}

async fn check_event_times(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (most, position): (Option<f64>, Option<i64>) = target
        .session(config)
        .await?
        .rows(
            "SELECT extract(epoch FROM occurred_at - recorded_at)::float8, position
             FROM (SELECT * FROM {schema}.events ORDER BY position DESC LIMIT 1000) e
             ORDER BY 1 DESC LIMIT 1",
        )
        .await?
        .into_iter()
        .next()
        .unwrap_or_default();
    let Some((most, position)) = most.zip(position).filter(|(most, _)| *most > config.clock_skew.as_secs_f64()) else {
        return Ok(Outcome::healthy());
    };
    let found = format!("the event at position {position} occurred {most:.1} s after it was recorded");
    let consequence = "the clock of the process that saved it is ahead: its times are wrong for people and reports";
    let repair = "let NTP set the clocks of all machines; if the application sets `occurred_at`, correct it there";
    let observed = json!({ "position": position.to_string(), "seconds": most });
    Ok(Some(Finding::warning(found, consequence, repair).observed(observed)).into())
}
