//! The thread that sees handlers which block their threads: no task can, as it may be waiting for such a thread.
//!
//! Keep: it holds no activity alive, and ends when none is left.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::activity::Activity;

/// How often it looks. It takes a thread's own time: a clock that is moved by hand frees no thread.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

static WATCHED: Mutex<Vec<Weak<Activity>>> = Mutex::new(Vec::new());

/// Watches over what `activity` runs from now on.
pub(super) fn watch(activity: &Arc<Activity>) {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched.push(Arc::downgrade(activity));
    if watched.len() > 1 {
        return;
    }
    let begun = thread::Builder::new().name("eventbus-watchdog".into()).spawn(check_all);
    if let Err(error) = begun {
        watched.clear();
        tracing::warn!(%error, "no thread watches over handlers that block theirs");
    }
}

fn check_all() {
    loop {
        thread::sleep(CHECK_INTERVAL);
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|activity| activity.strong_count() > 0);
        if watched.is_empty() {
            return;
        }
        let alive: Vec<_> = watched.iter().filter_map(Weak::upgrade).collect();
        drop(watched);
        let news = alive.iter().filter(|activity| activity.check_blocked()).count();
        if news > 0 {
            notify_slot_freed();
        }
    }
}

/// Tells whenever a run gives its place up to another: as it takes long, or blocks its thread for longer than it may take.
pub(super) fn freed_slots() -> &'static watch::Sender<u64> {
    static FREED_SLOTS: std::sync::OnceLock<watch::Sender<u64>> = std::sync::OnceLock::new();
    FREED_SLOTS.get_or_init(watch::Sender::default)
}

pub(super) fn notify_slot_freed() {
    freed_slots().send_modify(|number| *number += 1);
}
