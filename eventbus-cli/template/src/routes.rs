//! The routes of the service.

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    routing::{get, post},
};
use eventbus::{
    AggregateId, AggregateRepository, App, Position,
    axum::{Problem, health_routes, metrics_route},
};
use serde::{Deserialize, Serialize};

use crate::{account::Account, balances::Balances};

/// Returns the service of an app.
pub fn router(app: &App) -> Router {
    Router::new()
        .route("/accounts/{id}/deposits", post(deposit))
        .route("/accounts/{id}/withdrawals", post(withdraw))
        .route("/balances", get(balances))
        .merge(health_routes([app.clone()]))
        .merge(metrics_route(app)) // `GET /metrics`, for Prometheus only: let your proxy refuse it to clients
        .with_state(app.clone())
}

#[derive(Debug, Deserialize)]
struct Amount {
    cents: u64,
}

/// The answer to a command: `GET /balances?position=…` then includes it.
#[derive(Debug, Serialize)]
struct Done {
    position: Option<Position>,
}

async fn deposit(
    State(accounts): State<AggregateRepository<Account>>,
    id: Result<Path<AggregateId>, PathRejection>,
    amount: Result<Json<Amount>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    let (Path(id), Json(Amount { cents })) = (id?, amount?);
    let saved = accounts.upsert(&id, |account| account.deposit(cents)).await?;
    Ok(Json(Done { position: saved.position }))
}

async fn withdraw(
    State(accounts): State<AggregateRepository<Account>>,
    id: Result<Path<AggregateId>, PathRejection>,
    amount: Result<Json<Amount>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    let (Path(id), Json(Amount { cents })) = (id?, amount?);
    let saved = accounts.update(&id, |account| account.withdraw(cents)).await?;
    Ok(Json(Done { position: saved.position }))
}

#[derive(Debug, Deserialize)]
struct Reading {
    /// The position that the answer must include.
    position: Option<Position>,
}

async fn balances(
    State(app): State<App>,
    reading: Result<Query<Reading>, QueryRejection>,
) -> Result<Json<Balances>, Problem> {
    let Query(reading) = reading?;
    let balances = app.projected::<Balances>(reading.position).await?;
    Ok(Json(balances.clone()))
}
