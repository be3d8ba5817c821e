//! The consumer groups of a bus.

use eventbus::{Name, Position, clock::SharedClock, health::GroupInfo, store::EventStore, support::ReaderKind};
use serde::Serialize;

use super::{
    dead_letters::DeadLetterTally,
    position::{Lag, all_checkpoints},
};
use crate::{connection::OpenBus, error::CommandError};

/// A consumer group of a bus.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GroupRow {
    /// Its name.
    pub group: String,
    /// The number of live consumers; `None` for a group of the in-process bus, whose only consumer is the application's
    /// process.
    pub consumers: Option<u64>,
    /// The entries that consumers have read and not acknowledged, or that wait for a retry; `None` if they were not
    /// counted.
    pub pending: Option<u64>,
    /// The time since the oldest of them was published, in milliseconds, if the bus knows.
    pub oldest_ms: Option<u64>,
    /// The entries that no consumer has read; `None` if neither the bus nor the store knows. An upper bound for a group
    /// of the in-process bus, and if Redis has lost count.
    pub unread: Option<u64>,
    /// The time since the oldest of them was published, in milliseconds, if the bus knows.
    pub oldest_unread_ms: Option<u64>,
    /// Its dead letters, among the oldest 1,000 of the bus.
    pub dead_letters: u64,
    /// Set if it holds up trimming: it has unfinished entries, and no other group is further behind.
    pub holds_trim: bool,
    /// The position up to which it has finished all events of the store, if the store keeps it.
    pub position: Option<String>,
    /// The time since the first event after that position was recorded; 0 if the group has no entries left. Without a
    /// position, the time since its oldest unfinished entry was published; `None` if neither is known.
    pub seconds: Option<f64>,
    /// Remarks of the bus on its consumers: long runs, a consumer without heartbeats, and the delivery that has been
    /// unfinished for longest.
    #[serde(skip)]
    pub remarks: Vec<String>,
}

/// The data that is read about the groups of the in-process bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupDetail {
    /// Also the deliveries that wait for a retry: the store reads a row for each unfinished delivery of a group,
    /// including its dead letters.
    Waiting,
    /// Only their checkpoints: pending deliveries are not counted, and the lag is the checkpoint's.
    Checkpoints,
}

impl GroupRow {
    /// Returns the number of its unfinished entries; `None` if neither the bus nor the store knows it.
    #[must_use]
    pub fn unfinished(&self) -> Option<u64> {
        Some(self.unread?.saturating_add(self.pending.unwrap_or_default()))
    }

    /// Returns `true` if entries wait, or may wait, and no consumer is alive.
    #[must_use]
    pub fn lacks_consumer(&self) -> bool {
        self.consumers == Some(0) && self.unfinished() != Some(0)
    }
}

/// Lists the consumer groups of a bus, by name, with the counts of their dead letters from `tally`.
///
/// # Errors
/// [`CommandError`] if the bus or the store cannot be reached.
pub async fn list_groups(
    bus: &OpenBus,
    store: Option<&dyn EventStore>,
    (tally, detail): (&DeadLetterTally, GroupDetail),
    clock: &SharedClock,
) -> Result<Vec<GroupRow>, CommandError> {
    match store {
        Some(store) if bus.is_in_process() => groups_in_process(store, (tally, detail), clock).await,
        None if bus.is_in_process() => Ok(Vec::new()),
        _ => groups_of_stream(bus, tally).await,
    }
}

/// Lists the groups of a bus that keeps their progress itself.
async fn groups_of_stream(bus: &OpenBus, tally: &DeadLetterTally) -> Result<Vec<GroupRow>, CommandError> {
    let info = bus.stream_info().await?;
    let holder = match bus {
        OpenBus::Redis(redis) => redis.trim_blocker().await?.map(|blocker| blocker.group),
        _ => None,
    };
    let row = |group| {
        let mut row = row_of(group, tally, holder.as_deref());
        let oldest = row.oldest_ms.max(row.oldest_unread_ms).map(|oldest| oldest as f64 / 1_000.0);
        row.seconds = if row.unfinished() == Some(0) { Some(0.0) } else { oldest };
        row
    };
    let mut rows: Vec<_> = info.consumer_groups.into_iter().map(row).collect();
    rows.sort_by(|one, two| one.group.cmp(&two.group));
    Ok(rows)
}

fn row_of(group: GroupInfo, tally: &DeadLetterTally, holder: Option<&str>) -> GroupRow {
    let runs = group.in_flight.iter().map(ToString::to_string);
    let silent = group.silent.iter().map(ToString::to_string);
    let unfinished = group.oldest_unfinished.iter().map(ToString::to_string);
    GroupRow {
        remarks: runs.chain(silent).chain(unfinished).collect(),
        consumers: Some(group.active_consumers),
        pending: Some(group.pending),
        oldest_ms: group.oldest_pending_age_ms,
        unread: group.lag,
        oldest_unread_ms: group.oldest_unread_age_ms.filter(|_| group.lag != Some(0)),
        dead_letters: tally.of_group(&group.name),
        holds_trim: holder == Some(&*group.name),
        group: group.name,
        ..GroupRow::default()
    }
}

/// Lists the groups of the in-process bus, whose progress is in the store.
async fn groups_in_process(
    store: &dyn EventStore,
    (tally, detail): (&DeadLetterTally, GroupDetail),
    clock: &SharedClock,
) -> Result<Vec<GroupRow>, CommandError> {
    let prefix = ReaderKind::Group.prefix();
    let checkpoints = all_checkpoints(store, prefix).await?;
    let head = store.head().await?;
    let mut rows = Vec::with_capacity(checkpoints.len());
    for checkpoint in checkpoints {
        let Some(group) = ReaderKind::parse(&checkpoint.name).and_then(|(_, name)| Name::new("group", name).ok())
        else {
            continue;
        };
        let waiting = match detail {
            GroupDetail::Waiting => Some(store.waiting_deliveries(&group).await?),
            GroupDetail::Checkpoints => None,
        };
        let first_waiting = waiting.as_ref().and_then(|waiting| waiting.first());
        let first_waiting = first_waiting.map(|delivery| Position::new(delivery.position.get().saturating_sub(1)));
        let behind = first_waiting.map_or(checkpoint.position, |waiting| waiting.min(checkpoint.position));
        rows.push(GroupRow {
            pending: waiting.as_ref().map(|waiting| waiting.len() as u64),
            unread: Some(head.get().saturating_sub(checkpoint.position.get())),
            dead_letters: tally.of_group(&group),
            position: Some(checkpoint.position.to_string()),
            seconds: Lag::load(store, clock, behind, head).await?.seconds,
            group: group.to_string(),
            ..GroupRow::default()
        });
    }
    rows.sort_by(|one, two| one.group.cmp(&two.group));
    Ok(rows)
}
