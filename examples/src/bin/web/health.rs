//! `GET /health/live` and `GET /health/ready`.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use eventbus::{App, port::HealthThresholds};
use futures_util::future::join_all;
use serde::Serialize;

use crate::workers::Workers;

/// How long store and bus may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What probes are told.
#[derive(Debug, Serialize)]
pub struct Health {
    status: &'static str,
    /// What is wrong.
    alerts: Vec<String>,
}

/// The process runs and answers; whoever hears nothing starts it anew.
pub async fn live() -> Json<Health> {
    Json(Health { status: "alive", alerts: Vec::new() })
}

/// Store, bus and workers are well; until then nobody should send requests.
pub async fn ready(State(workers): State<Workers>) -> (StatusCode, Json<Health>) {
    let (store, buses) = tokio::join!(store(workers.app()), join_all(workers.apps().map(bus)));
    let is_ready = store.is_none() && buses.iter().all(|(is_healthy, _)| *is_healthy);
    let alerts = store.into_iter().chain(buses.into_iter().flat_map(|(_, alerts)| alerts)).collect();
    match is_ready {
        true => (StatusCode::OK, Json(Health { status: "ready", alerts })),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "not ready", alerts })),
    }
}

/// What is wrong with the store.
async fn store(app: &App) -> Option<String> {
    match tokio::time::timeout(PATIENCE, app.store().head()).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("event store does not answer within {PATIENCE:?}")),
    }
}

/// Whether the bus is well, the app consumes and relays; and whatever is wrong.
async fn bus(app: &App) -> (bool, Vec<String>) {
    match tokio::time::timeout(PATIENCE, app.health()).await {
        Ok(health) => (health.is_healthy(), health.alerts(&HealthThresholds::default())),
        Err(_) => (false, vec![format!("event bus does not answer within {PATIENCE:?}")]),
    }
}
