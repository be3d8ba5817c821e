//! Retry policies: limits and delays.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use crate::domain::clock::SharedClock;

/// For how long, how often and after which delays an operation is retried: exponential, capped, jittered.
///
/// # Examples
/// ```
/// use eventbus::handler::RetryPolicy;
/// use std::time::Duration;
/// let policy = RetryPolicy { first_delay: Duration::from_millis(100), max_delay: Duration::from_secs(1), ..Default::default() };
/// assert_eq!(policy.delay(1), Duration::from_millis(100));
/// assert_eq!(policy.delay(3), Duration::from_millis(400));
/// assert_eq!(policy.delay(60), Duration::from_secs(1)); // capped, never overflows
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// For how long to retry, from the first failure on. For deliveries, a pause in which no process handles the event
    /// counts for a quarter of this time at most.
    pub retry_for: Duration,
    /// The most retries; if `None`, only the time limits them.
    pub max_retries: Option<u32>,
    /// The delay before the first retry.
    pub first_delay: Duration,
    /// The longest delay.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    /// Retries for four hours, which is longer than most outages, after delays from 100 ms to 5 min.
    fn default() -> Self {
        Self {
            retry_for: Duration::from_secs(4 * 3_600),
            max_retries: None,
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// Returns `true` if [`max_retries`](Self::max_retries) allows retry number `retry`; the first is 1.
    #[must_use]
    pub fn allows(&self, retry: u32) -> bool {
        self.max_retries.is_none_or(|most| retry <= most)
    }

    /// Returns the delay before retry `attempt` (the first is 1), without jitter: it doubles from the first to the
    /// longest.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Duration {
        self.backoff().delay(attempt)
    }

    /// Returns a random delay before retry `attempt`, between half of [`delay`](Self::delay) and all of it, so that
    /// operations that failed together are not retried together.
    #[must_use]
    pub fn jittered(&self, attempt: u32) -> Duration {
        self.backoff().jittered(attempt)
    }

    const fn backoff(&self) -> Backoff {
        Backoff::new(self.first_delay, self.max_delay)
    }
}

/// The retries of one operation so far.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    first_failure: Option<Instant>,
    count: u32,
}

impl Retries {
    /// Returns the delay before the next retry, after a failure; `None` if the policy allows no more.
    pub(crate) fn next_delay(&mut self, policy: &RetryPolicy, clock: &SharedClock) -> Option<Duration> {
        self.count = self.count.saturating_add(1);
        let first_failure = *self.first_failure.get_or_insert_with(|| clock.instant());
        let is_in_time = clock.elapsed(first_failure) < policy.retry_for;
        (is_in_time && policy.allows(self.count)).then(|| policy.jittered(self.count))
    }
}
