//! Export of an app's metrics to OpenTelemetry, which asks for them without waiting: a task polls store and bus for it.
//!
//! Invariant: a meter keeps the callbacks for ever, so they hold the export, and it the app, only weakly.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    inner::AppInner,
    metrics::{PolledStatus, collect},
};
use crate::{
    port::receivers::Receiving,
    runtime::metrics::{Exporter, Metrics, catalog::Descriptor},
};

/// Interval at which the task polls store and bus.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The export of an app, until its tasks stop: what the task and the callbacks of the meter share.
struct MetricsExport {
    app: Weak<AppInner>,
    /// `None` before the first poll: then nothing is known of store and bus.
    polled: Mutex<Option<Arc<PolledStatus>>>,
    /// Locked for each metric of a collection: the first one collects for all.
    collection: Mutex<Collection>,
    /// The export of the store's batches.
    _batches: Option<Receiving>,
}

/// The metrics of one collection. OpenTelemetry asks for each of them by a call of its own; the first one that it asks for
/// again begins the next collection.
#[derive(Default)]
struct Collection {
    metrics: Arc<Metrics>,
    observed: BTreeSet<&'static str>,
}

impl MetricsExport {
    /// Returns the metrics of the collection that asks for `metric`, whose first call adds to the counters, too; `None`
    /// if there is no status to report.
    fn observe(&self, metric: &'static Descriptor) -> Option<Arc<Metrics>> {
        let app = self.app.upgrade().filter(|app| !app.tasks.is_stopped())?;
        let status = self.polled.lock().clone()?;
        let mut collection = self.collection.lock();
        if collection.observed.is_empty() || !collection.observed.insert(metric.name) {
            collection.metrics = Arc::new(collect(&app, &status));
            collection.observed = BTreeSet::from([metric.name]);
            if let Some(counters) = &app.exported_counters {
                counters.add(&collection.metrics);
            }
        }
        Some(Arc::clone(&collection.metrics))
    }

    /// Polls store and bus once; returns `false` if the app is gone.
    async fn poll(&self) -> bool {
        let Some(app) = self.app.upgrade() else { return false };
        let status = PolledStatus::poll(&app).await;
        *self.polled.lock() = Some(Arc::new(status));
        true
    }
}

/// Exports the metrics of an app until it is dropped or stopped, and until then the sizes of the store's batches.
pub(super) fn export(app: &Arc<AppInner>, exporter: &Exporter, batches: Option<Receiving>) {
    if !exporter.has_meter() {
        return;
    }
    let (polled, collection) = Default::default();
    let export = Arc::new(MetricsExport { app: Arc::downgrade(app), polled, collection, _batches: batches });
    let weak = Arc::downgrade(&export);
    exporter.export_numbers(move |metric| weak.upgrade()?.observe(metric));
    let clock = app.clock().clone();
    app.tasks.spawn_restarted("the polling for metrics", move |cancel| {
        let (export, clock) = (Arc::clone(&export), clock.clone());
        async move {
            let polling = async {
                while export.poll().await {
                    clock.sleep(POLL_INTERVAL).await;
                }
            };
            cancel.run_until_cancelled(polling).await;
        }
    });
}

/// Adds to the counters of the meter what a stopped app has counted since the last collection.
pub(super) fn add_last_counts(app: &AppInner) {
    if let Some(counters) = &app.exported_counters {
        counters.add(&collect(app, &PolledStatus::default()));
    }
}
