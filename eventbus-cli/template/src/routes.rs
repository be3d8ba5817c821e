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
    repository::IdempotencyKey,
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

/// Takes effect once for each `Idempotency-Key` of the client, however often it is sent.
async fn deposit(
    State(accounts): State<AggregateRepository<Account>>,
    key: IdempotencyKey,
    id: Result<Path<AggregateId>, PathRejection>,
    amount: Result<Json<Amount>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    let (Path(id), Json(Amount { cents })) = (id?, amount?);
    let once = accounts.once(of_client(&key)?, ("deposit", cents));
    let saved = once.upsert(&id, |account| account.deposit(cents)).await?;
    Ok(Json(Done { position: saved.position }))
}

/// Takes effect once, as a deposit.
async fn withdraw(
    State(accounts): State<AggregateRepository<Account>>,
    key: IdempotencyKey,
    id: Result<Path<AggregateId>, PathRejection>,
    amount: Result<Json<Amount>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    let (Path(id), Json(Amount { cents })) = (id?, amount?);
    let once = accounts.once(of_client(&key)?, ("withdraw", cents));
    let saved = once.update(&id, |account| account.withdraw(cents)).await?;
    Ok(Json(Done { position: saved.position }))
}

/// Keeps the keys of clients apart from those that tasks of the service use. If users must not see each other's answers,
/// add the user.
fn of_client(key: &IdempotencyKey) -> Result<IdempotencyKey, Problem> {
    Ok(format!("http:{key}").parse()?)
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
