//! Worker slots: limit the deliveries of a group that one consumer runs at once, also if it has several
//! [`InFlight`](super::InFlight)s.
//!
//! Each `InFlight` has slots of its own unless [`InFlight::with_slots`](super::InFlight::with_slots) makes it share
//! them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, futures::Notified};

/// The slots of a consumer's workers. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct WorkerSlots(Arc<SlotCounter>);

#[derive(Debug, Default)]
struct SlotCounter {
    in_use: AtomicUsize,
    freed: Notify,
}

/// A slot in use, until dropped.
#[derive(Debug)]
pub(super) struct WorkerSlot(WorkerSlots);

impl WorkerSlots {
    /// Takes one of `slots` slots; `None` if all are in use.
    pub(super) fn take(&self, slots: usize) -> Option<WorkerSlot> {
        let next = |in_use| (in_use < slots).then_some(in_use + 1);
        let updated = self.0.in_use.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        updated.is_ok().then(|| WorkerSlot(self.clone()))
    }

    /// Returns a future that completes when a slot is freed after it was enabled.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        let SlotCounter { in_use, freed } = &*self.0.0;
        in_use.fetch_sub(1, Ordering::AcqRel);
        freed.notify_waiters();
    }
}
