//! Events to deliver to a group that the store cannot read: other software wrote or damaged their rows.
//!
//! Such an event is before the group's checkpoint and has a row among the unfinished deliveries, so a restart finds it
//! again. Only the event itself stands still: its aggregate is unknown, so the group handles all other events, in
//! order. The consumer reads it again every minute, and at each start; an operator ends it with
//! [`App::skip_published_event`](crate::App::skip_published_event).

use std::{collections::BTreeMap, time::Duration};

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{BusInner, DESTINATION, consume::read_event_at};
use crate::{
    domain::{clock::SharedClock, name::Name, shown::rfc3339, stream::Position},
    port::{DeliveryAttempts, EventStore, SkipsError, UnreadableEvents, relay_to, skipped_positions},
};

/// Interval of checks for unreadable events that an operator skips.
const SKIP_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of tries to read the unreadable events.
const READ_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// The unreadable events of one group.
#[derive(Debug, Default)]
pub(super) struct UnreadableTracker {
    events: BTreeMap<Position, DeliveryAttempts>,
    /// The time since when this process knows of one.
    since: Option<OffsetDateTime>,
}

impl UnreadableTracker {
    pub(super) fn add(&mut self, position: Position, attempts: DeliveryAttempts, now: OffsetDateTime) {
        self.events.insert(position, attempts);
        self.since.get_or_insert(now);
    }

    pub(super) fn remove(&mut self, position: Position) -> Option<DeliveryAttempts> {
        let removed = self.events.remove(&position);
        if self.events.is_empty() {
            self.since = None;
        }
        removed
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn contains(&self, position: Position) -> bool {
        self.events.contains_key(&position)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.events.len() as u64
    }

    fn positions(&self) -> Vec<Position> {
        self.events.keys().copied().collect()
    }

    /// Returns the health report; `None` if there are none.
    pub(super) fn report(&self, group: &Name) -> Option<UnreadableEvents> {
        let (first, _) = self.events.first_key_value()?;
        let since = self.since.map(rfc3339).unwrap_or_default();
        Some(UnreadableEvents { group: group.to_string(), count: self.count(), first: *first, since })
    }
}

/// The times of the last checks of the unreadable events of a group.
#[derive(Debug)]
pub(super) struct UnreadableChecks {
    clock: SharedClock,
    skips_checked_at: Option<Instant>,
    reads_tried_at: Option<Instant>,
}

impl UnreadableChecks {
    pub(super) const fn new(clock: SharedClock) -> Self {
        Self { clock, skips_checked_at: None, reads_tried_at: None }
    }

    /// Removes the events that an operator has skipped, and delivers those that can be read again.
    pub(super) async fn check(&mut self, inner: &BusInner, store: &dyn EventStore, group: &Name) {
        if inner.log().cursor(group).unreadable.is_empty()
            || !self.is_due(SKIP_CHECK_INTERVAL, |checks| &mut checks.skips_checked_at)
        {
            return;
        }
        match skipped_by_operators(store).await {
            Ok(skipped) => {
                let mut log = inner.log();
                for position in skipped {
                    if log.cursor(group).skip_unreadable(position) {
                        tracing::warn!(%group, %position, "an event that cannot be read is skipped");
                    }
                }
            }
            Err(error) => tracing::debug!(%group, %error, "skipped events not loaded"),
        }
        if !self.is_due(READ_RETRY_INTERVAL, |checks| &mut checks.reads_tried_at) {
            return;
        }
        let positions = inner.log().cursor(group).unreadable.positions();
        for position in positions {
            let Ok(Some(event)) = read_event_at(store, position).await else {
                continue;
            };
            let mut log = inner.log();
            if let Some(attempts) = log.cursor(group).unreadable.remove(position) {
                tracing::info!(%group, %position, "an event can be read again and is delivered");
                log.restore(group, &event, attempts);
            }
        }
        // the other groups pass over the entries that were read for this one
        inner.published.send_replace(());
    }

    fn is_due(&mut self, every: Duration, last: impl Fn(&mut Self) -> &mut Option<Instant>) -> bool {
        let clock = self.clock.clone();
        let last = last(self);
        let is_due = last.is_none_or(|last| clock.elapsed(last) >= every);
        if is_due {
            *last = Some(clock.instant());
        }
        is_due
    }
}

/// Loads the positions that are neither published nor delivered, as an operator said so.
pub(super) async fn skipped_by_operators(store: &dyn EventStore) -> Result<Vec<Position>, SkipsError> {
    skipped_positions(store, &relay_to(&DESTINATION)).await
}
