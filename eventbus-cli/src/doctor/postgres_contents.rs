//! Checks of the contents of a store on PostgreSQL: events, checkpoints, leases, dead letters.

use std::time::Duration;

use serde_json::json;

use super::{
    check::{Check, Run},
    config::DoctorConfig,
    finding::Finding,
    known_types::KnownTypes,
    outcome::{CheckError, Outcome},
    postgres_target::PostgresTarget,
    store_contents::{
        DamagedStream, SAMPLED_VERSIONS_MAX, abandoned_roles, compare_retention, damaged_streams, orphaned_checkpoints,
        readers_ahead, readers_in_sql,
    },
};
use crate::query::RETIRED;

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

async fn check_newest_streams(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let limits = (i64::from(config.sampled_streams), SAMPLED_VERSIONS_MAX);
    check_missing_events(target, config.statement_timeout, Some(limits)).await
}

async fn check_all_streams(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    check_missing_events(target, config.deep_timeout, None).await
}

/// Compares the versions of streams with their events; `limits` are the number of streams, and of versions per stream.
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
    let [checkpoints, floors] = ["checkpoints", "floors"].map(|table| format!("\"{}\".{table}", target.schema()));
    Ok(readers_ahead(readers_in_sql((&checkpoints, &floors), ahead)))
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
               AND c.name LIKE 'projection:%'
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

async fn check_abandoned_roles(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let abandoned: Vec<(String, String, f64)> = target
        .session(config)
        .await?
        .rows_with(
            "SELECT l.role, l.owner, extract(epoch FROM clock_timestamp() - l.expires_at)::float8
             FROM {schema}.leases l
             -- other roles are those of single commands: they end with them
             WHERE (l.role LIKE 'projection:%' OR l.role LIKE 'relay:%')
               AND l.owner <> $2
               AND extract(epoch FROM clock_timestamp() - l.expires_at) > $1
               -- without events since, the whole application may rest
               AND l.expires_at < (
                   SELECT e.recorded_at FROM {schema}.events e ORDER BY e.position DESC LIMIT 1)
             ORDER BY l.expires_at LIMIT 20",
            |statement| statement.bind(config.abandoned.as_secs_f64()).bind(RETIRED),
        )
        .await?;
    Ok(abandoned_roles(abandoned))
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
             FROM {schema}.handler_rows WHERE dead_since IS NOT NULL",
        )
        .await?;
    let age = Duration::try_from_secs_f64(age.unwrap_or_default()).unwrap_or_default();
    Ok(compare_retention(age, config).into())
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
