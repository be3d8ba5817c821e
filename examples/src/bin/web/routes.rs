//! The routes of the service, and their answers.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, Path, Query, Request, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderName, StatusCode, header},
    middleware::{self, Next},
    routing::{get, post},
};
use eventbus::{
    AggregateId, AggregateRepository, App, Position,
    axum::{Mistake, Problem, health_routes},
    repository::IdempotencyKey,
};
use futures_util::TryFutureExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use crate::{analytics::Analytics, registration, user::User};

/// The largest body of a request, in bytes.
const LARGEST_BODY: usize = 16 * 1024;

/// Returns the service; `limit` is the time limit from the head of a request to its answer.
pub fn router(app: &App, limit: Duration) -> Router {
    Router::new()
        .route("/users", post(create_user))
        .route("/users/{id}", get(show_user))
        .route("/analytics", get(show_analytics))
        .merge(health_routes([app.clone()]))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such page"))
        .method_not_allowed_fallback(async || Problem::new(StatusCode::METHOD_NOT_ALLOWED, "see the header `allow`"))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let is_read = request.method().is_safe();
            // a change may have taken effect, or do so yet
            timeout(limit, next.run(request))
                .map_err(move |late| if is_read { Problem::unavailable(late) } else { Problem::outcome_unknown(late) })
        }))
        .with_state(app.clone())
}

/// A user as the API shows one; the same again if a client repeats the request under its `Idempotency-Key`.
#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    name: String,
    email: String,
    /// The position of the registration: a request for analytics with it waits until they include it.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
}

type Created = (StatusCode, [(HeaderName, String); 1], Json<Shown>);

async fn create_user(
    State(users): State<AggregateRepository<User>>,
    key: Option<IdempotencyKey>,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Created, Problem> {
    let Json(body) = body?;
    let registration = registration::check(&body).map_err(unprocessable)?;
    let (new_id, name, email) = (AggregateId::new(), registration.name.clone(), registration.email.clone());
    let saved = match key {
        Some(key) => users.once(key, registration).create_with(&new_id, User::register).await,
        None => users.create_with(&new_id, registration, User::register).await,
    };
    let saved = match saved {
        Err(error) if error.is_taken("email") => {
            let detail = "a user with this email address is registered already";
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        saved => saved?,
    };
    // that of the first request, if this one repeats it
    let id = saved.events.first().map_or(&new_id, |event| event.metadata().aggregate_id());
    let location = [(header::LOCATION, format!("/users/{id}"))];
    let user = Shown { id: id.to_string(), name, email, position: saved.position };
    Ok((StatusCode::CREATED, location, Json(user)))
}

fn unprocessable(mistakes: Vec<Mistake>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the request has mistakes").with_mistakes(mistakes)
}

/// Reads from the store itself, so a user is visible at once.
async fn show_user(
    State(users): State<AggregateRepository<User>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Shown>, Problem> {
    let Path(id) = id?;
    let nobody = || Problem::new(StatusCode::NOT_FOUND, "there is no such user");
    let id = id.parse().map_err(|_| nobody())?;
    let user = users.find(&id).await?.ok_or_else(nobody)?;
    Ok(Json(Shown { id: id.to_string(), name: user.name.clone(), email: user.email.clone(), position: None }))
}

#[derive(Debug, Deserialize)]
struct Reading {
    /// The position that the answer must include.
    position: Option<Position>,
}

async fn show_analytics(
    State(app): State<App>,
    reading: Result<Query<Reading>, QueryRejection>,
) -> Result<Json<Analytics>, Problem> {
    let Query(reading) = reading?;
    let analytics = app.projected::<Analytics>(reading.position).await?;
    Ok(Json(analytics.clone()))
}
