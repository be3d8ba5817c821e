//! Outages: the callers log one line when one begins and one when it ends.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::clock::SharedClock;

/// The outage state of an operation that can fail repeatedly until it works again, such as reaching a server.
///
/// # Examples
/// ```
/// use eventbus::{clock::SharedClock, support::Outage};
/// let mut outage = Outage::new(SharedClock::SYSTEM);
/// assert!(outage.begins(), "the first failure is worth a line in the log");
/// assert!(!outage.begins(), "those after it are not");
/// assert!(outage.ends().is_some(), "it works again");
/// assert_eq!(outage.ends(), None, "it worked before, too");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Outage {
    clock: SharedClock,
    since: Option<Instant>,
}

impl Outage {
    /// Creates the state of an operation that has not failed yet.
    #[must_use]
    pub const fn new(clock: SharedClock) -> Self {
        Self { clock, since: None }
    }

    /// Records a failure. Returns `true` if the operation worked before.
    pub fn begins(&mut self) -> bool {
        let is_new = self.since.is_none();
        self.since.get_or_insert_with(|| self.clock.instant());
        is_new
    }

    /// Records a success. Returns how long the outage lasted, in whole milliseconds; `None` if there was none.
    pub fn ends(&mut self) -> Option<Duration> {
        let lasted = self.clock.elapsed(self.since.take()?);
        Some(Duration::from_millis(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Returns `true` during an outage.
    #[must_use]
    pub const fn lasts(&self) -> bool {
        self.since.is_some()
    }
}
