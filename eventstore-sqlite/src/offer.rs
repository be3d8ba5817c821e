//! The connection, held out to whoever claimed it.
//!
//! Keep: it is taken by a task that runs, or back when its time is up. A future that nobody polls keeps nothing.
//!
//! Real time, not the given clock: a lock that other threads wait for.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::turn::Turn;

pub(crate) struct Offer {
    turn: Mutex<Option<Turn>>,
    deadline: Option<Instant>,
}

impl Offer {
    pub(crate) fn new(turn: Turn, limit: Duration) -> Arc<Self> {
        Arc::new(Self { turn: Mutex::new(Some(turn)), deadline: Instant::now().checked_add(limit) })
    }

    /// The connection, unless it was taken back.
    pub(crate) fn take(&self) -> Option<Turn> {
        self.lock().take()
    }

    /// The connection, if nobody took it in time.
    pub(crate) fn take_back(&self) -> Option<Turn> {
        self.deadline.filter(|deadline| *deadline <= Instant::now()).and_then(|_| self.take())
    }

    /// When it is taken back; nothing if it was taken.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let turn = self.lock();
        self.deadline.filter(|_| turn.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
