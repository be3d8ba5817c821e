//! Export of an app's metrics to OpenTelemetry, which asks for them without waiting: a task polls store and bus for it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    inner::AppInner,
    metrics::{PolledStatus, collect_one},
};
use crate::runtime::metrics::Exporter;

/// Interval at which the task polls store and bus.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Exports the metrics of an app until it is dropped or stopped.
pub(super) fn export(app: &Arc<AppInner>, exporter: &Exporter) {
    let polled: Arc<Mutex<Arc<PolledStatus>>> = Arc::default();
    let (weak, status) = (Arc::downgrade(app), Arc::clone(&polled));
    exporter.export_numbers(move |metric| {
        let app = weak.upgrade()?;
        let status = Arc::clone(&status.lock());
        Some(collect_one(&app, &status, metric))
    });
    let (weak, clock, stop) = (Arc::downgrade(app), app.clock().clone(), app.tasks.stop().clone());
    app.tasks.spawn_store_task(async move {
        let polling = async {
            while poll(&weak, &polled).await {
                clock.sleep(POLL_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(polling).await;
    });
}

/// Polls store and bus once; returns `false` if the app is gone.
async fn poll(app: &Weak<AppInner>, polled: &Mutex<Arc<PolledStatus>>) -> bool {
    let Some(app) = app.upgrade() else { return false };
    let status = PolledStatus::poll(&app).await;
    *polled.lock() = Arc::new(status);
    true
}
