//! The context in which the entries of one group are handled.

use std::sync::Arc;

use super::SuspectLock;
use crate::{
    delivery::{Limits, SpanFn, Subscribers},
    domain::name::Name,
    port::{retry::RetryPolicy, stats::BusCounters},
};

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
    /// Lets one suspect run at a time; one for all groups of a bus.
    pub suspect_lock: SuspectLock,
    /// Makes the spans in which handlers run.
    pub span: Arc<SpanFn>,
}

/// Limit for the workers of a group: each is a task, and more would only take memory.
const MAX_WORKERS: usize = 10_000;

impl GroupContext {
    /// Returns the number of workers: the highest concurrency among the group's handlers and its limit, at most
    /// [`MAX_WORKERS`]; and one more for each run that is long, or blocks its thread past its time limit.
    pub(super) fn workers(&self) -> usize {
        let workers = self.subscribers.most_concurrency(&self.group).max(self.limits.concurrency).clamp(1, MAX_WORKERS);
        workers.saturating_add(self.subscribers.without_slot(&self.group))
    }
}
