//! Ends a transaction whose time is up, and takes a turn back that nobody takes.
//!
//! On a thread of its own, which is there while it is needed: a user who keeps a task busy would keep a timer of the
//! runtime from ever running.
//!
//! Real time, not the given clock: a lock that other threads wait for.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use crate::{
    checked_out::{CheckedOutConnection, EndReason},
    handoff::Handoff,
};

/// How long the thread stays at least, and sleeps at most.
const WATCHDOG_SLEEP_MAX: Duration = Duration::from_secs(1);

/// The transaction that appends wait for, if there is one, and who looks at the clock.
#[derive(Default)]
pub(crate) struct Watchdog(Mutex<WatchdogState>);

#[derive(Default)]
struct WatchdogState {
    transaction: Weak<CheckedOutConnection>,
    handoff: Weak<Handoff>,
    is_running: bool,
}

impl Watchdog {
    /// Notes the transaction, and sees to it that it ends in time. Without a thread its time is looked at whenever it is
    /// used.
    pub(crate) fn watch_transaction(self: &Arc<Self>, checked_out: &Arc<CheckedOutConnection>) {
        let mut watched = self.lock();
        watched.transaction = Arc::downgrade(checked_out);
        self.ensure_running(&mut watched);
    }

    /// Notes that the connection is held out to somebody, and sees to it that it comes back if he does not take it.
    pub(crate) fn watch_handoff(self: &Arc<Self>, handoff: &Arc<Handoff>) {
        let mut watched = self.lock();
        watched.handoff = Arc::downgrade(handoff);
        self.ensure_running(&mut watched);
    }

    fn ensure_running(self: &Arc<Self>, state: &mut WatchdogState) {
        if !state.is_running {
            let watchdog = Arc::clone(self);
            let thread = std::thread::Builder::new().name("eventstore-sqlite".into());
            match thread.spawn(move || watchdog.run()) {
                Ok(_) => state.is_running = true,
                Err(error) => tracing::warn!(%error, "no thread looks after transactions that are open for too long"),
            }
        }
    }

    pub(crate) fn transaction(&self) -> Option<Arc<CheckedOutConnection>> {
        self.lock().transaction.upgrade()
    }

    fn run(&self) {
        while let Some(deadline) = self.next_deadline_or_stop() {
            match deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                Some(left) => std::thread::sleep(left.min(WATCHDOG_SLEEP_MAX)),
                None => self.end_expired(),
            }
        }
    }

    /// When the transaction has to end, or to begin; nothing if there is none, and then the thread is not there any more.
    fn next_deadline_or_stop(&self) -> Option<Instant> {
        let mut watched = self.lock();
        let transaction_deadline = watched.transaction.upgrade().and_then(|checked_out| checked_out.deadline());
        let handoff_deadline = watched.handoff.upgrade().and_then(|handoff| handoff.deadline());
        let deadline = transaction_deadline.into_iter().chain(handoff_deadline).min();
        watched.is_running = deadline.is_some();
        deadline
    }

    fn end_expired(&self) {
        if let Some((checked_out, limit)) =
            self.transaction().and_then(|lent| lent.expired().map(|limit| (lent, limit)))
        {
            tracing::warn!(?limit, "a transaction is rolled back: it was open for too long");
            checked_out.end_and_wait(EndReason::TimedOut(limit));
        }
        let handoff = self.lock().handoff.upgrade();
        if let Some(permit) = handoff.and_then(|offer| offer.take_if_expired()) {
            tracing::warn!("a transaction is not begun: whoever asked for it has not looked for its turn");
            drop(permit);
        }
    }

    fn lock(&self) -> MutexGuard<'_, WatchdogState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
