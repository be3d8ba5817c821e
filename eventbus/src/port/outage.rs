//! When an outage begins and ends: each is worth one line in the log.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::clock::SharedClock;

/// Something that can fail again and again until it works again, such as reaching a server.
///
/// # Examples
/// ```
/// use eventbus::{SharedClock, port::Outage};
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
    /// Nothing has failed yet.
    #[must_use]
    pub const fn new(clock: SharedClock) -> Self {
        Self { clock, since: None }
    }

    /// It failed. Returns `true` if it worked before.
    pub fn begins(&mut self) -> bool {
        let is_news = self.since.is_none();
        self.since.get_or_insert_with(|| self.clock.instant());
        is_news
    }

    /// It works. Returns for how long it did not, in milliseconds at the finest; `None` if it worked before.
    pub fn ends(&mut self) -> Option<Duration> {
        let lasted = self.clock.elapsed(self.since.take()?);
        Some(Duration::from_millis(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Whether it lasts.
    #[must_use]
    pub const fn lasts(&self) -> bool {
        self.since.is_some()
    }
}
