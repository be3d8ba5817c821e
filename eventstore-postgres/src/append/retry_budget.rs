//! The time limit and the delays of retried appends.
//!
//! A statement waits for a connection as long as the time limit is, so one that got none is not retried.
//!
//! Real time, not the given clock: connecting to PostgreSQL again.

use std::time::Duration;

use eventbus::support::{Backoff, BackoffTimer};
use tokio::time::{Instant, sleep};

use crate::pool::ConnectionPools;

#[derive(Debug, Clone)]
pub(super) struct RetryBudget {
    timeout: Duration,
    deadline: Option<Instant>,
    backoff: BackoffTimer,
}

impl RetryBudget {
    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(250));

    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, deadline: None, backoff: BackoffTimer::new(Self::BACKOFF) }
    }

    /// Starts the time limit, unless it runs already. Returns `false` if it is over.
    pub(super) fn start(&mut self) -> bool {
        let now = Instant::now();
        now < *self.deadline.get_or_insert(now + self.timeout)
    }

    /// Waits before the next attempt, each time longer, and returns `true`; `false` at once if the store is closed or
    /// the time limit is over. Starts the time limit.
    pub(super) async fn wait_before_retry(&mut self, connections: &ConnectionPools) -> bool {
        if connections.is_closed() || !self.start() {
            return false;
        }
        sleep(self.backoff.next_delay()).await;
        true
    }
}
