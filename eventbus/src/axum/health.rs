//! What probes ask.

use std::sync::Arc;

use ::axum::{Json, Router, http::StatusCode, routing::get};
use futures_util::future::join_all;
use serde::Serialize;

use crate::{
    port::{Health, HealthThresholds},
    runtime::app::App,
};

#[derive(Debug, Serialize)]
struct Answer {
    status: &'static str,
    alerts: Vec<String>,
}

/// Routes for probes: `GET /health/live` and `GET /health/ready`.
///
/// `/health/live` answers 200 as long as the process does. `/health/ready` answers 200 while the store of every app can be
/// read ([`Health::is_ready`]), else 503, within two seconds; of an app without a store its bus is asked. A bus that is
/// away is an alert: saves work all the same. Both answer with JSON, as `{"status":"ready","alerts":[]}`, where `alerts`
/// says what is wrong, or what soon may be.
///
/// A projection that stopped at an event is an alert only: it stops there in every process, and were none of them ready,
/// all the service would be away for it. Alerts may name servers and events, so they are for those who run the service.
pub fn health_routes<S: Clone + Send + Sync + 'static>(apps: impl IntoIterator<Item = App>) -> Router<S> {
    let apps: Arc<[App]> = apps.into_iter().collect();
    Router::new()
        .route("/health/live", get(async || Json(Answer { status: "alive", alerts: Vec::new() })))
        .route("/health/ready", get(async move || ready(&apps).await))
}

async fn ready(apps: &[App]) -> (StatusCode, Json<Answer>) {
    let healths = join_all(apps.iter().map(App::health)).await;
    let mut alerts: Vec<_> = healths.iter().flat_map(|health| health.alerts(&HealthThresholds::default())).collect();
    alerts.sort();
    alerts.dedup(); // apps with one bus say the same
    match healths.iter().all(Health::is_ready) {
        true => (StatusCode::OK, Json(Answer { status: "ready", alerts })),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(Answer { status: "not ready", alerts })),
    }
}
