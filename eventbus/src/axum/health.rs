//! What probes ask.

use std::{sync::Arc, time::Duration};

use ::axum::{Json, Router, http::StatusCode, routing::get};
use futures_util::future::join_all;
use serde::Serialize;

use crate::{port::HealthThresholds, runtime::app::App};

/// How long store and bus may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Answer {
    status: &'static str,
    alerts: Vec<String>,
}

/// Routes for probes: `GET /health/live` and `GET /health/ready`.
///
/// `/health/live` answers 200 as long as the process does. `/health/ready` answers 200 while every app is healthy
/// ([`App::health`]) and says so within two seconds, else 503. Both answer with JSON, as
/// `{"status":"ready","alerts":[]}`, where `alerts` says what is wrong, or what soon may be.
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
    let looks = join_all(apps.iter().map(look)).await;
    let is_ready = looks.iter().all(|(is_healthy, _)| *is_healthy);
    let mut alerts: Vec<_> = looks.into_iter().flat_map(|(_, alerts)| alerts).collect();
    alerts.sort();
    alerts.dedup(); // apps with one bus say the same
    match is_ready {
        true => (StatusCode::OK, Json(Answer { status: "ready", alerts })),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(Answer { status: "not ready", alerts })),
    }
}

/// Whether an app is healthy, and whatever is wrong.
async fn look(app: &App) -> (bool, Vec<String>) {
    match tokio::time::timeout(PATIENCE, app.health()).await {
        Ok(health) => (health.is_healthy(), health.alerts(&HealthThresholds::default())),
        Err(_) => (false, vec![format!("store or bus do not answer within {PATIENCE:?}")]),
    }
}
