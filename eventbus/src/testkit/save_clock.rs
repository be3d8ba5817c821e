//! The clock of the repositories of a [`TestApp`](super::TestApp).

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::clock::ManualClock;
use crate::domain::clock::{Clock, Sleep, SystemClock};

/// The clock of a test, except that its sleeps take real time: the delay before a retry of a save, after a conflict or
/// a lost reply. The test awaits the save, and cannot move its clock meanwhile.
#[derive(Debug, Clone)]
pub(super) struct SaveClock(ManualClock);

impl SaveClock {
    pub(super) const fn new(clock: ManualClock) -> Self {
        Self(clock)
    }
}

impl Clock for SaveClock {
    fn now(&self) -> OffsetDateTime {
        self.0.now()
    }

    fn instant(&self) -> Instant {
        self.0.instant()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let delay = deadline.saturating_duration_since(self.instant());
        SystemClock.sleep_until(SystemClock.instant() + delay)
    }

    fn new_id(&self) -> Uuid {
        self.0.new_id()
    }
}
