//! Routes for health probes and operators.

use std::sync::Arc;

use ::axum::{Json, Router, http::StatusCode, routing::get};
use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    port::{
        health::{Health, HealthThresholds},
        stats::BusStats,
    },
    runtime::{
        app::{ANSWER_TIMEOUT, App},
        projection::ProjectionStatus,
        relay::RelayStatus,
    },
};

#[derive(Debug, Serialize)]
struct ProbeResponse {
    status: &'static str,
    alerts: Vec<String>,
}

/// Routes for probes: `GET /health/live` and `GET /health/ready`.
///
/// `/health/live` answers 200 as long as the process responds. `/health/ready` answers 200 while the store of every app
/// can be read and its projections in memory include the events that were stored when the app started
/// ([`Health::is_ready`]), else 503, within two seconds; an app without a store is ready while its bus is.
/// With a store, a bus that is away is an alert only: saves still work. Both answer with JSON, as
/// `{"status":"ready","alerts":[]}`, where `alerts` lists current and likely problems.
///
/// A projection that stopped at an event is an alert only: it stops there in every process, and if that made the
/// processes unready, the whole service would be away for it. Alerts name servers, types and positions, and hold no
/// fields of events: the log and [`status_routes`] have the errors of handlers and projections.
pub fn health_routes<S: Clone + Send + Sync + 'static>(apps: impl IntoIterator<Item = App>) -> Router<S> {
    let apps: Arc<[App]> = apps.into_iter().collect();
    Router::new()
        .route("/health/live", get(async || Json(ProbeResponse { status: "alive", alerts: Vec::new() })))
        .route("/health/ready", get(async move || ready(&apps).await))
}

/// Status of an app, for operators.
#[derive(Debug, Serialize)]
struct AppStatus {
    health: Health,
    relay: Option<RelayStatus>,
    projections: Vec<ProjectionStatus>,
    /// The last failure of each handler, with the handler's own error text.
    failures: Vec<String>,
    counted: BusStats,
}

/// A route for operators: `GET /status` answers with a JSON array, which holds for each app the health of store and
/// bus, the status of relay and projections, and the last failures of its handlers. It answers within about two seconds: the
/// status of the relay, or of the projections, is left out if the store has not answered all of its reads by then.
///
/// It repeats the error texts of handlers and projections, which may hold values of events: serve it to operators only.
pub fn status_routes<S: Clone + Send + Sync + 'static>(apps: impl IntoIterator<Item = App>) -> Router<S> {
    let apps: Arc<[App]> = apps.into_iter().collect();
    Router::new().route("/status", get(async move || Json(join_all(apps.iter().map(status)).await)))
}

async fn status(app: &App) -> AppStatus {
    let relay = timeout(ANSWER_TIMEOUT, app.relay_status());
    let projections = timeout(ANSWER_TIMEOUT, app.projections());
    let (health, relay, projections) = tokio::join!(app.health(), relay, projections);
    AppStatus {
        health,
        // `health` has the error of a store that cannot be read, or does not answer at all
        relay: relay.ok().flatten(),
        projections: projections.ok().and_then(Result::ok).unwrap_or_default(),
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
