//! The routes of the dashboard. All lie in one folder, so that links are relative.

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, Query, rejection::QueryRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{CONTENT_TYPE, SET_COOKIE},
    },
    middleware,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use eventbus::Name;
use serde::Deserialize;

use super::{
    access::Access,
    guard::guard,
    inner::DashboardInner,
    pages::{
        DeadLetterChoice, DeadLetterForm, DeadLetterSearch, StreamChoice, StreamSearch, dead_letter, dead_letters,
        end_dead_letters, examine, groups, health, login, overview, projections, relay, stream, streams,
    },
    visit::Visit,
};
use crate::{dead_letter_action::DeadLetterAction, error::CommandError};

/// The most bytes of a form.
const FORM_MAX: usize = 64 * 1024;

/// Returns the routes of a dashboard.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(inner: Arc<DashboardInner>) -> Router<S> {
    inner.start_samples();
    let guarded = middleware::from_fn_with_state(Arc::clone(&inner), guard);
    Router::new()
        .route("/", get(async |visit: Visit| visit.show("Overview", overview(&visit).await)))
        .route("/streams", get(show_streams))
        .route("/stream", get(show_stream))
        .route("/projections", get(async |visit: Visit| visit.show("Projections", projections(&visit).await)))
        .route("/rebuild", post(begin_rebuild))
        .route("/groups", get(async |visit: Visit| visit.show("Groups", groups(&visit).await)))
        .route("/pause", post(async |visit: Visit, form: Form<Pausing>| set_paused(visit, form, true).await))
        .route("/resume", post(async |visit: Visit, form: Form<Pausing>| set_paused(visit, form, false).await))
        .route("/dead-letters", get(show_dead_letters))
        .route("/dead-letter", get(show_dead_letter))
        .route(
            "/replay",
            post(async |visit: Visit, form: Form<DeadLetterForm>| end(visit, form, DeadLetterAction::Replay).await),
        )
        .route(
            "/discard",
            post(async |visit: Visit, form: Form<DeadLetterForm>| end(visit, form, DeadLetterAction::Discard).await),
        )
        .route("/relay", get(async |visit: Visit| visit.show("Relay", relay(&visit).await)))
        .route("/health", get(async |visit: Visit| visit.show("Health", health(&visit).await)))
        .route("/examine", post(async |visit: Visit| visit.show("Health", examine(&visit).await)))
        .route("/login", get(async |visit: Visit| visit.show("Log in", Ok(login(&visit, false)))).post(log_in))
        .route("/logout", post(log_out))
        .route("/dashboard.css", get(async || asset("text/css; charset=utf-8", include_str!("assets/dashboard.css"))))
        .route(
            "/dashboard.js",
            get(async || asset("text/javascript; charset=utf-8", include_str!("assets/dashboard.js"))),
        )
        .route("/dashboard.svg", get(async || asset("image/svg+xml", include_str!("assets/dashboard.svg"))))
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such page\n"))
        .layer(DefaultBodyLimit::max(FORM_MAX))
        .layer(guarded)
        .with_state(inner)
}

#[derive(Debug, Deserialize)]
struct Rebuilding {
    projection: String,
}

/// The group of handlers that an operator pauses or resumes.
#[derive(Debug, Deserialize)]
struct Pausing {
    group: String,
}

#[derive(derive_more::Debug, Deserialize)]
struct Login {
    #[debug(skip)]
    token: String,
}

type Parameters<T> = Result<Query<T>, QueryRejection>;

fn asset(content_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, content_type)], text).into_response()
}

/// Shows the page for the parameters of a link, or the page that reports their mistake.
async fn show_for<T>(visit: &Visit, given: Parameters<T>, show: impl AsyncFnOnce(T) -> Response) -> Response {
    match given {
        Ok(Query(parameters)) => show(parameters).await,
        Err(rejection) => {
            let text = maud::html! { p { (rejection.body_text()) } };
            visit.show_with(StatusCode::BAD_REQUEST, "Not understood", &text)
        }
    }
}

async fn show_streams(visit: Visit, given: Parameters<StreamSearch>) -> Response {
    show_for(&visit, given, async |search| visit.show("Streams", streams(&visit, &search).await)).await
}

async fn show_stream(visit: Visit, given: Parameters<StreamChoice>) -> Response {
    let show = async |choice: StreamChoice| {
        visit.show(&format!("Stream {}/{}", choice.r#type, choice.id), stream(&visit, &choice).await)
    };
    show_for(&visit, given, show).await
}

async fn set_paused(visit: Visit, Form(form): Form<Pausing>, is_paused: bool) -> Response {
    if let Some(refused) = visit.refuse_change() {
        return refused;
    }
    let group = Name::new("group", &form.group).map_err(|error| CommandError::Usage(error.to_string()));
    let set = async { visit.inner().source().set_paused(&group?, is_paused).await };
    match set.await {
        Ok(()) => visit.lead_to("groups", &[]),
        Err(error) => visit.show("Groups", Err(error)),
    }
}

async fn show_dead_letters(visit: Visit, given: Parameters<DeadLetterSearch>) -> Response {
    show_for(&visit, given, async |search| visit.show("Dead letters", dead_letters(&visit, &search).await)).await
}

async fn show_dead_letter(visit: Visit, given: Parameters<DeadLetterChoice>) -> Response {
    let show = async |choice| match dead_letter(&visit, &choice).await.transpose() {
        Some(content) => visit.show("Dead letter", content),
        None => visit.show_missing("This dead letter is gone: it was replayed or discarded."),
    };
    show_for(&visit, given, show).await
}

async fn end(visit: Visit, Form(form): Form<DeadLetterForm>, action: DeadLetterAction) -> Response {
    if let Some(refused) = visit.refuse_change() {
        return refused;
    }
    end_dead_letters(&visit, &form, action).await
}

async fn begin_rebuild(visit: Visit, Form(Rebuilding { projection }): Form<Rebuilding>) -> Response {
    if let Some(refused) = visit.refuse_change() {
        return refused;
    }
    let inner = visit.inner();
    match inner.source().app().map(|app| inner.rebuilds().begin(app, &projection)) {
        Some(true) => visit.lead_to("projections", &[]),
        Some(false) => visit.show_missing("The app has no such projection."),
        None => visit.show_missing("Only the application can rebuild: it has the code of the projection."),
    }
}

async fn log_in(visit: Visit, headers: HeaderMap, uri: Uri, Form(Login { token }): Form<Login>) -> Response {
    if !visit.inner().access().accepts(&token) {
        return visit.show_with(StatusCode::FORBIDDEN, "Log in", &login(&visit, true));
    }
    with_cookie(visit.lead_to("", &[]), Access::cookie(&headers, &uri, Some(&token)))
}

async fn log_out(visit: Visit, headers: HeaderMap, uri: Uri) -> Response {
    with_cookie(visit.lead_to("login", &[]), Access::cookie(&headers, &uri, None))
}

fn with_cookie(mut response: Response, cookie: Option<HeaderValue>) -> Response {
    if let Some(cookie) = cookie {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
