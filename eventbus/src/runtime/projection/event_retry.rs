//! An event that could not be handled, and when it is tried again.

use std::time::Duration;

use crate::{
    domain::stream::Position,
    port::{HandlerError, HandlerErrorKind, RetryPolicy},
};

/// How often, and after which delays, a projection tries an event again: 3 times, from 100 ms.
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
    /// How often it was tried.
    pub(super) attempts: u32,
    /// What came of it at last.
    pub(super) error: HandlerError,
}

impl EventRetry {
    /// Whether it is not tried again.
    pub(super) fn is_final(&self) -> bool {
        self.error.is_permanent() || !EVENT_RETRY_POLICY.allows(self.attempts)
    }

    pub(super) fn log_retry(&self, projection: &'static str) {
        tracing::warn!(
            projection, position = %self.position, attempt = self.attempts, error = %self.error,
            "projection cannot handle an event, trying again"
        );
    }

    /// After which time it is tried again.
    pub(super) fn delay(&self) -> Duration {
        match self.error.kind() {
            HandlerErrorKind::RetryAfter(delay) => delay,
            _ => EVENT_RETRY_POLICY.jittered(self.attempts),
        }
    }
}
