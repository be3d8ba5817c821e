//! Places: how many deliveries of a group one consumer runs at once, where it has more than one hand.
//!
//! A hand has places of its own unless it is given those of another one ([`InFlight::with_slots`](super::InFlight::with_slots)).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, futures::Notified};

/// The places of a consumer's workers. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct WorkerSlots(Arc<SlotCounter>);

#[derive(Debug, Default)]
struct SlotCounter {
    in_use: AtomicUsize,
    freed: Notify,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct WorkerSlot(WorkerSlots);

impl WorkerSlots {
    /// Takes one of so many places; `None` if all of them are taken.
    pub(super) fn take(&self, slots: usize) -> Option<WorkerSlot> {
        let next = |taken| (taken < slots).then_some(taken + 1);
        let taken = self.0.in_use.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        taken.is_ok().then(|| WorkerSlot(self.clone()))
    }

    /// Ends when a place was freed since it was enabled.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        let SlotCounter { in_use: taken, freed } = &*self.0.0;
        taken.fetch_sub(1, Ordering::AcqRel);
        freed.notify_waiters();
    }
}
