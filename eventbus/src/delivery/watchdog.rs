//! The watchdog: a thread that reports handlers that block their threads. A task cannot do so: it may wait for such a
//! thread itself.
//!
//! Invariant: the watchdog keeps no activity alive, and ends when none is left.

use std::{sync::Weak, thread, time::Duration};

use parking_lot::Mutex;
use tokio::sync::watch;

/// The interval between checks. Real time: a test's clock frees no thread.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs of handlers that the watchdog checks.
pub(super) trait CheckBlocked: Send + Sync {
    /// Logs runs that block their threads, and takes their worker slots; returns `true` if a slot became free.
    fn check_blocked(&self) -> bool;
}

static WATCHED: Mutex<Vec<Weak<dyn CheckBlocked>>> = Mutex::new(Vec::new());

/// Watches the runs of `activity` from now on; starts the watchdog if it does not run.
pub(super) fn watch(activity: Weak<dyn CheckBlocked>) {
    let mut watched = WATCHED.lock();
    watched.push(activity);
    if watched.len() > 1 {
        return;
    }
    let begun = thread::Builder::new().name("eventbus-watchdog".into()).spawn(check_all);
    if let Err(error) = begun {
        watched.clear();
        tracing::warn!(%error, "the watchdog thread does not start: no log reports handlers that block their threads");
    }
}

fn check_all() {
    loop {
        thread::sleep(CHECK_INTERVAL);
        let mut watched = WATCHED.lock();
        watched.retain(|activity| activity.strong_count() > 0);
        if watched.is_empty() {
            return;
        }
        let alive: Vec<_> = watched.iter().filter_map(Weak::upgrade).collect();
        drop(watched);
        let freed = alive.iter().filter(|activity| activity.check_blocked()).count();
        if freed > 0 {
            notify_slot_freed();
        }
    }
}

/// Changes whenever a run releases its slot: it is long, or blocks its thread past its time limit.
pub(super) fn freed_slots() -> &'static watch::Sender<u64> {
    static FREED_SLOTS: std::sync::OnceLock<watch::Sender<u64>> = std::sync::OnceLock::new();
    FREED_SLOTS.get_or_init(watch::Sender::default)
}

/// Returns a receiver that changes whenever a run releases its slot.
pub(crate) fn slots_freed() -> watch::Receiver<u64> {
    freed_slots().subscribe()
}

pub(super) fn notify_slot_freed() {
    freed_slots().send_modify(|number| *number += 1);
}
