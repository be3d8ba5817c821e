//! When to try again.

use std::time::Duration;

/// How often, and after which delays, something is tried again: exponential, capped, jittered.
///
/// # Examples
/// ```
/// use eventbus::port::RetryPolicy;
/// use std::time::Duration;
/// let policy = RetryPolicy { first_delay: Duration::from_millis(100), max_delay: Duration::from_secs(1), ..Default::default() };
/// assert_eq!(policy.delay(1), Duration::from_millis(100));
/// assert_eq!(policy.delay(3), Duration::from_millis(400));
/// assert_eq!(policy.delay(60), Duration::from_secs(1)); // capped, never overflows
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many times to try after the first try.
    pub max_retries: u32,
    /// The delay before the first retry.
    pub first_delay: Duration,
    /// The longest delay.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    /// 3 retries, from 100 ms to 30 s.
    fn default() -> Self {
        Self { max_retries: 3, first_delay: Duration::from_millis(100), max_delay: Duration::from_secs(30) }
    }
}

/// A hundred years: clocks cannot hold every delay that one can ask for.
pub(super) const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

impl RetryPolicy {
    /// The delay before retry `attempt` (the first is 1), without jitter: doubles from the first to the longest.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_delay.saturating_mul(factor).min(self.max_delay).min(LONGEST)
    }

    /// The delay before retry `attempt`, anywhere between half of [`delay`](Self::delay) and all of it, so that those
    /// who failed together do not come back together.
    #[must_use]
    pub fn jittered(&self, attempt: u32) -> Duration {
        self.delay(attempt).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}
