//! The dashboard: pages for operators, rendered on the server (feature `dashboard`).
//!
//! [`dashboard`] returns the routes for an application, whose stores, buses and projections it shows; the command
//! `eventbus dashboard` serves them for any store and bus. The pages read with [`query`](crate::query), like the
//! commands.
//!
//! Invariant: a page reads a bounded number of rows and scans no table, but for the doctor's findings, which are from
//! the samples of the command, and for the list of handlers, which counts the rows of each. Changes are made by `POST` only, with the token and from a page of the same origin. No
//! page shows the password of a URL, or the payload of an event with
//! sealed fields. Nor does it show the value of a field that an application on the store declares as personal, that
//! [`DashboardConfig::hidden_fields`] names, or that [`shown_fields`](DashboardConfig::shown_fields), if set, does not
//! name.

mod access;
mod chart;
mod config;
mod guard;
mod inner;
mod pages;
mod parts;
mod rebuilds;
mod routes;
mod samples;
mod source;
mod visit;

use std::sync::Arc;

use axum::Router;
use eventbus::App;

pub use config::{DashboardConfig, DashboardToken};
pub(crate) use inner::DashboardInner;
pub(crate) use routes::routes;
pub(crate) use source::{DashboardSource, Examine};

use crate::connection::OpenBus;

/// Returns the pages that show an app: store and bus, streams, projections, groups, dead letters, relay, health. They
/// are read-only: [`dashboard_with`] allows changes.
///
/// Mount it behind your own authentication: it shows the payloads of events and the errors of handlers. With
/// `nest_service` the overview also answers at the path with a slash after it, which `nest` does not pass on. Like a route
/// for probes, it holds a clone of the app.
///
/// # Examples
/// ```
/// use axum::Router;
/// use eventbus::App;
///
/// fn router(app: &App) -> Router {
///     Router::new().nest_service("/operate", eventbus_cli::dashboard(app))
/// }
/// ```
pub fn dashboard<S: Clone + Send + Sync + 'static>(app: &App) -> Router<S> {
    dashboard_with(app, DashboardConfig::default())
}

/// Returns the pages that show an app, like [`dashboard`], with a configuration of who may change data, and which
/// fields are hidden.
///
/// # Examples
/// ```
/// use axum::Router;
/// use eventbus::App;
/// use eventbus_cli::dashboard::{DashboardConfig, DashboardToken, dashboard_with};
///
/// fn router(app: &App, token: DashboardToken) -> Router {
///     let config = DashboardConfig {
///         token: Some(token),
///         allow_changes: true, // replay and discard dead letters, rebuild projections
///         hidden_fields: vec!["email".into()],
///         ..DashboardConfig::default()
///     };
///     Router::new().nest_service("/operate", dashboard_with(app, config))
/// }
/// ```
pub fn dashboard_with<S: Clone + Send + Sync + 'static>(app: &App, config: DashboardConfig) -> Router<S> {
    let store = app.has_store().then(|| Arc::clone(app.store()));
    let bus = OpenBus::of_app(app.bus(), store.as_ref());
    let source = DashboardSource::new(store, bus);
    routes(DashboardInner::new(source.of_app(app.clone()), config))
}
