//! Events to deliver to a group that the store cannot read: other software wrote or damaged their rows.
//!
//! Such an event is before the group's checkpoint and has a row among the unfinished deliveries, so a restart finds it
//! again. Only the event itself is delayed: its aggregate is unknown, so the group handles all other events, in order.
//! The consumer reads it again every minute, and at each start; an operator gives it up with
//! [`App::skip_published_event`](crate::App::skip_published_event).

use std::collections::BTreeMap;

use time::OffsetDateTime;

use crate::{
    domain::{name::Name, shown::rfc3339, stream::Position},
    port::{attempts::DeliveryAttempts, health::UnreadableEvents},
};

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

    pub(super) fn positions(&self) -> Vec<Position> {
        self.events.keys().copied().collect()
    }

    /// Returns the health report; `None` if there are none.
    pub(super) fn report(&self, group: &Name) -> Option<UnreadableEvents> {
        let (first, _) = self.events.first_key_value()?;
        let since = self.since.map(rfc3339).unwrap_or_default();
        Some(UnreadableEvents { group: group.to_string(), count: self.count(), first: *first, since })
    }
}
