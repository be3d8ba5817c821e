//! Retries of an event that a projection could not handle.

use std::time::Duration;

use crate::{
    domain::stream::Position,
    port::{HandlerError, HandlerErrorKind, RetryPolicy},
};

/// A projection retries an event 3 times, with a backoff from 100 ms.
const EVENT_RETRY_POLICY: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(3),
    first_delay: Duration::from_millis(100),
    max_delay: Duration::from_secs(30),
};

/// An event that could not be handled.
#[derive(Debug)]
pub(super) struct EventRetry {
    pub(super) position: Position,
    /// Number of attempts so far.
    pub(super) attempts: u32,
    /// The error of the last attempt.
    pub(super) error: HandlerError,
}

impl EventRetry {
    /// Returns `true` if no retry follows.
    pub(super) fn is_final(&self) -> bool {
        self.error.is_permanent() || !EVENT_RETRY_POLICY.allows(self.attempts)
    }

    pub(super) fn log_retry(&self, projection: &'static str) {
        tracing::warn!(
            projection, position = %self.position, attempt = self.attempts, error = %self.error,
            "projection cannot handle an event, trying again"
        );
    }

    /// Returns the backoff before the next attempt.
    pub(super) fn delay(&self) -> Duration {
        match self.error.kind() {
            HandlerErrorKind::RetryAfter(delay) => delay,
            _ => EVENT_RETRY_POLICY.jittered(self.attempts),
        }
    }
}
