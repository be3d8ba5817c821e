//! Backoffs: delays that double.

use std::time::Duration;

/// The delays between attempts: each is twice as long as the one before, up to a maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

/// The limit for delays, a hundred years: clocks cannot hold every delay that a caller can ask for.
pub(super) const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

impl Backoff {
    /// Creates a backoff with its first and its longest delay.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// Returns the delay before retry `attempt` (the first is 1), without jitter.
    #[must_use]
    pub fn delay(self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max).min(LONGEST)
    }

    /// Returns a random delay before retry `attempt`, between half of [`delay`](Self::delay) and all of it, so that
    /// operations that failed together are not retried together.
    #[must_use]
    pub fn jittered(self, attempt: u32) -> Duration {
        self.delay(attempt).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// A backoff with the number of delays taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffTimer {
    backoff: Backoff,
    attempt: u32,
}

impl BackoffTimer {
    /// Creates a timer whose next delay is the first of `backoff`.
    #[must_use]
    pub const fn new(backoff: Backoff) -> Self {
        Self { backoff, attempt: 0 }
    }

    /// Returns the next delay, without jitter: for polls.
    pub fn next_delay(&mut self) -> Duration {
        self.attempt = self.attempt.saturating_add(1);
        self.backoff.delay(self.attempt)
    }

    /// Returns the next delay, with [jitter](Backoff::jittered): for retries after a failure.
    pub fn next_jittered(&mut self) -> Duration {
        self.attempt = self.attempt.saturating_add(1);
        self.backoff.jittered(self.attempt)
    }

    /// Begins again with the first delay.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}
