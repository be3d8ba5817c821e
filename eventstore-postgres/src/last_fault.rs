//! The last time of a fault that other connections may share.
//!
//! Real time, not the given clock: connections to PostgreSQL.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The time of the last such fault.
///
/// Locked to note or to compare the time.
#[derive(Debug, Default)]
pub(crate) struct LastFault(Mutex<Option<Instant>>);

impl LastFault {
    /// Notes a fault that was found now.
    pub(crate) fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Returns `true` if the fault was found within this time: a connection of that age, or idle for so long, may share
    /// it.
    pub(crate) fn is_within(&self, time: Duration) -> bool {
        self.0.lock().is_some_and(|noted| noted.elapsed() < time)
    }
}
