//! The time limit and the delays of retried appends.
//!
//! Real time, not the given clock: connecting to PostgreSQL again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

#[derive(Debug, Clone)]
pub(super) struct RetryBudget {
    timeout: Duration,
    deadline: Option<Instant>,
    next_delay: Duration,
}

impl RetryBudget {
    const RETRY_DELAY_FIRST: Duration = Duration::from_millis(1);
    const RETRY_DELAY_MAX: Duration = Duration::from_millis(250);

    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, deadline: None, next_delay: Self::RETRY_DELAY_FIRST }
    }

    /// Waits before the next attempt, each time longer, and returns `true`; `false` at once if the time limit, which
    /// runs from the first call, is over.
    pub(super) async fn wait_before_retry(&mut self) -> bool {
        let now = Instant::now();
        if now >= *self.deadline.get_or_insert(now + self.timeout) {
            return false;
        }
        sleep(self.next_delay).await;
        self.next_delay = (self.next_delay * 2).min(Self::RETRY_DELAY_MAX);
        true
    }
}
