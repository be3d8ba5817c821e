//! The log of an outage: one line when it begins, one each minute while it lasts, one when it is over.
//!
//! Real time, not the given clock: connecting to Redis again.

use std::time::Duration;

use eventbus::{Name, support::Backoff};
use tokio::time::Instant;

/// Backoff between two attempts: short enough to reconnect within two seconds after the server is back.
const OUTAGE_RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

/// Interval of the lines while an outage lasts.
const OUTAGE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Outages of one operation.
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

    /// Records a failure; returns the delay before the next attempt.
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

    /// Records a success, which ends an outage.
    pub(super) fn record_success(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            let Self { operation: what, group, .. } = self;
            tracing::info!(%group, after = ?self.began.elapsed(), "{what} goes on");
        }
    }
}
