//! The consumer groups of a bus.

use eventbus::{Position, clock::SharedClock, health::GroupInfo, store::EventStore};
use serde::Serialize;

use super::{dead_letters::DeadLetterTally, position::Lag};
use crate::{connection::OpenBus, error::CommandError};

/// A consumer group of a bus.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GroupRow {
    /// Its name.
    pub group: String,
    /// The number of live consumers.
    pub consumers: u64,
    /// The entries that consumers have read and not acknowledged, or that wait for a retry.
    pub pending: u64,
    /// The time since the oldest of them was published, in milliseconds, if the bus knows.
    pub oldest_ms: Option<u64>,
    /// The entries that no consumer has read; `None` if neither the bus nor the store knows. An upper bound if Redis
    /// has lost count.
    pub unread: Option<u64>,
    /// The time since the oldest of them was published, in milliseconds, if the bus knows.
    pub oldest_unread_ms: Option<u64>,
    /// Its dead letters, among the oldest 1,000 of the bus.
    pub dead_letters: u64,
    /// Set if the server has lost the group: trimming stops until a consumer creates it again, or it is retired.
    #[serde(rename = "lost")]
    pub is_lost: bool,
    /// Set if a bus created it while it connected, and no consumer has joined it yet: it is not behind, and does not hold
    /// trimming.
    #[serde(rename = "unjoined")]
    pub is_unjoined: bool,
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

impl GroupRow {
    /// Returns the number of its unfinished entries; `None` if neither the bus nor the store knows it.
    #[must_use]
    pub fn unfinished(&self) -> Option<u64> {
        Some(self.unread?.saturating_add(self.pending))
    }

    /// Returns `true` if entries wait, or may wait, and no consumer is alive.
    #[must_use]
    pub fn lacks_consumer(&self) -> bool {
        self.consumers == 0 && !self.is_lost && !self.is_unjoined && self.unfinished() != Some(0)
    }
}

/// Lists the consumer groups of a bus, by name, with the counts of their dead letters from `tally`; none without a server
/// or a file that has them.
///
/// # Errors
/// [`CommandError`] if the bus or the store cannot be reached.
pub async fn list_groups(
    bus: &OpenBus,
    store: Option<&dyn EventStore>,
    tally: &DeadLetterTally,
    clock: &SharedClock,
) -> Result<Vec<GroupRow>, CommandError> {
    if bus.is_in_process() {
        return Ok(Vec::new());
    }
    let (port, info) = (bus.as_bus(), bus.stream_info().await?);
    let (holder, lost, unjoined) = match bus {
        OpenBus::Redis(redis) => {
            let holder = redis.trim_blocker().await?.map(|blocker| blocker.group);
            (holder, redis.lost_groups().await?, redis.unjoined_groups().await?)
        }
        _ => Default::default(),
    };
    let (floors, head) = match store {
        Some(store) => (store.floors(port.destination()).await?, store.head().await?),
        None => (Vec::new(), Position::START),
    };
    let mut groups = info.consumer_groups;
    for name in &lost {
        // one partition may have lost it, while a different one has it
        if groups.iter().all(|group| *group.name != **name) {
            groups.push(GroupInfo::new(name.as_str(), 0, 0));
        }
    }
    groups.sort_by(|one, two| one.name.cmp(&two.name));
    let mut rows = Vec::with_capacity(groups.len());
    for group in groups {
        let floor = floors.iter().find(|floor| *floor.group == *group.name).map(|floor| floor.position);
        let mut row = row_of(group, tally, holder.as_deref());
        row.is_unjoined = unjoined.iter().any(|name| **name == *row.group);
        if lost.iter().any(|name| **name == *row.group) {
            row.is_lost = true;
            row.unread = None;
            row.remarks.push("the server has lost the group: start a consumer of it, or retire it".into());
        }
        row.position = floor.map(|floor| floor.to_string());
        let lag = match store.zip(floor) {
            _ if row.unfinished() == Some(0) => Some(Lag::NONE),
            Some((store, floor)) => Some(Lag::load(store, clock, floor, head).await?),
            None => None,
        };
        // of a group whose entries the server has lost count of
        row.unread = row.unread.or_else(|| Some(lag?.events.saturating_sub(row.pending)));
        row.seconds = match lag {
            Some(lag) => lag.seconds,
            None => row.oldest_ms.max(row.oldest_unread_ms).map(|oldest| oldest as f64 / 1_000.0),
        };
        rows.push(row);
    }
    Ok(rows)
}

fn row_of(group: GroupInfo, tally: &DeadLetterTally, holder: Option<&str>) -> GroupRow {
    let runs = group.in_flight.iter().map(ToString::to_string);
    let silent = group.silent.iter().map(ToString::to_string);
    let unfinished = group.oldest_unfinished.iter().map(ToString::to_string);
    GroupRow {
        remarks: runs.chain(silent).chain(unfinished).collect(),
        consumers: group.active_consumers,
        pending: group.pending,
        oldest_ms: group.oldest_pending_age_ms,
        unread: group.lag,
        oldest_unread_ms: group.oldest_unread_age_ms.filter(|_| group.lag != Some(0)),
        dead_letters: tally.of_group(&group.name),
        holds_trim: holder == Some(&*group.name),
        group: group.name,
        ..GroupRow::default()
    }
}
