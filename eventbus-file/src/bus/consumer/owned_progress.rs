//! The progress of a group that this worker owns.

use std::ops::DerefMut;

use eventbus::delivery::DeliveryAttempts;

use crate::group_store::Progress;

/// The progress of a group that this worker owns. It is dirty while it has unsaved changes; each mutable access counts
/// as a change.
#[derive(Debug, derive_more::Deref)]
pub(super) struct OwnedProgress {
    #[deref]
    progress: Progress,
    is_dirty: bool,
}

impl DerefMut for OwnedProgress {
    fn deref_mut(&mut self) -> &mut Progress {
        self.is_dirty = true;
        &mut self.progress
    }
}

impl OwnedProgress {
    pub(super) const fn new(progress: Progress) -> Self {
        Self { progress, is_dirty: false }
    }

    pub(super) const fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    pub(super) const fn set_dirty(&mut self, is_dirty: bool) {
        self.is_dirty = is_dirty;
    }

    /// Returns the attempts of an event that is in flight again, and ends its wait for a retry. A suspect keeps its
    /// retry time until the consumer has saved its start: while it is queued, it is not in flight.
    pub(super) fn resume(&mut self, id: u64, has_waited: bool) -> DeliveryAttempts {
        let attempts = self.progress.open.entry(id).or_default();
        self.is_dirty |= has_waited && attempts.process_ends == 0 && attempts.next_at.take().is_some();
        attempts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_keeps_the_time_of_its_retry_when_it_is_read_again() {
        let mut progress = OwnedProgress::new(Progress::default());
        for (id, process_ends, next_at) in [(1, 0, None), (2, 1, Some(7))] {
            let mut attempts = DeliveryAttempts::default();
            (attempts.process_ends, attempts.next_at) = (process_ends, Some(7));
            progress.open.insert(id, attempts);
            assert!(progress.is_dirty(), "a change sets it");
            progress.set_dirty(false);
            assert_eq!(progress.resume(id, true).next_at, next_at);
            assert_eq!(progress.is_dirty(), next_at.is_none(), "{process_ends} process ends");
        }
    }
}
