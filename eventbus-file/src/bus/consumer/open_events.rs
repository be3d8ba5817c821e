//! The open events of a group, and where the attempts of each are stored: in the group's file, or in its replay's file.

use std::collections::{BTreeSet, HashSet};

use eventbus::delivery::{DeliveryAttempts, GroupTypes};
use serde_json::Value;
use uuid::Uuid;

use crate::{error::Result, group_store::Progress};

/// The progress of a group that this worker owns, and its replays.
///
/// Invariant: each change of the progress sets `is_dirty`.
#[derive(Debug)]
pub(super) struct OpenEvents {
    progress: Progress,
    /// Set if the progress has changes that are not saved.
    is_dirty: bool,
    /// In-flight events that are replays.
    replays: HashSet<u64>,
    /// Open events that wait for a handler that is not here.
    without_handler: BTreeSet<u64>,
}

impl OpenEvents {
    pub(super) fn new(progress: Progress) -> Self {
        Self { progress, is_dirty: false, replays: HashSet::new(), without_handler: BTreeSet::new() }
    }

    pub(super) const fn queue_id(&self) -> Option<Uuid> {
        self.progress.queue_id
    }

    pub(super) fn to_value(&self) -> Result<Value> {
        self.progress.to_value()
    }

    pub(super) const fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    pub(super) const fn set_dirty(&mut self) {
        self.is_dirty = true;
    }

    pub(super) const fn set_saved(&mut self) {
        self.is_dirty = false;
    }

    /// Returns the newest event that the group received.
    pub(super) const fn read(&self) -> u64 {
        self.progress.read
    }

    pub(super) const fn set_read(&mut self, through: u64) {
        self.progress.read = through;
        self.is_dirty = true;
    }

    pub(super) const fn types(&self) -> &GroupTypes {
        &self.progress.types
    }

    pub(super) const fn types_mut(&mut self) -> &mut GroupTypes {
        self.is_dirty = true;
        &mut self.progress.types
    }

    /// Returns the open events without replays.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.progress.open.keys().copied().collect()
    }

    /// Returns `true` if an event is open and no replay.
    pub(super) fn contains(&self, id: u64) -> bool {
        self.progress.open.contains_key(&id)
    }

    /// Opens an event, unless it is open; returns its attempts so far.
    pub(super) fn add(&mut self, id: u64) -> DeliveryAttempts {
        self.is_dirty = true;
        self.progress.open.entry(id).or_default().clone()
    }

    /// Returns the attempts of an event that is in flight again; one that has waited for its retry waits no longer. A
    /// suspect keeps its retry time until the consumer has saved its start: queued, it is not in flight.
    pub(super) fn resume(&mut self, id: u64, has_waited: bool) -> DeliveryAttempts {
        let attempts = self.progress.open.entry(id).or_default();
        self.is_dirty |= has_waited && attempts.process_ends == 0 && attempts.next_at.take().is_some();
        attempts.clone()
    }

    pub(super) fn save_attempts(&mut self, id: u64, attempts: DeliveryAttempts) {
        self.progress.open.insert(id, attempts);
        self.is_dirty = true;
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.progress.open.remove(&id);
        self.is_dirty = true;
    }

    pub(super) const fn replays(&self) -> &HashSet<u64> {
        &self.replays
    }

    pub(super) fn is_replay(&self, id: u64) -> bool {
        self.replays.contains(&id)
    }

    pub(super) fn add_replay(&mut self, id: u64) {
        self.replays.insert(id);
    }

    pub(super) fn remove_replay(&mut self, id: u64) {
        self.replays.remove(&id);
    }

    /// Leaves an event open until the handlers here change.
    pub(super) fn leave_for_handler(&mut self, id: u64) {
        self.without_handler.insert(id);
    }

    /// Returns the events, without replays, that wait for a handler.
    pub(super) fn without_handler(&self) -> Vec<u64> {
        self.without_handler.iter().copied().filter(|id| !self.replays.contains(id)).collect()
    }

    /// Forgets the events that wait for a handler, so that the consumer receives the replays among them again.
    pub(super) fn clear_without_handler(&mut self) {
        for id in std::mem::take(&mut self.without_handler) {
            self.replays.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_keeps_the_time_of_its_retry_when_it_is_read_again() {
        let mut open = OpenEvents::new(Progress::default());
        for (id, process_ends, next_at) in [(1, 0, None), (2, 1, Some(7))] {
            let mut attempts = DeliveryAttempts::default();
            (attempts.process_ends, attempts.next_at) = (process_ends, Some(7));
            open.save_attempts(id, attempts);
            open.set_saved();
            assert_eq!(open.resume(id, true).next_at, next_at);
            assert_eq!(open.is_dirty(), next_at.is_none(), "{process_ends} process ends");
        }
    }
}
