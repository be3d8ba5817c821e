//! Pending entries: entries of a stream that the server has assigned to this consumer.
//!
//! Invariant: lock order `kept` or `discarded`, then the lock of the in-flight entries; no task holds two of its own
//! locks, or one of them across an await.

use std::{collections::HashMap, sync::Arc};

use eventbus::{delivery::InFlight, port::MessageId};
use parking_lot::Mutex;

/// The entries that are pending on a consumer, by their next step.
pub(super) struct PendingEntries {
    in_flight: Arc<InFlight>,
    /// Entries that stay pending, because they used up their attempts or no handler here can read their version.
    kept: Mutex<HashMap<MessageId, Kept>>,
    /// Entries that this group must not handle; the next batch acknowledges them.
    discarded: Mutex<Vec<MessageId>>,
}

/// The reason why an entry stays pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It used up its attempts, and the bus writes no dead letters.
    Exhausted,
    /// No handler here can read its version: other consumers claim it.
    Unreadable,
}

impl PendingEntries {
    pub(super) fn new(in_flight: Arc<InFlight>) -> Self {
        Self { in_flight, kept: Mutex::default(), discarded: Mutex::default() }
    }

    pub(super) const fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    /// Returns `true` if an entry is in flight or kept pending.
    pub(super) fn contains(&self, id: &MessageId) -> bool {
        self.in_flight.contains(id) || self.kept.lock().contains_key(id)
    }

    /// Returns the ids of entries that are neither in flight nor kept pending.
    pub(super) fn filter_missing(&self, ids: Vec<String>) -> Vec<String> {
        ids.into_iter().filter(|id| !self.contains(&MessageId::new(id.as_str()))).collect()
    }

    /// Returns the number of entries that are in flight or kept pending.
    pub(super) fn len(&self) -> usize {
        self.in_flight.len() + self.kept.lock().len()
    }

    /// Lists the entries whose claim is to be renewed, or checked.
    pub(super) fn ids(&self) -> Vec<MessageId> {
        let mut ids = self.in_flight.ids();
        ids.extend(self.kept.lock().keys().cloned());
        ids
    }

    /// Keeps an entry pending; returns `true` if it was not kept before.
    pub(super) fn keep(&self, id: MessageId, kept: Kept) -> bool {
        self.kept.lock().insert(id, kept).is_none()
    }

    /// Returns `true` if an entry is kept because no handler here can read it.
    pub(super) fn is_unreadable(&self, id: &MessageId) -> bool {
        self.kept.lock().get(id) == Some(&Kept::Unreadable)
    }

    /// Forgets kept entries that are no longer pending on this consumer.
    pub(super) fn unkeep<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>) {
        let mut kept = self.kept.lock();
        for id in ids {
            kept.remove(id);
        }
    }

    pub(super) fn discard(&self, id: MessageId) {
        self.discarded.lock().push(id);
    }

    pub(super) fn take_discarded(&self) -> Vec<MessageId> {
        std::mem::take(&mut *self.discarded.lock())
    }

    pub(super) fn has_discarded(&self) -> bool {
        !self.discarded.lock().is_empty()
    }
}
