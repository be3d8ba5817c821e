//! The lag of a reader of the feed, and the pages of listings.

use std::time::Duration;

use eventbus::{
    Position,
    clock::SharedClock,
    port::{
        ReadError,
        listings::{Listings, StoredCheckpoint, StoredLease},
    },
    store::EventStore,
};
use serde::Serialize;
use time::OffsetDateTime;

use crate::error::CommandError;

/// The owner of the lease of a retired reader: the lease stays, because its epochs must grow.
pub(crate) const RETIRED: &str = "retired";

/// The number of items on a page of a listing that is read to its end.
const PAGE: usize = 500;

/// The lag of a reader behind the end of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lag {
    /// An upper bound of the number of events that it has not handled: positions have gaps.
    pub events: u64,
    /// The time since the first of them was recorded; 0 if there is none, `None` if the store cannot read it.
    pub seconds: Option<f64>,
}

impl Lag {
    /// The lag of a reader that is not behind.
    pub const NONE: Self = Self { events: 0, seconds: Some(0.0) };

    /// Loads the lag of a reader at `position` behind `head`.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be reached.
    pub async fn load(
        store: &dyn EventStore,
        clock: &SharedClock,
        position: Position,
        head: Position,
    ) -> Result<Self, ReadError> {
        let events = head.get().saturating_sub(position.get());
        if events == 0 {
            return Ok(Self::NONE);
        }
        let since = match store.first_recorded_after(position).await {
            // an operator looks for just such a reader, which stopped there
            Err(ReadError::Corrupt { .. }) => return Ok(Self { events, seconds: None }),
            since => since?,
        };
        // the clock of the process that recorded it may be ahead
        let seconds = since.map_or(0.0, |since| (clock.now() - since).as_seconds_f64().max(0.0));
        // a tenth of a second is precise enough
        Ok(Self { events, seconds: Some((seconds * 10.0).round() / 10.0) })
    }
}

/// Returns the time that was `age` ago; 1970, if that was before.
pub(crate) fn ago(clock: &SharedClock, age: Duration) -> OffsetDateTime {
    let then = clock.now().checked_sub(age.try_into().unwrap_or(time::Duration::MAX));
    then.map_or(OffsetDateTime::UNIX_EPOCH, |then| then.max(OffsetDateTime::UNIX_EPOCH))
}

/// Returns the listings of a store.
pub(super) fn listings(store: &dyn EventStore) -> Result<&dyn Listings, CommandError> {
    store.listings().ok_or_else(|| CommandError::fault(format!("{} lists nothing", store.describe())))
}

/// Reads all checkpoints of a store whose names begin with `prefix`.
pub(crate) async fn all_checkpoints(
    store: &dyn EventStore,
    prefix: &str,
) -> Result<Vec<StoredCheckpoint>, CommandError> {
    let (listings, mut all, mut after) = (listings(store)?, Vec::new(), None);
    loop {
        let page = listings.list_checkpoints(prefix, after.as_ref(), PAGE).await?;
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

/// Reads all leases of a store whose roles begin with `prefix`, without those of retired readers.
pub(crate) async fn all_leases(store: &dyn EventStore, prefix: &str) -> Result<Vec<StoredLease>, CommandError> {
    let (listings, mut all, mut after) = (listings(store)?, Vec::new(), None);
    loop {
        let page = listings.list_leases(prefix, after.as_ref(), PAGE).await?;
        all.extend(page.items.into_iter().filter(|stored| stored.is_held || stored.lease.owner != RETIRED));
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_before_1970() {
        for days in [50_000, 9_999_999, u64::MAX / 86_400] {
            assert_eq!(ago(&SharedClock::SYSTEM, Duration::from_secs(days * 86_400)), OffsetDateTime::UNIX_EPOCH);
        }
    }
}
