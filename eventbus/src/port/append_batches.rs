//! The sizes of the batches in which a store commits appends.

use super::histogram::{COUNT_BOUNDS, Histogram};

/// Counts how many appends a store joins into one commit, for [metrics](crate::metrics).
#[derive(Debug)]
pub struct AppendBatches(Histogram);

impl Default for AppendBatches {
    fn default() -> Self {
        Self(Histogram::new(COUNT_BOUNDS))
    }
}

impl AppendBatches {
    /// Records a commit that joined this number of appends.
    pub fn record(&self, appends: usize) {
        self.0.record(appends as u64);
    }

    pub(crate) const fn histogram(&self) -> &Histogram {
        &self.0
    }
}
