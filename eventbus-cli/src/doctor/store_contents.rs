//! Checks of the contents of a store of any kind: events, checkpoints, leases, dead letters.
//!
//! The SQL stores share the statements of `checks.sql`; the facts of a store on Redis come through its ports.

use std::time::Duration;

use eventbus::support::ReaderKind;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    config::DoctorConfig,
    finding::Finding,
    outcome::{CheckError, Outcome},
    statement::{Known, Row, parse_all},
};
use crate::transfer::MOVE_PREFIX;

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
pub(crate) fn judge_damaged_streams(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
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

pub(crate) fn judge_positions(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    Ok(readers_ahead(parse_all(rows)?))
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

pub(crate) fn judge_roles(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    Ok(abandoned_roles(parse_all(rows)?))
}

pub(crate) fn judge_event_types(rows: &[Row], known: Known<'_>) -> Result<Outcome, CheckError> {
    let stored = rows.iter().map(|row| Ok((row.get("event_type")?, row.get("schema_version")?)));
    let stored: Vec<(String, i64)> = stored.collect::<Result<_, CheckError>>()?;
    Ok(known.types.map_or_else(Outcome::healthy, |types| types.compare(&stored)))
}

pub(crate) fn judge_dead_letters(rows: &[Row], known: Known<'_>) -> Result<Outcome, CheckError> {
    let age: Option<f64> = rows.first().map(|row| row.get("age")).transpose()?.flatten();
    let age = Duration::try_from_secs_f64(age.unwrap_or_default()).unwrap_or_default();
    Ok(compare_retention(age, known.config).into())
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
