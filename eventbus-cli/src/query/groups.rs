//! The consumer groups of a bus.

use eventbus::{
    Name, Position, bus::EventBus, clock::SharedClock, health::GroupInfo, store::EventStore, support::ReaderKind,
};
use serde::Serialize;

use super::{
    dead_letters::DeadLetterTally,
    position::{Lag, listings, read_all},
};
use crate::{connection::OpenBus, error::CommandError};

/// A consumer group of a bus.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GroupRow {
    /// Its name.
    pub group: String,
    /// The consumers that show life; `None` for a group of the in-process bus, which the process of the application is.
    pub consumers: Option<u64>,
    /// The entries that consumers have read and not acknowledged, or that wait for a retry.
    pub pending: u64,
    /// The time since the oldest of them was published, in milliseconds, if the bus knows.
    pub oldest_ms: Option<u64>,
    /// The entries that no consumer has read, if the bus knows; for a group of the in-process bus at most so many.
    pub unread: Option<u64>,
    /// Its dead letters, of the oldest 1,000 of the bus.
    pub dead_letters: u64,
    /// Set if entries stay on the bus because it has not finished them, and no other group is further behind.
    pub holds_trim: bool,
    /// The position up to which it has finished all events of the store, if the store keeps it.
    pub position: Option<String>,
    /// The time since the first event after that position was recorded; `None` if the store was not asked, and 0 if
    /// the group has no entries left.
    pub seconds: Option<f64>,
}

impl GroupRow {
    /// Returns the number of entries that it has not finished, as far as the bus knows.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.pending.saturating_add(self.unread.unwrap_or_default())
    }
}

/// Lists the consumer groups of a bus, by name.
///
/// # Errors
/// [`CommandError`] if the bus or the store cannot be reached.
pub async fn list_groups(
    bus: &OpenBus,
    store: Option<&dyn EventStore>,
    clock: &SharedClock,
) -> Result<Vec<GroupRow>, CommandError> {
    let tally = DeadLetterTally::load(bus.dead_letters()?).await?;
    list_tallied(bus, store, &tally, clock).await
}

/// Lists the consumer groups of a bus whose dead letters are counted.
pub(super) async fn list_tallied(
    bus: &OpenBus,
    store: Option<&dyn EventStore>,
    tally: &DeadLetterTally,
    clock: &SharedClock,
) -> Result<Vec<GroupRow>, CommandError> {
    match (bus, store) {
        (OpenBus::InProcess(_), Some(store)) => groups_in_process(store, tally, clock).await,
        (OpenBus::InProcess(_), None) => Ok(Vec::new()),
        (OpenBus::Redis(redis), store) => {
            let info = redis.stream_info().await;
            if !info.connected {
                let what = redis.describe();
                return Err(CommandError::unreachable(&what, "it did not describe its groups"));
            }
            let holder = redis.trim_blocker().await?.map(|blocker| blocker.group);
            let floors = match store {
                Some(store) => store.floors(redis.destination()).await?,
                None => Vec::new(),
            };
            let mut rows = Vec::with_capacity(info.consumer_groups.len());
            for group in info.consumer_groups {
                let floor = floors.iter().find(|floor| *floor.group == *group.name).map(|floor| floor.position);
                let mut row = row_of(group, tally, holder.as_deref());
                row.position = floor.map(|floor| floor.to_string());
                row.seconds = match store.zip(floor) {
                    _ if row.unfinished() == 0 => Some(0.0),
                    Some((store, floor)) => Some(Lag::load(store, clock, floor, store.head().await?).await?.seconds),
                    None => row.oldest_ms.map(|oldest| oldest as f64 / 1_000.0),
                };
                rows.push(row);
            }
            Ok(rows)
        }
    }
}

fn row_of(group: GroupInfo, tally: &DeadLetterTally, holder: Option<&str>) -> GroupRow {
    GroupRow {
        consumers: Some(group.active_consumers),
        pending: group.pending,
        oldest_ms: group.oldest_pending_age_ms,
        unread: group.lag,
        dead_letters: tally.of_group(&group.name),
        holds_trim: holder == Some(&*group.name),
        group: group.name,
        ..GroupRow::default()
    }
}

/// Lists the groups of the in-process bus, whose progress is in the store.
async fn groups_in_process(
    store: &dyn EventStore,
    tally: &DeadLetterTally,
    clock: &SharedClock,
) -> Result<Vec<GroupRow>, CommandError> {
    let (listings, prefix) = (listings(store)?, ReaderKind::Group.prefix());
    let checkpoints = read_all(async |after, limit| listings.list_checkpoints(prefix, after, limit).await).await?;
    let head = store.head().await?;
    let mut rows = Vec::with_capacity(checkpoints.len());
    for checkpoint in checkpoints {
        let Some(group) = ReaderKind::parse(&checkpoint.name).and_then(|(_, name)| Name::new("group", name).ok())
        else {
            continue;
        };
        let waiting = store.waiting_deliveries(&group).await?;
        let first_waiting = waiting.first().map(|delivery| Position::new(delivery.position.get().saturating_sub(1)));
        let behind = first_waiting.map_or(checkpoint.position, |waiting| waiting.min(checkpoint.position));
        rows.push(GroupRow {
            pending: waiting.len() as u64,
            unread: Some(head.get().saturating_sub(checkpoint.position.get())),
            dead_letters: tally.of_group(&group),
            position: Some(checkpoint.position.to_string()),
            seconds: Some(Lag::load(store, clock, behind, head).await?.seconds),
            group: group.to_string(),
            ..GroupRow::default()
        });
    }
    rows.sort_by(|one, two| one.group.cmp(&two.group));
    Ok(rows)
}
