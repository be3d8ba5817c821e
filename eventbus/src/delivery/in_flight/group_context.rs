//! The context in which the entries of one group are handled.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use crate::{
    delivery::{ActiveSubscriber, Limits, SpanFn, Subscribers},
    domain::name::Name,
    port::{retry::RetryPolicy, stats::BusCounters},
};

/// Lets the deliveries of a bus run beside each other, or one of them alone; shared by its groups.
#[derive(Debug, Clone, Default)]
pub struct RunLock(Arc<RwLock<()>>);

impl RunLock {
    /// Waits until no delivery runs alone; more may run beside this one until the guard is dropped.
    pub async fn shared(&self) -> RunGuard {
        RunGuard::Shared(Arc::clone(&self.0).read_owned().await)
    }

    /// Waits until no other delivery runs; none begins during the wait, nor until the guard is dropped.
    pub async fn exclusive(&self) -> RunGuard {
        RunGuard::Exclusive(Arc::clone(&self.0).write_owned().await)
    }
}

/// Permission for one delivery to run, until dropped.
#[derive(Debug)]
#[allow(dead_code, reason = "it is held, not read")]
pub enum RunGuard {
    /// Beside other deliveries.
    Shared(OwnedRwLockReadGuard<()>),
    /// Alone.
    Exclusive(OwnedRwLockWriteGuard<()>),
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
