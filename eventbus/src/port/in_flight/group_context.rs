//! How a group's entries are handled.

use std::{fmt, sync::Arc};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{
    domain::name::Name,
    port::{BusCounters, RetryPolicy, SpanFn, Subscribers, dispatch::Limits},
};

/// Lets the deliveries of a bus run beside each other, or one of them alone.
#[derive(Debug, Clone, Default)]
pub struct RunLock(Arc<RwLock<()>>);

impl RunLock {
    /// Waits until nothing runs alone; others may run beside this one until the guard is dropped.
    pub async fn shared(&self) -> RunGuard {
        RunGuard::Shared(Arc::clone(&self.0).read_owned().await)
    }

    /// Waits until nothing else runs, and lets nothing begin meanwhile nor until the guard is dropped.
    pub async fn exclusive(&self) -> RunGuard {
        RunGuard::Exclusive(Arc::clone(&self.0).write_owned().await)
    }
}

/// Lets a delivery run until it is dropped.
#[derive(Debug)]
#[allow(dead_code, reason = "it is held, not read")]
pub enum RunGuard {
    /// Beside others.
    Shared(OwnedRwLockReadGuard<()>),
    /// Alone.
    Exclusive(OwnedRwLockWriteGuard<()>),
}

/// How a group's entries are handled.
#[derive(Clone)]
pub struct GroupContext {
    /// The group.
    pub group: Name,
    /// Its handlers, and those of other groups.
    pub subscribers: Subscribers,
    /// Where deliveries are counted.
    pub counters: Arc<BusCounters>,
    /// How often and when a failed delivery is tried again.
    pub retry: RetryPolicy,
    /// How many at once, and how fast.
    pub limits: Limits,
    /// Which deliveries run at once; one for all groups of a bus.
    pub run_lock: RunLock,
    /// Makes the spans in which handlers run.
    pub span: Arc<SpanFn>,
}

/// Each worker is a task: more would take the memory rather than the work.
const MAX_WORKERS: usize = 10_000;

impl GroupContext {
    /// How many workers it takes: as many as the handler wants that wants most, and no more than there is room for.
    pub(super) fn workers(&self) -> usize {
        self.subscribers.most_concurrency(&self.group).max(self.limits.concurrency).clamp(1, MAX_WORKERS)
    }
}

impl fmt::Debug for GroupContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupContext").field("group", &self.group).field("retry", &self.retry).finish_non_exhaustive()
    }
}
