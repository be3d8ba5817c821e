//! What is said of trouble that lasts: once when it begins, once a minute while it lasts, once when it is over.
//!
//! Real time, not the given clock: connecting to Redis again.

use std::time::Duration;

use eventbus::{Name, port::RetryPolicy};
use tokio::time::Instant;

/// How soon is tried again: soon enough to be back within two seconds of the server.
const AGAIN: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: None,
    first_delay: Duration::from_millis(20),
    max_delay: Duration::from_secs(1),
};

/// How often trouble that lasts is mentioned.
const REMIND: Duration = Duration::from_secs(60);

/// One thing that can go wrong again and again.
pub(super) struct Trouble {
    what: &'static str,
    group: Name,
    tries: u32,
    began: Instant,
    told: Instant,
}

impl Trouble {
    pub(super) fn new(what: &'static str, group: Name) -> Self {
        let now = Instant::now();
        Self { what, group, tries: 0, began: now, told: now }
    }

    /// It went wrong; says after which time to try again.
    pub(super) fn happened(&mut self, error: &dyn std::fmt::Display) -> Duration {
        let now = Instant::now();
        let Self { what, group, .. } = self;
        if self.tries == 0 {
            (self.began, self.told) = (now, now);
            tracing::warn!(%group, %error, "{what} was interrupted; trying again until it succeeds");
        } else if now - self.told >= REMIND {
            self.told = now;
            tracing::warn!(%group, %error, since = ?(now - self.began), "{what} is still interrupted");
        }
        self.tries = self.tries.saturating_add(1);
        AGAIN.jittered(self.tries)
    }

    /// It went well.
    pub(super) fn is_over(&mut self) {
        if std::mem::take(&mut self.tries) > 0 {
            let Self { what, group, .. } = self;
            tracing::info!(%group, after = ?self.began.elapsed(), "{what} goes on");
        }
    }
}
