//! What a projection has done, as values.

use std::{collections::BTreeMap, time::Duration};

use eventbus::{SharedClock, port::MessageId};
use serde::Serialize;
use tokio::time::Instant;

use crate::trim::in_seconds;

/// What a run of a projection has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Applied {
    /// How many entries were processed, those of unknown types included. What another runner did in the meantime is not
    /// counted.
    pub processed: u64,
    /// How many of them had a type without a handler, by type. They were skipped.
    pub unknown: BTreeMap<String, u64>,
    /// How many of them it was [told to skip](crate::EventProjection::skip_if).
    pub skipped: u64,
    /// How many entries were deleted by name, as `XDEL` does, before they were processed. It has gone on without them, as
    /// a rebuild would.
    pub deleted: u64,
    /// The last entry that is processed, whoever did it.
    pub position: Option<MessageId>,
}

/// How far a rebuild has come.
///
/// # Examples
/// ```
/// use eventbus_redis::ProjectionProgress;
/// use std::time::Duration;
/// let now = ProjectionProgress { done: 500, of: 2_000, took: Duration::from_secs(5) };
/// assert_eq!((now.per_second(), now.left()), (100.0, Some(Duration::from_secs(15))));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProjectionProgress {
    /// How many entries are processed.
    pub done: u64,
    /// How many there are: those of the stream when the rebuild began, and those that came and were processed since.
    pub of: u64,
    /// How long it has taken.
    #[serde(serialize_with = "in_seconds")]
    pub took: Duration,
}

impl ProjectionProgress {
    /// Entries per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        let seconds = self.took.as_secs_f64();
        if seconds > 0.0 { self.done as f64 / seconds } else { 0.0 }
    }

    /// About how long it takes yet; `None` as long as nobody can tell.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.of.saturating_sub(self.done) as f64 / self.per_second()).ok()
    }
}

/// Tells how far a rebuild has come.
pub(super) struct ProgressReporter<F> {
    report: F,
    began: Instant,
    clock: SharedClock,
    of: u64,
}

impl<F: FnMut(ProjectionProgress)> ProgressReporter<F> {
    pub(super) fn new(of: u64, report: F, clock: SharedClock) -> Self {
        Self { report, began: clock.instant(), clock, of }
    }

    pub(super) fn report_progress(&mut self, done: u64) {
        self.of = self.of.max(done);
        (self.report)(ProjectionProgress { done, of: self.of, took: self.clock.elapsed(self.began) });
    }
}
