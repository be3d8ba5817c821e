//! Finds out whether the store may have become an older copy: after a restore, or a failover to a replica that lacked
//! the last events.

use futures_util::TryStreamExt as _;

use crate::{
    domain::{metadata::EventId, stream::Position},
    port::{EventStore, ReadError},
    support::{is_beyond_end, position_before},
};

/// Notes what makes a check of the store due: a failure, a lower head or a possible restore since the last one.
pub(super) struct RestoreWatch {
    head: Position,
    /// The number of [possible restores](crate::port::AppendSignal::note_possible_restore) when it was compared last.
    possible_restores: u64,
    is_check_due: bool,
}

impl RestoreWatch {
    pub(super) fn new(store: &dyn EventStore) -> Self {
        Self { head: Position::START, possible_restores: store.appended().possible_restores(), is_check_due: false }
    }

    /// Returns the head that was noted last.
    pub(super) const fn head(&self) -> Position {
        self.head
    }

    pub(super) fn note_head(&mut self, head: Position) {
        self.is_check_due |= head < self.head;
        self.head = head;
    }

    pub(super) const fn note_failure(&mut self) {
        self.is_check_due = true;
    }

    pub(super) fn note_restores(&mut self, store: &dyn EventStore) {
        let possible_restores = store.appended().possible_restores();
        self.is_check_due |= std::mem::replace(&mut self.possible_restores, possible_restores) != possible_restores;
    }

    pub(super) const fn is_check_due(&self) -> bool {
        self.is_check_due
    }

    pub(super) const fn mark_checked(&mut self) {
        self.is_check_due = false;
    }
}

/// Returns `true` if a store holds this event at this position, or cannot tell yet.
pub(super) async fn holds_event(
    store: &dyn EventStore,
    position: Position,
    event_id: EventId,
) -> Result<bool, ReadError> {
    match store.read_all(position_before(position)).try_next().await {
        // it is there, though it cannot be read: an operator who skips it wants the relay to go on
        Err(ReadError::Corrupt { position: Some(damaged), .. }) if damaged == position => Ok(true),
        Err(error) => Err(error),
        Ok(Some(event)) => Ok(event.position() == Some(position) && event.metadata().event_id() == event_id),
        // the readable end of the feed may be behind the last event for a moment
        Ok(None) => Ok(!is_beyond_end(store, position).await?),
    }
}
