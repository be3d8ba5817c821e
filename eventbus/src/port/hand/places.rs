//! Places: how many deliveries of a group one consumer runs at once, where it has more than one hand.
//!
//! A hand has places of its own unless it is given those of another one ([`Hand::sharing`](super::Hand::sharing)).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, futures::Notified};

/// The places of a consumer's workers. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    taken: AtomicUsize,
    freed: Notify,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place(Places);

impl Places {
    /// Takes one of so many places; `None` if all of them are taken.
    pub(super) fn take(&self, places: usize) -> Option<Place> {
        let next = |taken| (taken < places).then_some(taken + 1);
        let taken = self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        taken.is_ok().then(|| Place(self.clone()))
    }

    /// Ends when a place was freed since it was enabled.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Inner { taken, freed } = &*self.0.0;
        taken.fetch_sub(1, Ordering::AcqRel);
        freed.notify_waiters();
    }
}
