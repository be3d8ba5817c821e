//! Export to a meter of OpenTelemetry: the feature `opentelemetry`.
//!
//! Invariant: the attributes of a series are made once, at the start of the app, and not for each value.

use std::{fmt, sync::Arc};

use opentelemetry::{KeyValue, metrics::Meter};

use super::{
    append_meter::{AppendMeter, AppendOutcome},
    catalog::{self, Descriptor, MetricKind},
    counter_export::{CounterExport, attribute},
    families::Metrics,
    family::{Sample, SampleValue, raw_units},
};
use crate::port::{EventStore, SubscriberStatus, histogram::Histogram, receivers::Receiving, run_meter::RunOutcome};

/// The meter to which an app exports its metrics, if it has one.
#[derive(Clone, Default)]
pub(crate) struct Exporter(Option<Meter>);

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exporter({})", if self.0.is_some() { "a meter" } else { "none" })
    }
}

impl Exporter {
    pub(crate) const fn new(meter: Meter) -> Self {
        Self(Some(meter))
    }

    pub(crate) const fn has_meter(&self) -> bool {
        self.0.is_some()
    }

    /// Exports the durations and sizes of appends from now on.
    pub(super) fn export_appends(&self, appends: &AppendMeter) {
        for outcome in AppendOutcome::ALL {
            self.export(&catalog::APPEND_SECONDS, &[outcome.label()], appends.histogram(outcome));
        }
        self.export(&catalog::APPEND_EVENTS, &[], appends.events());
    }

    /// Exports the durations of an app's handlers from now on.
    pub(super) fn export_runs(&self, subscribers: &[Arc<dyn SubscriberStatus>]) {
        for status in subscribers {
            let subscriber = status.subscriber();
            for outcome in RunOutcome::ALL {
                let labels = [status.group().as_str(), subscriber.name().as_str(), outcome.label()];
                self.export(&catalog::HANDLER_SECONDS, &labels, subscriber.meter().histogram(outcome));
            }
        }
    }

    /// Exports the sizes of the batches of a store, until the returned value is dropped: the store may outlive the app.
    pub(crate) fn export_batches(&self, store: &dyn EventStore) -> Option<Receiving> {
        let batches = store.append_batches()?;
        Some(batches.receivers().add(self.recorder(&catalog::COMMIT_APPENDS, &[], batches.histogram())?))
    }

    /// Exports the values of a histogram of the app from now on.
    fn export(&self, metric: &'static Descriptor, labels: &[&str], histogram: &Histogram) {
        if let Some(record) = self.recorder(metric, labels, histogram) {
            histogram.forward_to(record);
        }
    }

    /// Returns a function that records a value of a histogram at the meter.
    fn recorder(
        &self,
        metric: &'static Descriptor,
        labels: &[&str],
        histogram: &Histogram,
    ) -> Option<impl Fn(u64) + Send + Sync + use<>> {
        let meter = self.0.as_ref()?;
        let units = raw_units(metric);
        let bounds = histogram.snapshot().bounds.iter().map(|bound| *bound as f64 / units).collect();
        let instrument = meter.f64_histogram(metric.name).with_description(metric.help).with_unit(metric.unit);
        let instrument = instrument.with_boundaries(bounds).build();
        let attributes: Vec<_> = metric.labels.iter().zip(labels).map(|(name, value)| attribute(name, value)).collect();
        Some(move |value| instrument.record(value as f64 / units, &attributes))
    }

    /// Returns the counters of an app at the meter; `None` without one.
    pub(crate) fn export_counters(&self) -> Option<CounterExport> {
        self.0.as_ref().map(CounterExport::new)
    }

    /// Exports the numbers that rise and fall. A collection asks for each of them once, by `collect`, which returns what the
    /// app reports; `None` once the app is gone.
    pub(crate) fn export_numbers(
        &self,
        collect: impl Fn(&'static Descriptor) -> Option<Arc<Metrics>> + Clone + Send + Sync + 'static,
    ) {
        let Some(meter) = &self.0 else { return };
        for &metric in catalog::ALL.iter().filter(|metric| metric.kind == MetricKind::Gauge) {
            let collect = collect.clone();
            let gauge = meter.f64_observable_gauge(metric.name).with_description(metric.help).with_unit(metric.unit);
            let gauge = gauge.with_callback(move |observer| {
                let numbers = collect(metric).map(|metrics| numbers(&metrics, metric)).unwrap_or_default();
                numbers.iter().for_each(|(number, attributes)| observer.observe(*number, attributes));
            });
            gauge.build();
        }
    }
}

/// Returns the numbers of a metric, each with the attributes of its series.
fn numbers(metrics: &Metrics, metric: &Descriptor) -> Vec<(f64, Vec<KeyValue>)> {
    let family = metrics.families().iter().filter(|family| family.name == metric.name);
    let number = |Sample { labels, value }: &Sample| match value {
        SampleValue::Number(number) => {
            Some((*number, labels.iter().map(|(name, value)| attribute(name, value)).collect()))
        }
        SampleValue::Distribution(_) => None,
    };
    family.flat_map(|family| &family.samples).filter_map(number).collect()
}
