//! A clock that runs faster than the machine's, for processes that would wait for minutes.

use std::time::Duration;

use eventbus::clock::{Clock, Sleep, SystemClock};
use time::OffsetDateTime;
use tokio::time::Instant;

/// Runs `times` times as fast as the machine's clock, from now on.
#[derive(Debug)]
pub(crate) struct FastClock {
    times: u32,
    began: Instant,
    began_at: OffsetDateTime,
}

impl FastClock {
    pub(crate) fn new(times: u32) -> Self {
        Self { times, began: Instant::now(), began_at: SystemClock.now() }
    }

    fn passed(&self) -> Duration {
        self.began.elapsed() * self.times
    }
}

impl Clock for FastClock {
    fn now(&self) -> OffsetDateTime {
        self.began_at + self.passed()
    }

    fn instant(&self) -> Instant {
        self.began + self.passed()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let wait = deadline.saturating_duration_since(self.began) / self.times;
        Box::pin(tokio::time::sleep_until(self.began + wait))
    }
}
