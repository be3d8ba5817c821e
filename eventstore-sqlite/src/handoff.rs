//! A write permit that is offered to a waiter.
//!
//! Invariant: the waiter takes the permit when its task is polled, or the watchdog takes it back at the deadline. So a
//! future that is not polled keeps no connection.
//!
//! Real time, not the given clock: other threads wait for the connection.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::write_permit::WritePermit;

/// An offer of a write permit.
///
/// | state | event | next state |
/// |---|---|---|
/// | offered | the waiter's task is polled | taken |
/// | offered | the deadline passes: the watchdog takes the permit and drops it | taken back; the waiter queues again |
/// | offered | the waiter is dropped, and the offer with it | dropped: the connection is idle |
pub(crate) struct Handoff {
    permit: Mutex<Option<WritePermit>>,
    deadline: Option<Instant>,
}

impl Handoff {
    pub(crate) fn new(permit: WritePermit, limit: Duration) -> Arc<Self> {
        Arc::new(Self { permit: Mutex::new(Some(permit)), deadline: Instant::now().checked_add(limit) })
    }

    /// Returns the permit, unless the watchdog took it back.
    pub(crate) fn take(&self) -> Option<WritePermit> {
        self.lock().take()
    }

    /// Takes the permit back if its deadline has passed.
    pub(crate) fn take_if_expired(&self) -> Option<WritePermit> {
        self.deadline.filter(|deadline| *deadline <= Instant::now()).and_then(|_| self.take())
    }

    /// Returns the deadline; `None` if the permit was taken.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let permit = self.lock();
        self.deadline.filter(|_| permit.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, Option<WritePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
