//! The findings about the contents of a store of any kind: each backend has its own checks, which collect the facts.

use std::time::Duration;

use eventbus::support::ReaderKind;
use serde_json::json;

use super::{
    config::DoctorConfig,
    finding::{Finding, Severity},
    outcome::Outcome,
};
use crate::transfer::MOVE_PREFIX;

/// The most streams with missing events that a finding names.
const NAMED_MAX: usize = 5;

/// The most versions that a check of the newest streams counts in one stream.
pub(crate) const SAMPLED_VERSIONS_MAX: i64 = 1_000;

/// A stream that lacks events below its version: aggregate type and id, the version, and how many events it should have
/// and has.
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

/// The most readers of one report.
const READERS_MAX: usize = 20;

/// A checkpoint, or the low-water mark of a group: its name, its position, the store's head, and the command that sets it
/// to the head.
pub(crate) type ReaderPosition = (String, i64, i64, String);

/// Reports the readers among checkpoints that are ahead of the store.
pub(crate) fn readers_ahead(checkpoints: impl IntoIterator<Item = ReaderPosition>) -> Outcome {
    // the checkpoint of a move is a position of the other store; the checkpoint of a halted relay may be ahead
    let others = [MOVE_PREFIX, ReaderKind::HaltedRelay.prefix()];
    let readers = checkpoints.into_iter().filter(|(name, ..)| !others.iter().any(|other| name.starts_with(other)));
    readers.take(READERS_MAX).map(|(name, at, head, set_back)| reader_ahead(&name, at, head, &set_back)).collect()
}

/// Adds the statements for two SQL tables, of checkpoints and of low-water marks; their list names the latter `floor of`
/// and the group.
pub(crate) fn readers_in_sql(
    (checkpoints, floors): (&str, &str),
    positions: Vec<(String, i64, i64)>,
) -> impl Iterator<Item = ReaderPosition> {
    positions.into_iter().map(move |(name, at, head)| {
        let (table, column, value) = match name.strip_prefix("floor of ") {
            Some(group) => (floors, "consumer_group", group),
            None => (checkpoints, "name", name.as_str()),
        };
        let value = value.replace('\'', "''");
        let set_back = format!("UPDATE {table} SET position = {head} WHERE {column} = '{value}' AND position > {head}");
        (name, at, head, set_back)
    })
}

fn reader_ahead(name: &str, at: i64, head: i64, set_back: &str) -> Finding {
    Finding::fault(
        format!("the checkpoint `{name}` is at position {at}, and the store ends at {head}"),
        "the store came back from an older copy: the reader skips the next events, which take these positions",
        format!(
            "stop the reader, and compare with what it has written; rebuild the projection, or set the checkpoint to the \
             head: {set_back}"
        ),
    )
    .observed(json!({ "name": name, "at": at.to_string(), "head": head.to_string() }))
}

/// Reports checkpoints that no process moves: each with its name, its position, the store's head, and the seconds since
/// it was saved.
pub(crate) fn orphaned_checkpoints(orphaned: Vec<(String, i64, i64, f64)>) -> Outcome {
    let finding = |(name, at, head, age): (String, i64, i64, f64)| {
        let found = format!("the checkpoint `{name}` is at {at} of {head}, and has not moved for {age:.0} s");
        let consequence = "its reader does not run, or has a different name now: its read model is out of date";
        let repair = "start the process with that reader; if it is gone for good: `eventbus projections retire`";
        let observed = json!({ "name": name, "at": at.to_string(), "head": head.to_string(), "seconds": age });
        Finding::warning(found, consequence, repair).observed(observed)
    };
    orphaned.into_iter().map(finding).collect()
}

/// Reports roles without an owner: each with the last one, and the seconds since then.
pub(crate) fn abandoned_roles(abandoned: impl IntoIterator<Item = (String, String, f64)>) -> Outcome {
    let finding = |(role, owner, age): (String, String, f64)| {
        let found = format!("no process has had the role `{role}` for {age:.0} s (the last one: `{owner}`)");
        let consequence = "events are saved, and the relay or projection of that role does not run";
        let retire = match role.starts_with(ReaderKind::Relay.prefix()) {
            true => "eventbus relay retire",
            false => "eventbus projections retire",
        };
        let repair = format!("start the process that has it; if the role is gone for good: `{retire}`");
        Finding::warning(found, consequence, repair).observed(json!({ "role": role, "owner": owner, "seconds": age }))
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
    Some(Finding::new(Severity::Warning, found, consequence, repair).observed(observed))
}
