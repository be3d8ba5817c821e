//! Checks of the contents of a store of any kind: events, checkpoints, leases, dead letters.
//!
//! The SQL stores share the statements; a store on Redis reads the same facts through its ports.

use std::time::Duration;

use eventbus::support::ReaderKind;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    config::DoctorConfig,
    finding::Finding,
    outcome::{CheckError, Outcome},
    statement::{Known, Row, Statement, judged, parse_all, warning},
};
use crate::transfer::MOVE_PREFIX;

/// Compares the versions of streams with their events, in so many streams with at most so many versions.
macro_rules! damaged_streams {
    ($streams:literal, $versions:literal) => {
        concat!(
            "SELECT s.aggregate_type, s.aggregate_id, s.version, s.version - s.archived_through AS wanted,
                count(e.version) AS found
             FROM (
                SELECT * FROM {table streams} WHERE kind = 0 AND version - archived_through <= ",
            $versions,
            " ORDER BY stream_no DESC LIMIT ",
            $streams,
            ") s
             LEFT JOIN {table events} e ON e.stream_no = s.stream_no AND e.version > s.archived_through
             GROUP BY s.stream_no, s.aggregate_type, s.aggregate_id, s.version, s.archived_through
             HAVING count(e.version) <> s.version - s.archived_through
                OR coalesce(max(e.version), s.version) <> s.version
             ORDER BY s.stream_no LIMIT 20"
        )
    };
}

pub(crate) const NEWEST_STREAMS: &[Statement] =
    &[judged(damaged_streams!("{sampled_streams}", "1000"), judge_damaged_streams)];

pub(crate) const ALL_STREAMS: &[Statement] =
    &[judged(damaged_streams!("9223372036854775807", "9223372036854775807"), judge_damaged_streams)];

pub(crate) const CHECKPOINTS_AHEAD: &[Statement] = &[judged(
    "SELECT c.name, c.position AS at, h.position AS head,
        'UPDATE {table checkpoints} SET position = ' || h.position || ' WHERE name = '''
            || replace(c.name, '''', '''''') || ''' AND position > ' || h.position AS set_back
     FROM {table checkpoints} c, (SELECT coalesce(max(position), 0) AS position FROM {table events}) h
     WHERE c.position > h.position ORDER BY c.name",
    |rows, _| Ok(readers_ahead(parse_all(rows)?)),
)];

pub(crate) const ORPHANED_CHECKPOINTS: &[Statement] = &[warning(
    "SELECT c.name, CAST(c.position AS text) AS at, CAST(h.position AS text) AS head,
        {now} - {seconds c.updated_at} AS seconds
     FROM {table checkpoints} c, (SELECT coalesce(max(position), 0) AS position FROM {table events}) h
     WHERE c.position < h.position
        AND c.name LIKE 'projection:%'
        AND {now} - {seconds c.updated_at} > {abandoned}
        AND NOT EXISTS (SELECT 1 FROM {table leases} l WHERE l.role = c.name AND {seconds l.expires_at} > {now})
        -- an event waits for the reader for as long
        AND {now} - (
            SELECT {seconds e.recorded_at} FROM {table events} e
            WHERE e.position > c.position ORDER BY e.position LIMIT 1) > {abandoned}
     ORDER BY c.updated_at LIMIT 20",
    "the checkpoint `{name}` is at {at} of {head}, and has not moved for {seconds:.0} s",
    "its reader does not run, or has a different name now: its read model is out of date",
    "start the process with that reader; if it is gone for good: `eventbus projections retire`",
)];

pub(crate) const ABANDONED_ROLES: &[Statement] = &[judged(
    "SELECT role, owner, {now} - ended AS seconds
     FROM (SELECT role, owner, {lease_end} AS ended FROM {table leases}) l
     -- other roles are those of single commands: they end with them
     WHERE (role LIKE 'projection:%' OR role LIKE 'relay:%')
        AND owner <> {retired}
        AND {now} - ended > {abandoned}
        -- without events since, the whole application may rest
        AND ended < (SELECT {seconds e.recorded_at} FROM {table events} e ORDER BY e.position DESC LIMIT 1)
     ORDER BY ended LIMIT 20",
    |rows, _| Ok(abandoned_roles(parse_all(rows)?)),
)];

pub(crate) const EVENT_TYPES: &[Statement] = &[judged(
    "SELECT event_type, max(schema_version) AS schema_version FROM {table event_types} GROUP BY event_type ORDER BY 1",
    |rows, known| {
        let stored: Vec<(String, i64)> = rows
            .iter()
            .map(|row| Ok((row.get("event_type")?, row.get("schema_version")?)))
            .collect::<Result<_, CheckError>>()?;
        Ok(known.types.map_or_else(Outcome::healthy, |types| types.compare(&stored)))
    },
)];

pub(crate) const DEAD_LETTERS: &[Statement] = &[judged(
    "SELECT {now} - {seconds min(dead_since)} AS age FROM {table handler_rows} WHERE dead_since IS NOT NULL",
    |rows, Known { config, .. }| {
        let age: Option<f64> = rows.first().map(|row| row.get("age")).transpose()?.flatten();
        let age = Duration::try_from_secs_f64(age.unwrap_or_default()).unwrap_or_default();
        Ok(compare_retention(age, config).into())
    },
)];

/// The most streams with missing events that a finding names.
const NAMED_MAX: usize = 5;

/// The most readers of one report.
const READERS_MAX: usize = 20;

/// A stream that lacks events below its version.
#[derive(Debug, Serialize, Deserialize)]
struct DamagedStream {
    aggregate_type: String,
    aggregate_id: String,
    version: i64,
    wanted: i64,
    found: i64,
}

/// Reports damaged streams, of which a check loads 20 at most.
fn judge_damaged_streams(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let damaged: Vec<DamagedStream> = parse_all(rows)?;
    if damaged.is_empty() {
        return Ok(Outcome::healthy());
    }
    let name = |stream: &DamagedStream| {
        let DamagedStream { aggregate_type, aggregate_id, version, wanted, found } = stream;
        format!("{aggregate_type} {aggregate_id} (version {version}: {found} of {wanted})")
    };
    let named: Vec<_> = damaged.iter().take(NAMED_MAX).map(name).collect();
    let least = if damaged.len() == 20 { "at least " } else { "" };
    let found =
        format!("{least}{} streams do not have the events of their version: {}", damaged.len(), named.join(", "));
    Ok(missing_events(found).observed(json!({ "streams": damaged })).into())
}

pub(crate) fn missing_events(found: String) -> Finding {
    Finding::fault(
        found,
        "software that is not the store has removed or added events: loads of these aggregates fail, and readers stop",
        "restore the events from a backup; what was archived on purpose is noted in `archived_through`",
    )
}

/// A checkpoint, with the store's head, and the command that sets it to the head.
#[derive(Debug, Deserialize)]
pub(crate) struct ReaderPosition {
    pub(crate) name: String,
    pub(crate) at: i64,
    pub(crate) head: i64,
    pub(crate) set_back: String,
}

/// Reports the readers among checkpoints that are ahead of the store.
pub(crate) fn readers_ahead(checkpoints: Vec<ReaderPosition>) -> Outcome {
    // the checkpoint of a move is a position of the other store; the checkpoint of a halted relay may be ahead
    let others = [MOVE_PREFIX, ReaderKind::HaltedRelay.prefix()];
    let readers = checkpoints.into_iter().filter(|reader| !others.iter().any(|other| reader.name.starts_with(other)));
    let finding = |ReaderPosition { name, at, head, set_back }| {
        Finding::fault(
            format!("the checkpoint `{name}` is at position {at}, and the store ends at {head}"),
            "the store came back from an older copy: the reader skips the next events, which take these positions",
            format!(
                "stop the reader, and compare with what it has written; rebuild the projection, or set the checkpoint to \
                 the head: {set_back}"
            ),
        )
        .observed(json!({ "name": name, "at": at.to_string(), "head": head.to_string() }))
    };
    readers.take(READERS_MAX).map(finding).collect()
}

/// A role without an owner: the last one, and the seconds since then.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AbandonedRole {
    pub(crate) role: String,
    pub(crate) owner: String,
    pub(crate) seconds: f64,
}

/// Reports roles without an owner.
pub(crate) fn abandoned_roles(abandoned: Vec<AbandonedRole>) -> Outcome {
    let finding = |abandoned: AbandonedRole| {
        let AbandonedRole { role, owner, seconds } = &abandoned;
        let found = format!("no process has had the role `{role}` for {seconds:.0} s (the last one: `{owner}`)");
        let consequence = "events are saved, and the relay or projection of that role does not run";
        let retire = match role.starts_with(ReaderKind::Relay.prefix()) {
            true => "eventbus relay retire",
            false => "eventbus projections retire",
        };
        let repair = format!("start the process that has it; if the role is gone for good: `{retire}`");
        Finding::warning(found, consequence, repair).observed(json!(abandoned))
    };
    abandoned.into_iter().take(READERS_MAX).map(finding).collect()
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
    Some(Finding::warning(found, consequence, repair).observed(observed))
}
