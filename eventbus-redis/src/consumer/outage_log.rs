//! What is said of trouble that lasts: once when it begins, once a minute while it lasts, once when it is over.
//!
//! Real time, not the given clock: connecting to Redis again.

use std::time::Duration;

use eventbus::{Name, port::RetryPolicy};
use tokio::time::Instant;

/// How soon is tried again: soon enough to be back within two seconds of the server.
const OUTAGE_RETRY_BACKOFF: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: None,
    first_delay: Duration::from_millis(20),
    max_delay: Duration::from_secs(1),
};

/// How often trouble that lasts is mentioned.
const OUTAGE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// One thing that can go wrong again and again.
pub(super) struct OutageLog {
    operation: &'static str,
    group: Name,
    failures: u32,
    began: Instant,
    last_logged: Instant,
}

impl OutageLog {
    pub(super) fn new(what: &'static str, group: Name) -> Self {
        let now = Instant::now();
        Self { operation: what, group, failures: 0, began: now, last_logged: now }
    }

    /// It went wrong; says after which time to try again.
    pub(super) fn record_failure(&mut self, error: &dyn std::fmt::Display) -> Duration {
        let now = Instant::now();
        let Self { operation: what, group, .. } = self;
        if self.failures == 0 {
            (self.began, self.last_logged) = (now, now);
            tracing::warn!(%group, %error, "{what} was interrupted; trying again until it succeeds");
        } else if now - self.last_logged >= OUTAGE_LOG_INTERVAL {
            self.last_logged = now;
            tracing::warn!(%group, %error, since = ?(now - self.began), "{what} is still interrupted");
        }
        self.failures = self.failures.saturating_add(1);
        OUTAGE_RETRY_BACKOFF.jittered(self.failures)
    }

    /// It went well.
    pub(super) fn record_success(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            let Self { operation: what, group, .. } = self;
            tracing::info!(%group, after = ?self.began.elapsed(), "{what} goes on");
        }
    }
}
