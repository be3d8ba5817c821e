//! The connection, held out to whoever claimed it.
//!
//! Keep: it is taken by a task that runs, or back when its time is up. A future that nobody polls keeps nothing.
//!
//! Real time, not the given clock: a lock that other threads wait for.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::write_permit::WritePermit;

pub(crate) struct Handoff {
    permit: Mutex<Option<WritePermit>>,
    deadline: Option<Instant>,
}

impl Handoff {
    pub(crate) fn new(permit: WritePermit, limit: Duration) -> Arc<Self> {
        Arc::new(Self { permit: Mutex::new(Some(permit)), deadline: Instant::now().checked_add(limit) })
    }

    /// The connection, unless it was taken back.
    pub(crate) fn take(&self) -> Option<WritePermit> {
        self.lock().take()
    }

    /// The connection, if nobody took it in time.
    pub(crate) fn take_if_expired(&self) -> Option<WritePermit> {
        self.deadline.filter(|deadline| *deadline <= Instant::now()).and_then(|_| self.take())
    }

    /// When it is taken back; nothing if it was taken.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let permit = self.lock();
        self.deadline.filter(|_| permit.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, Option<WritePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
