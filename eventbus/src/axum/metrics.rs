//! The route for Prometheus.

use ::axum::{Router, http::header, routing::get};

use crate::runtime::app::App;

/// The content type of the text format of Prometheus.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A route for Prometheus: `GET /metrics` answers with the [metrics](crate::metrics) of the app in the text format.
///
/// The page holds names of handlers, groups, projections and aggregates, and no ids, events or error texts. Each request
/// polls store and bus: serve it to your Prometheus only. A process with several apps mounts each below a path of its
/// own, with [`Router::nest`]; also apps that share a bus, as each page counts a part of its deliveries.
///
/// # Examples
/// ```
/// use axum::Router;
/// use eventbus::{App, axum::metrics_route};
///
/// fn router(app: &App) -> Router {
///     Router::new().merge(metrics_route(app))
/// }
/// ```
pub fn metrics_route<S: Clone + Send + Sync + 'static>(app: &App) -> Router<S> {
    let app = app.clone();
    let page = async move || ([(header::CONTENT_TYPE, CONTENT_TYPE)], app.metrics().await.to_prometheus_text());
    Router::new().route("/metrics", get(page))
}
