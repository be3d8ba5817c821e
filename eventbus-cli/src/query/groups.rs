//! The consumer groups of a bus.

use eventbus::health::GroupInfo;
use serde::Serialize;

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
    /// The entries that no consumer has read; `None` if the bus does not know. An upper bound if Redis has lost count.
    pub unread: Option<u64>,
    /// The time since the oldest of them was published, in milliseconds, if the bus knows.
    pub oldest_unread_ms: Option<u64>,
    /// Set if it holds up trimming: it has unfinished entries, and no other group is further behind.
    pub holds_trim: bool,
    /// The time since its oldest unfinished entry was published, if known; 0 if it has no entries left.
    pub seconds: Option<f64>,
    /// Remarks of the bus on its consumers: long runs, a consumer without heartbeats, and the delivery that has been
    /// unfinished for longest.
    #[serde(skip)]
    pub remarks: Vec<String>,
}

impl GroupRow {
    /// Returns the number of its unfinished entries; `None` if the bus does not know it.
    #[must_use]
    pub fn unfinished(&self) -> Option<u64> {
        Some(self.unread?.saturating_add(self.pending))
    }

    /// Returns `true` if entries wait, or may wait, and no consumer is alive.
    #[must_use]
    pub fn lacks_consumer(&self) -> bool {
        self.consumers == 0 && self.unfinished() != Some(0)
    }
}

/// Lists the consumer groups of a bus, by name; none without a server or a file that has them.
///
/// # Errors
/// [`CommandError`] if the bus cannot be reached.
pub async fn list_groups(bus: &OpenBus) -> Result<Vec<GroupRow>, CommandError> {
    if bus.is_in_process() {
        return Ok(Vec::new());
    }
    let info = bus.stream_info().await?;
    let holder = match bus {
        OpenBus::Redis(redis, _) => redis.trim_blocker().await?.map(|blocker| blocker.group),
        _ => None,
    };
    let row = |group| {
        let mut row = row_of(group, holder.as_deref());
        let oldest = row.oldest_ms.max(row.oldest_unread_ms).map(|oldest| oldest as f64 / 1_000.0);
        row.seconds = if row.unfinished() == Some(0) { Some(0.0) } else { oldest };
        row
    };
    let mut rows: Vec<_> = info.consumer_groups.into_iter().map(row).collect();
    rows.sort_by(|one, two| one.group.cmp(&two.group));
    Ok(rows)
}

fn row_of(group: GroupInfo, holder: Option<&str>) -> GroupRow {
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
        holds_trim: holder == Some(&*group.name),
        group: group.name,
        ..GroupRow::default()
    }
}
