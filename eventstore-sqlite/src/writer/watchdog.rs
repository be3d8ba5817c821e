//! The watchdog: ends a transaction at its deadline, and takes back a permit that no task takes.
//!
//! It runs on a thread of its own while there is a deadline: a user that never yields would keep a timer of the runtime
//! from running.
//!
//! Real time, not the given clock: other threads wait for the connection.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    permit::Handoff,
    transaction::{CheckedOutConnection, EndReason},
};

/// Longest sleep of the thread, which ends after a sleep if no deadline is left.
const WATCHDOG_SLEEP_MAX: Duration = Duration::from_secs(1);

/// Watches the transaction that appends wait for, and the permit that is offered, if there are any.
#[derive(Default)]
pub(crate) struct Watchdog(Mutex<WatchdogState>);

#[derive(Default)]
struct WatchdogState {
    transaction: Weak<CheckedOutConnection>,
    handoff: Weak<Handoff>,
    is_running: bool,
}

impl Watchdog {
    /// Watches a transaction unless it is over, and ends it at its deadline. If no thread can start, each use of the
    /// transaction checks the deadline.
    pub(crate) fn watch_transaction(self: &Arc<Self>, checked_out: &Arc<CheckedOutConnection>) {
        let mut watched = self.0.lock();
        // under the lock: the next transaction, which may be open by now, is watched before or after this
        if checked_out.is_over() {
            return;
        }
        watched.transaction = Arc::downgrade(checked_out);
        self.ensure_running(&mut watched);
    }

    /// Watches an offered permit, and takes it back at its deadline.
    pub(crate) fn watch_handoff(self: &Arc<Self>, handoff: &Arc<Handoff>) {
        let mut watched = self.0.lock();
        watched.handoff = Arc::downgrade(handoff);
        self.ensure_running(&mut watched);
    }

    fn ensure_running(self: &Arc<Self>, state: &mut WatchdogState) {
        if !state.is_running {
            let watchdog = Arc::clone(self);
            let thread = std::thread::Builder::new().name("eventstore-sqlite".into());
            match thread.spawn(move || watchdog.run()) {
                Ok(_) => state.is_running = true,
                Err(error) => tracing::warn!(%error, "the watchdog of open transactions cannot start"),
            }
        }
    }

    pub(crate) fn transaction(&self) -> Option<Arc<CheckedOutConnection>> {
        self.0.lock().transaction.upgrade()
    }

    fn run(&self) {
        while let Some(deadline) = self.next_deadline_or_stop() {
            match deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                Some(left) => std::thread::sleep(left.min(WATCHDOG_SLEEP_MAX)),
                None => self.end_expired(),
            }
        }
    }

    /// Returns the next deadline; `None` if there is none, and then the thread ends.
    fn next_deadline_or_stop(&self) -> Option<Instant> {
        let mut watched = self.0.lock();
        let (transaction, handoff) = (watched.transaction.upgrade(), watched.handoff.upgrade());
        let transaction_deadline = transaction.as_deref().and_then(CheckedOutConnection::deadline);
        let handoff_deadline = handoff.as_deref().and_then(Handoff::deadline);
        let deadline = transaction_deadline.into_iter().chain(handoff_deadline).min();
        // under the lock, so that a transaction that comes now starts a new thread
        watched.is_running = deadline.is_some();
        // before the drop of an offer whose waiter is gone: the drop returns the connection, whose next user needs the
        // lock
        drop(watched);
        deadline
    }

    fn end_expired(&self) {
        if let Some((checked_out, limit)) =
            self.transaction().and_then(|open| open.expired().map(|limit| (open, limit)))
        {
            tracing::warn!(?limit, "rolling back a transaction that was open for too long");
            checked_out.end_and_wait(EndReason::TimedOut(limit));
        }
        let handoff = self.0.lock().handoff.upgrade();
        if let Some(permit) = handoff.and_then(|handoff| handoff.take_if_expired()) {
            tracing::warn!("taking back the write connection: the task that waited for it was not polled in time");
            drop(permit);
        }
    }
}
