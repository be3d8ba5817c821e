//! Counters of a value's distribution, for metrics.
//!
//! Invariant: recording a value takes no lock and allocates no memory, since each append and each run of a handler does
//! it.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// The upper bounds of the buckets for durations, in nanoseconds: from 100 µs to a minute, the default time limit of a
/// handler.
pub(crate) const DURATION_BOUNDS: &[u64] = &[
    100_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// The upper bounds of the buckets for numbers of events.
pub(crate) const COUNT_BOUNDS: &[u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000];

/// Receives each recorded value, to export it elsewhere.
type ForwardFn = Box<dyn Fn(u64) + Send + Sync>;

/// The distribution of a value since it was created: a count for each bucket, and the sum.
#[derive(derive_more::Debug)]
#[debug("Histogram({:?})", self.snapshot())]
pub(crate) struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for the values above all of them.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    forward: OnceLock<ForwardFn>,
}

/// The counts of a [`Histogram`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HistogramCounts {
    /// The upper bounds of the buckets, inclusive.
    pub(crate) bounds: &'static [u64],
    /// The number of values in each bucket alone; the last one has no bound.
    pub(crate) buckets: Vec<u64>,
    pub(crate) sum: u64,
}

impl Histogram {
    /// Creates an empty histogram; `bounds` are ascending.
    pub(crate) fn new(bounds: &'static [u64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum: AtomicU64::new(0), forward: OnceLock::new() }
    }

    /// Records a value.
    pub(crate) fn record(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
        if let Some(forward) = self.forward.get() {
            forward(value);
        }
    }

    /// Passes each value from now on to `forward` too; has no effect if `forward` was set before.
    #[cfg_attr(not(feature = "opentelemetry"), allow(dead_code, reason = "the exporter calls it"))]
    pub(crate) fn forward_to(&self, forward: impl Fn(u64) + Send + Sync + 'static) {
        let _ = self.forward.set(Box::new(forward));
    }

    /// Returns the counts. Values that are recorded meanwhile may be in the sum and not yet in a bucket.
    pub(crate) fn snapshot(&self) -> HistogramCounts {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        HistogramCounts { bounds: self.bounds, buckets, sum: self.sum.load(Ordering::Relaxed) }
    }
}

impl HistogramCounts {
    /// Returns the number of values.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_value_is_counted_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::new(&[1, 5]);
        for value in [0, 1, 2, 5, 6, 100] {
            histogram.record(value);
        }
        let counts = histogram.snapshot();
        assert_eq!((counts.buckets.as_slice(), counts.sum, counts.count()), ([2, 2, 2].as_slice(), 114, 6));
    }

    #[test]
    fn bounds_are_ascending() {
        for bounds in [DURATION_BOUNDS, COUNT_BOUNDS] {
            assert!(bounds.is_sorted_by(|one, next| one < next));
        }
    }

    #[test]
    fn values_are_passed_on_to_one_receiver() {
        let histogram = Histogram::new(COUNT_BOUNDS);
        let forwarded = Arc::new(AtomicU64::new(0));
        for factor in [1, 100] {
            let forwarded = Arc::clone(&forwarded);
            histogram.forward_to(move |value| {
                forwarded.fetch_add(factor * value, Ordering::Relaxed);
            });
        }
        histogram.record(3);
        assert_eq!((forwarded.load(Ordering::Relaxed), histogram.snapshot().sum), (3, 3));
    }
}
