//! The sizes of the batches in which a store commits appends.

use super::histogram::{COUNT_BOUNDS, Histogram};
#[cfg(feature = "opentelemetry")]
use super::receivers::Receivers;

/// Counts how many appends a store joins into one commit, for [metrics](crate::metrics).
#[derive(Debug)]
pub struct AppendBatches {
    sizes: Histogram,
    /// The apps that export the sizes: the store may outlive an app, and a later one may export to a different meter.
    #[cfg(feature = "opentelemetry")]
    receivers: Receivers,
}

impl Default for AppendBatches {
    fn default() -> Self {
        Self {
            sizes: Histogram::new(COUNT_BOUNDS),
            #[cfg(feature = "opentelemetry")]
            receivers: Receivers::default(),
        }
    }
}

impl AppendBatches {
    /// Records a commit that joined this number of appends.
    pub fn record(&self, appends: usize) {
        self.sizes.record(appends as u64);
        #[cfg(feature = "opentelemetry")]
        self.receivers.receive(appends as u64);
    }

    pub(crate) const fn histogram(&self) -> &Histogram {
        &self.sizes
    }

    /// Returns the receivers of the sizes.
    #[cfg(feature = "opentelemetry")]
    pub(crate) const fn receivers(&self) -> &Receivers {
        &self.receivers
    }
}
