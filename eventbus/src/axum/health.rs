//! What probes ask.

use std::sync::Arc;

use ::axum::{Json, Router, http::StatusCode, routing::get};
use futures_util::future::join_all;
use serde::Serialize;

use crate::{
    port::{BusStats, Health, HealthThresholds},
    runtime::{app::App, projection::ProjectionStatus, relay::RelayStatus},
};

#[derive(Debug, Serialize)]
struct ProbeResponse {
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
/// all the service would be away for it. Alerts name servers, types and positions, and hold nothing of an event's fields:
/// what handlers and projections say of their failures is in the log, and in [`status_routes`].
pub fn health_routes<S: Clone + Send + Sync + 'static>(apps: impl IntoIterator<Item = App>) -> Router<S> {
    let apps: Arc<[App]> = apps.into_iter().collect();
    Router::new()
        .route("/health/live", get(async || Json(ProbeResponse { status: "alive", alerts: Vec::new() })))
        .route("/health/ready", get(async move || ready(&apps).await))
}

/// What an app is doing, for those who run it.
#[derive(Debug, Serialize)]
struct AppStatus {
    health: Health,
    relay: Option<RelayStatus>,
    projections: Vec<ProjectionStatus>,
    /// What handlers failed at last, in their own words.
    failures: Vec<String>,
    counted: BusStats,
}

/// A route for operators: `GET /status` answers with a JSON array, which says of every app how its store, bus, relay and
/// projections fare and what its handlers failed at last.
///
/// It repeats the words of handlers and projections, which may hold values of events: serve it to operators only.
pub fn status_routes<S: Clone + Send + Sync + 'static>(apps: impl IntoIterator<Item = App>) -> Router<S> {
    let apps: Arc<[App]> = apps.into_iter().collect();
    Router::new().route("/status", get(async move || Json(join_all(apps.iter().map(status)).await)))
}

async fn status(app: &App) -> AppStatus {
    AppStatus {
        health: app.health().await,
        relay: app.relay_status().await,
        // why they cannot be asked is what the health says of the store
        projections: app.projections().await.unwrap_or_default(),
        failures: app.failures(),
        counted: app.bus().stats(),
    }
}

async fn ready(apps: &[App]) -> (StatusCode, Json<ProbeResponse>) {
    let healths = join_all(apps.iter().map(App::health)).await;
    let mut alerts: Vec<_> = healths.iter().flat_map(|health| health.alerts(&HealthThresholds::default())).collect();
    alerts.sort();
    alerts.dedup(); // apps with one bus say the same
    match healths.iter().all(Health::is_ready) {
        true => (StatusCode::OK, Json(ProbeResponse { status: "ready", alerts })),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(ProbeResponse { status: "not ready", alerts })),
    }
}
