//! Results and progress of a projection, as values.

use std::{collections::BTreeMap, time::Duration};

use eventbus::port::MessageId;
use serde::Serialize;

use crate::trim::in_seconds;

/// Result of a run of a projection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Applied {
    /// Number of processed entries, including those of unknown types, without those that a concurrent runner processed.
    pub processed: u64,
    /// Number of processed entries without a handler for their type, by type. They were skipped.
    pub unknown: BTreeMap<String, u64>,
    /// Number of processed entries that [`skip_if`](super::EventProjection::skip_if) skipped.
    pub skipped: u64,
    /// The last processed entry, by any runner.
    pub position: Option<MessageId>,
}

/// Progress of a rebuild.
///
/// # Examples
/// ```
/// use eventbus_redis::streams::ProjectionProgress;
/// use std::time::Duration;
/// let now = ProjectionProgress { done: 500, of: 2_000, took: Duration::from_secs(5) };
/// assert_eq!((now.per_second(), now.time_left()), (100.0, Some(Duration::from_secs(15))));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProjectionProgress {
    /// Number of processed entries.
    pub done: u64,
    /// Number of entries in total: the entries in the stream when the rebuild began, and entries added and processed
    /// since.
    pub of: u64,
    /// Time since the rebuild began.
    #[serde(serialize_with = "in_seconds")]
    pub took: Duration,
}

impl ProjectionProgress {
    /// Returns processed entries per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        let seconds = self.took.as_secs_f64();
        if seconds > 0.0 { self.done as f64 / seconds } else { 0.0 }
    }

    /// Returns the estimated time to the end; `None` while the rate is unknown.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.of.saturating_sub(self.done) as f64 / self.per_second()).ok()
    }
}
