//! Metrics as values: families of samples.

use super::{catalog::Descriptor, prometheus_text};
use crate::port::histogram::HistogramCounts;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// A number that only grows, from 0 at the start of the process.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// The distribution of a value since the start of the process.
    Histogram,
}

impl MetricKind {
    /// Returns its name in the exposition format of Prometheus.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The metrics of an app at one moment, from [`App::metrics`](crate::App::metrics).
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Metrics {
    families: Vec<MetricFamily>,
}

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
    fn new(counts: &HistogramCounts, unit: f64) -> Self {
        let mut below = 0;
        let buckets = counts.bounds.iter().zip(&counts.buckets).map(|(bound, values)| {
            below += values;
            (*bound as f64 / unit, below)
        });
        Self { buckets: buckets.collect(), count: counts.count(), sum: counts.sum as f64 / unit }
    }
}

impl Metrics {
    /// Returns all metrics, in the order of the documentation.
    #[must_use]
    pub fn families(&self) -> &[MetricFamily] {
        &self.families
    }

    /// Returns a counter, or a number that rises and falls, by its name and all its labels, in any order.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// let app = eventbus::App::builder().start().await?;
    /// let metrics = app.metrics().await;
    /// assert_eq!(metrics.number("eventbus_relay_lag_seconds", &[]), Some(0.0));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn number(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        match self.find(name, labels)? {
            SampleValue::Number(number) => Some(*number),
            SampleValue::Distribution(_) => None,
        }
    }

    /// Returns a histogram by its name and all its labels, in any order.
    #[must_use]
    pub fn distribution(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Distribution> {
        match self.find(name, labels)? {
            SampleValue::Number(_) => None,
            SampleValue::Distribution(distribution) => Some(distribution),
        }
    }

    fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<&SampleValue> {
        let family = self.families.iter().find(|family| family.name == name)?;
        let has_labels = |sample: &&Sample| {
            let has = |label: &(&str, &str)| sample.labels.iter().any(|(name, value)| (*name, &**value) == *label);
            sample.labels.len() == labels.len() && labels.iter().all(has)
        };
        family.samples.iter().find(has_labels).map(|sample| &sample.value)
    }

    /// Writes the metrics in the [text format] of Prometheus, version 0.0.4.
    ///
    /// [text format]: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
    #[must_use]
    pub fn to_prometheus_text(&self) -> String {
        prometheus_text::write(&self.families)
    }
}

/// Collects samples; a metric without samples is there too.
#[derive(Debug)]
pub(crate) struct FamilyBuilder {
    families: Vec<MetricFamily>,
}

impl FamilyBuilder {
    /// Begins with these metrics, without samples.
    pub(crate) fn new(metrics: &[&Descriptor]) -> Self {
        let family = |descriptor: &&Descriptor| MetricFamily {
            name: descriptor.name,
            kind: descriptor.kind,
            unit: descriptor.unit,
            help: descriptor.help,
            samples: Vec::new(),
        };
        Self { families: metrics.iter().map(family).collect() }
    }

    /// Adds a number; `values` are those of the metric's labels, in their order.
    pub(crate) fn number(&mut self, metric: &Descriptor, values: &[&str], number: f64) {
        self.add(metric, values, SampleValue::Number(number));
    }

    /// Adds a count.
    pub(crate) fn count(&mut self, metric: &Descriptor, values: &[&str], count: u64) {
        self.number(metric, values, count as f64);
    }

    /// Adds 1 if `is_set`, else 0.
    pub(crate) fn flag(&mut self, metric: &Descriptor, values: &[&str], is_set: bool) {
        self.number(metric, values, if is_set { 1.0 } else { 0.0 });
    }

    /// Adds a histogram; durations are counted in nanoseconds, and shown in seconds.
    pub(crate) fn histogram(&mut self, metric: &Descriptor, values: &[&str], counts: &HistogramCounts) {
        let distribution = Distribution::new(counts, raw_units(metric));
        self.add(metric, values, SampleValue::Distribution(distribution));
    }

    /// Adds a sample.
    fn add(&mut self, metric: &Descriptor, values: &[&str], value: SampleValue) {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        if let Some(family) = self.families.iter_mut().find(|family| family.name == metric.name) {
            let labels = metric.labels.iter().zip(values).map(|(name, value)| (*name, (*value).to_owned()));
            family.samples.push(Sample { labels: labels.collect(), value });
        }
    }

    pub(crate) fn build(self) -> Metrics {
        Metrics { families: self.families }
    }
}

/// Returns how many of the units in which a histogram counts make one of those in which it is shown.
pub(crate) fn raw_units(metric: &Descriptor) -> f64 {
    if metric.unit == "s" { 1e9 } else { 1.0 }
}
