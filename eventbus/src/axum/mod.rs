//! For web services with axum 0.8 (feature `axum`): repositories as state, errors as problem details, probes, metrics.
//!
//! A router whose state is the [`App`] gives its handlers `State<App>` and `State<AggregateRepository<A>>`. A handler
//! that returns `Result<_, Problem>` writes `?` behind each call: a conflict becomes 409, a missing aggregate 404, a
//! store that is away 503 with `retry-after`, a save of unknown outcome 504, every other error 500 with a line in the log.
//!
//! # Examples
//! ```
//! use axum::extract::{Path, State, rejection::{JsonRejection, PathRejection}};
//! use axum::{Json, Router, http::StatusCode, routing::get};
//! use eventbus::{AggregateId, AggregateRepository, App, axum::{Problem, health_routes}};
//! # use eventbus::prelude::{Aggregate, Apply, Deserialize, DomainEvent, Serialize};
//! # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
//! # #[event(aggregate = Account)]
//! # struct Opened { owner: String }
//! # #[derive(Debug, Default, Aggregate)]
//! # #[aggregate(events(Opened))]
//! # struct Account { owner: String }
//! # impl Apply for Account {
//! #     fn apply(&mut self, AccountEvent::Opened(opened): &AccountEvent) { self.owner.clone_from(&opened.owner); }
//! # }
//!
//! #[derive(Debug)]
//! struct Taken;
//!
//! impl From<Taken> for Problem {
//!     fn from(_: Taken) -> Self { Self::new(StatusCode::CONFLICT, "the account has an owner already") }
//! }
//!
//! async fn open(
//!     State(accounts): State<AggregateRepository<Account>>,
//!     id: Result<Path<AggregateId>, PathRejection>,
//!     owner: Result<Json<String>, JsonRejection>,
//! ) -> Result<StatusCode, Problem> {
//!     let (Path(id), Json(owner)) = (id?, owner?); // 400, 413, 415 or 422
//!     let open = |account: &Account| match account.owner.as_str() {
//!         "" => Ok(Opened { owner: owner.clone() }),
//!         _ => Err(Taken),
//!     };
//!     accounts.upsert(&id, open).await?; // 409 if it is taken, 503 while the store is away
//!     Ok(StatusCode::CREATED)
//! }
//!
//! async fn owner(
//!     State(accounts): State<AggregateRepository<Account>>,
//!     id: Result<Path<AggregateId>, PathRejection>,
//! ) -> Result<Json<String>, Problem> {
//!     let Path(id) = id?;
//!     Ok(Json(accounts.load(&id).await?.owner.clone())) // 404 if there is none
//! }
//!
//! fn router(app: App) -> Router {
//!     let accounts = Router::new().route("/accounts/{id}", get(owner).post(open));
//!     accounts.merge(health_routes([app.clone()])).with_state(app)
//! }
//! ```
//!
//! A refusal that a different crate declares needs a wrapper type for its `From`: see [`Problem`].
//!
//! Two types are called `State`: axum's, in handlers of requests, and the one of `eventbus::prelude`, in handlers of
//! events. A file with both kinds imports axum's under a new name: `use axum::extract::State as Shared;`.
//!
//! A signal ends requests first, then the app that answers them:
//! ```no_run
//! # use std::time::Duration;
//! # use eventbus::{App, shutdown_signal};
//! # fn router(app: App) -> axum::Router { axum::Router::new().with_state(app) }
//! #[tokio::main]
//! async fn main() -> eventbus::Result<()> {
//!     let app = App::builder().discover().start().await?;
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//!     let stop = shutdown_signal()?; // SIGTERM or Ctrl-C
//!     axum::serve(listener, router(app.clone())).with_graceful_shutdown(stop).await?;
//!     if let Err(error) = app.shutdown(Duration::from_secs(30)).await {
//!         eprintln!("{error}");
//!         std::process::exit(70); // returning would wait forever for a handler that blocks its thread
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Invariant: no other module of this crate depends on this one, and no response holds error texts that are for the
//! log.

mod context;
mod health;
mod idempotency;
mod metrics;
mod problem;

use ::axum::extract::FromRef;
pub use context::{ContextLayer, WithContext, context};
pub use health::{health_routes, status_routes};
pub use metrics::metrics_route;
pub use problem::{Mistake, Problem};

use crate::{
    domain::aggregate::{Aggregate, Apply},
    runtime::{app::App, repository::AggregateRepository},
};

impl<A: Aggregate + Apply> FromRef<App> for AggregateRepository<A> {
    fn from_ref(app: &App) -> Self {
        app.repository()
    }
}
