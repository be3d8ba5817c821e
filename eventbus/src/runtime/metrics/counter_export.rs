//! Export of an app's counters to a meter of OpenTelemetry.
//!
//! The counters begin at 0 with the app. The instruments belong to the meter, and go on when a later app of the process
//! exports to it. So each collection adds what the app has counted since the collection before.
//!
//! Invariant: what the instruments got never falls, and is the sum over the apps.

use std::collections::{BTreeMap, HashMap};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use parking_lot::Mutex;

use super::{
    catalog::{self, MetricKind},
    families::Metrics,
    family::{Sample, SampleValue},
};

/// The names and values of the labels of a series.
type Labels = Vec<(&'static str, String)>;

/// The counters of an app at a meter.
pub(crate) struct CounterExport(BTreeMap<&'static str, ExportedCounter>);

struct ExportedCounter {
    instrument: Counter<u64>,
    /// Locked while a collection adds to the counter: collections of several readers must not add the same growth.
    series: Mutex<HashMap<Labels, ExportedSeries>>,
}

struct ExportedSeries {
    exported: u64,
    attributes: Vec<KeyValue>,
}

impl CounterExport {
    /// Creates the counters of an app that has counted nothing yet.
    pub(super) fn new(meter: &Meter) -> Self {
        let counters = catalog::ALL.iter().filter(|metric| metric.kind == MetricKind::Counter);
        let counters = counters.map(|metric| {
            // exporters for Prometheus append it
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            let instrument = meter.u64_counter(name).with_description(metric.help).with_unit(metric.unit).build();
            (metric.name, ExportedCounter { instrument, series: Mutex::default() })
        });
        Self(counters.collect())
    }

    /// Adds what the app has counted since the last call. A series that has not grown gets a 0, so that it is there.
    pub(crate) fn add(&self, metrics: &Metrics) {
        for family in metrics.families() {
            if let Some(counter) = self.0.get(family.name) {
                counter.add(&family.samples);
            }
        }
    }
}

impl ExportedCounter {
    fn add(&self, samples: &[Sample]) {
        let mut all_series = self.series.lock();
        for Sample { labels, value } in samples {
            let SampleValue::Number(number) = value else { continue };
            let number = *number as u64;
            if !all_series.contains_key(labels) {
                let attributes = labels.iter().map(|(name, value)| attribute(name, value)).collect();
                all_series.insert(labels.clone(), ExportedSeries { exported: 0, attributes });
            }
            if let Some(series) = all_series.get_mut(labels) {
                self.instrument.add(number.saturating_sub(series.exported), &series.attributes);
                series.exported = series.exported.max(number);
            }
        }
    }
}

/// Returns a label as OpenTelemetry names it.
pub(super) fn attribute(name: &'static str, value: &str) -> KeyValue {
    KeyValue::new(name, value.to_owned())
}
