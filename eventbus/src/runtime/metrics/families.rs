//! All metrics of an app, and how they are collected.

use super::{
    catalog::Descriptor,
    family::{Distribution, MetricFamily, Sample, SampleValue, raw_units},
    prometheus_text,
};
use crate::port::histogram::HistogramCounts;

/// The metrics of an app at one moment, from [`App::metrics`](crate::App::metrics).
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Metrics {
    families: Vec<MetricFamily>,
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
    /// ```standalone_crate
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// let app = eventbus::App::builder().start().await?;
    /// let metrics = app.metrics().await;
    /// assert_eq!(metrics.number("eventbus_feed_head", &[]), Some(0.0));
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
