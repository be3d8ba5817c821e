//! The context in which the entries of one group are handled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch},
    time::Instant,
};

use crate::{
    delivery::{ActiveSubscriber, Limits, SpanFn, Subscribers, run::LONG_RUN_AFTER},
    domain::{clock::SharedClock, name::Name},
    port::{retry::RetryPolicy, stats::BusCounters},
};

/// Lets the deliveries of a bus run beside each other, or one of them alone; shared by its groups.
#[derive(Debug, Clone, Default)]
pub struct RunLock {
    /// Locked by each delivery for its run; for writing by one that runs alone.
    runs: Arc<RwLock<()>>,
    /// Set while a delivery runs alone.
    runs_alone: Arc<AtomicBool>,
    /// Locked to read or replace it: the suspects of all groups share it.
    timed_out: Arc<Mutex<Option<TimedOutWait>>>,
}

/// The last wait for an exclusive run that timed out.
#[derive(Debug)]
struct TimedOutWait {
    delay: Duration,
    at: Instant,
}

impl RunLock {
    /// Waits until no delivery runs alone; more may run beside this one until the guard is dropped.
    pub async fn shared(&self) -> RunGuard {
        RunGuard::Shared(Arc::clone(&self.runs).read_owned().await)
    }

    /// Waits until no other delivery runs; none begins during the wait, nor until the guard is dropped.
    pub async fn exclusive(&self) -> RunGuard {
        let guard = Arc::clone(&self.runs).write_owned().await;
        RunGuard::Exclusive(AloneMark::set(&self.runs_alone), guard)
    }

    /// Waits until no other delivery runs, for `delay` at most; `None` if others run on for that long.
    pub(super) async fn exclusive_within(&self, delay: Duration, clock: &SharedClock) -> Option<RunGuard> {
        let guard = clock.timeout(delay, self.exclusive()).await.ok();
        // the wait for a suspect that runs alone says nothing of the next wait
        if guard.is_none() && !self.runs_alone.load(Ordering::Acquire) {
            *self.timed_out.lock() = Some(TimedOutWait { delay, at: clock.instant() });
        }
        guard
    }

    /// Returns `true` if a wait of `delay` or longer has timed out in the last ten seconds: the next one would only
    /// keep the deliveries of all groups waiting once more.
    pub(super) fn is_busy(&self, delay: Duration, clock: &SharedClock) -> bool {
        let timed_out = self.timed_out.lock();
        timed_out.as_ref().is_some_and(|wait| delay <= wait.delay && clock.elapsed(wait.at) < LONG_RUN_AFTER)
    }
}

/// Permission for one delivery to run, until dropped.
#[derive(Debug)]
#[allow(dead_code, reason = "it is held, not read")]
pub enum RunGuard {
    /// Beside other deliveries.
    Shared(OwnedRwLockReadGuard<()>),
    /// Alone. The mark is dropped first: the next delivery that runs alone sets it again.
    Exclusive(AloneMark, OwnedRwLockWriteGuard<()>),
}

/// Marks that a delivery runs alone, until dropped.
#[derive(Debug)]
pub struct AloneMark(Arc<AtomicBool>);

impl AloneMark {
    fn set(mark: &Arc<AtomicBool>) -> Self {
        mark.store(true, Ordering::Release);
        Self(Arc::clone(mark))
    }
}

impl Drop for AloneMark {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The handlers, limits and counters that the deliveries of one group share.
#[derive(Clone, derive_more::Debug)]
#[debug("GroupContext {{ group: {group:?}, retry: {retry:?}, .. }}")]
pub struct GroupContext {
    /// The group.
    pub group: Name,
    /// The subscribers of the bus, of all groups.
    pub subscribers: Subscribers,
    /// The counters of the bus.
    pub counters: Arc<BusCounters>,
    /// When and how often a failed delivery is retried.
    pub retry: RetryPolicy,
    /// The limits for concurrent and for slow deliveries.
    pub limits: Limits,
    /// Lets a suspect run alone; one for all groups of a bus.
    pub run_lock: RunLock,
    /// Makes the spans in which handlers run.
    pub span: Arc<SpanFn>,
}

/// Limit for the workers of a group: each is a task, and more would only take memory.
const MAX_WORKERS: usize = 10_000;

impl GroupContext {
    /// Returns the number of workers: the highest concurrency among the group's handlers and its limit, at most
    /// [`MAX_WORKERS`].
    pub(super) fn workers(&self) -> usize {
        self.subscribers.most_concurrency(&self.group).max(self.limits.concurrency).clamp(1, MAX_WORKERS)
    }
}

/// The handlers of a group as of the last [`refresh`](Self::refresh).
pub(super) struct GroupHandlers {
    pub(super) current: Vec<Arc<ActiveSubscriber>>,
    pub(super) changes: watch::Receiver<()>,
    pub(super) is_stale: bool,
}

impl GroupHandlers {
    pub(super) fn new(context: &GroupContext) -> Self {
        Self { current: Vec::new(), changes: context.subscribers.watch(), is_stale: true }
    }

    /// Reloads the handlers if subscribers have joined or left.
    pub(super) fn refresh(&mut self, context: &GroupContext) {
        if self.is_stale || self.changes.has_changed().unwrap_or_default() {
            self.is_stale = false;
            self.changes.mark_unchanged();
            self.current = context.subscribers.of_group(&context.group);
        }
    }
}
