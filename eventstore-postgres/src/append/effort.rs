//! How long and how often appends are tried.
//!
//! Real time, not the given clock: connecting to PostgreSQL again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

#[derive(Debug, Clone)]
pub(super) struct Effort {
    patience: Duration,
    deadline: Option<Instant>,
    next_pause: Duration,
}

impl Effort {
    const FIRST_PAUSE: Duration = Duration::from_millis(1);
    const LONGEST_PAUSE: Duration = Duration::from_millis(250);

    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, deadline: None, next_pause: Self::FIRST_PAUSE }
    }

    /// Waits before the next try, each time longer; the time runs from the first pause. False: it is over.
    pub(super) async fn pause(&mut self) -> bool {
        let now = Instant::now();
        if now >= *self.deadline.get_or_insert(now + self.patience) {
            return false;
        }
        sleep(self.next_pause).await;
        self.next_pause = (self.next_pause * 2).min(Self::LONGEST_PAUSE);
        true
    }
}
