//! Export of an app's metrics to OpenTelemetry, which asks for them without waiting: a task polls store and bus for it.

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
    runtime::metrics::{Exporter, Metrics},
};

/// Interval at which the task polls store and bus.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The metrics of one collection. OpenTelemetry asks for each of them by a call of its own; the first one that it asks for
/// again begins the next collection.
#[derive(Default)]
struct Collection {
    metrics: Arc<Metrics>,
    observed: BTreeSet<&'static str>,
}

/// Exports the metrics of an app until it is dropped or stopped; then also the export of the store's batches ends.
pub(super) fn export(app: &Arc<AppInner>, exporter: &Exporter, batches: Option<Receiving>) {
    if !exporter.has_meter() {
        return;
    }
    let polled: Arc<Mutex<Option<Arc<PolledStatus>>>> = Arc::default();
    let (weak, status) = (Arc::downgrade(app), Arc::clone(&polled));
    let collection: Arc<Mutex<Collection>> = Arc::default();
    exporter.export_numbers(move |metric| {
        let app = weak.upgrade().filter(|app| !app.tasks.is_stopped())?;
        // before the first poll nothing is known of store and bus
        let status = status.lock().clone()?;
        let mut collection = collection.lock();
        if collection.observed.is_empty() || !collection.observed.insert(metric.name) {
            collection.metrics = Arc::new(collect(&app, &status));
            collection.observed = BTreeSet::from([metric.name]);
        }
        Some(Arc::clone(&collection.metrics))
    });
    let (weak, clock, stop) = (Arc::downgrade(app), app.clock().clone(), app.tasks.stop().clone());
    app.tasks.spawn_store_task(async move {
        let _until_stopped = batches;
        let polling = async {
            while poll(&weak, &polled).await {
                clock.sleep(POLL_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(polling).await;
    });
}

/// Polls store and bus once; returns `false` if the app is gone.
async fn poll(app: &Weak<AppInner>, polled: &Mutex<Option<Arc<PolledStatus>>>) -> bool {
    let Some(app) = app.upgrade() else { return false };
    let status = PolledStatus::poll(&app).await;
    *polled.lock() = Some(Arc::new(status));
    true
}
