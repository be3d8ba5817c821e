//! A metric with its samples, as values.

use super::catalog::{Descriptor, MetricKind};
use crate::port::histogram::HistogramCounts;

/// A metric with all its samples.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MetricFamily {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its unit in the words of OpenTelemetry: `s`, `1`, or what it counts, as `{event}`; empty for 0 and 1.
    pub unit: &'static str,
    /// Its meaning, in one sentence.
    pub help: &'static str,
    /// Its samples, one for each set of labels; none if the app has no part that reports it.
    pub samples: Vec<Sample>,
}

/// A value with its labels.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Names and values of the labels, in the order of the documentation.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: SampleValue,
}

/// The value of a sample.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SampleValue {
    /// A counter, or a number that rises and falls.
    Number(f64),
    /// A histogram.
    Distribution(Distribution),
}

/// The distribution of a value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Distribution {
    /// The upper bound of each bucket, with the number of values that do not exceed it, ascending.
    pub buckets: Vec<(f64, u64)>,
    /// The number of values.
    pub count: u64,
    /// The sum of the values.
    pub sum: f64,
}

impl Distribution {
    /// Makes the distribution of counts whose values are multiples of `unit`.
    pub(super) fn new(counts: &HistogramCounts, unit: f64) -> Self {
        let mut below = 0;
        let buckets = counts.bounds.iter().zip(&counts.buckets).map(|(bound, values)| {
            below += values;
            (*bound as f64 / unit, below)
        });
        Self { buckets: buckets.collect(), count: counts.count(), sum: counts.sum as f64 / unit }
    }
}

/// Returns the divisor from recorded to shown values: durations are recorded in nanoseconds and shown in seconds.
pub(crate) fn raw_units(metric: &Descriptor) -> f64 {
    if metric.unit == "s" { 1e9 } else { 1.0 }
}
