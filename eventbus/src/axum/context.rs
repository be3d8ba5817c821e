//! The context of a request: what its handler saves continues the caller's conversation.

use std::{
    convert::Infallible,
    fmt,
    task::{Context, Poll},
};

use ::axum::{
    extract::{FromRef, FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, request::Parts},
    response::Response,
};
use tower_layer::Layer;
use tower_service::Service;
use uuid::Uuid;

use crate::{
    domain::{
        aggregate::{Aggregate, Apply},
        clock::SharedClock,
        context::EventContext,
        trace_context::TraceContext,
    },
    port::BoxFuture,
    runtime::{
        app::App,
        repository::{AggregateRepository, Repository},
    },
};

/// The header with the id of the conversation, in requests and responses.
const CORRELATION_ID: &str = "x-correlation-id";

/// The namespace of the UUIDs that stand for other texts in `x-correlation-id`.
const CORRELATION_NAMESPACE: Uuid = Uuid::from_u128(0x8a1f_4be5_7c0d_5d0e_9b57_3f0a_62c4_19e7);

/// A layer that runs each request in a context: the trace of the request's headers `traceparent` and `tracestate`, the
/// conversation of its header `x-correlation-id`, and what `fill` returns, such as the logged-in actor and the tenant.
/// What `fill` returns has precedence. A layer within a layer starts from the context of the outer one.
///
/// All that the request saves is stamped with the context, by the extractor [`Repository<A>`](crate::Repository) and by
/// any repository in the task of the request. The response has the id of the conversation in its header
/// `x-correlation-id`: the id of the request if that is a UUID; for a different text, a UUID that is the same for the
/// same text; without a text, a new UUID. Of several layers the innermost one sets the header, and none replaces one that
/// the handler has set. A `traceparent` that is invalid by the [specification] is ignored.
///
/// [specification]: https://www.w3.org/TR/trace-context/#traceparent-header
///
/// # Examples
/// ```
/// use axum::{Json, Router, extract::Path, http::request::Parts, routing::post};
/// use eventbus::{Never, axum::{Problem, context}, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Account)]
/// # struct Opened {}
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Opened))]
/// # struct Account;
/// # impl Apply for Account { fn apply(&mut self, _: &AccountEvent) {} }
/// async fn open(accounts: Repository<Account>, Path(id): Path<AggregateId>) -> Result<(), Problem> {
///     accounts.upsert(&id, |_| Ok::<_, Never>(Opened {})).await?; // of the user's conversation, by the user
///     Ok(())
/// }
///
/// fn router(app: App) -> Router {
///     let user = |parts: &Parts| {
///         let user = parts.headers.get("x-user").and_then(|user| user.to_str().ok()); // as the proxy sets it
///         user.map_or_else(EventContext::default, |user| EventContext::default().with_actor(user))
///     };
///     Router::new().route("/accounts/{id}", post(open)).layer(context(user)).with_state(app)
/// }
/// # use eventbus::EventContext;
/// ```
pub fn context<F>(fill: F) -> ContextLayer<F>
where
    F: Fn(&Parts) -> EventContext + Clone + Send + Sync + 'static,
{
    ContextLayer { fill }
}

/// The layer that [`context`] returns.
#[derive(Clone)]
#[must_use]
pub struct ContextLayer<F> {
    fill: F,
}

impl<F> fmt::Debug for ContextLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextLayer").finish_non_exhaustive()
    }
}

impl<S, F: Clone> Layer<S> for ContextLayer<F> {
    type Service = WithContext<S, F>;

    fn layer(&self, inner: S) -> WithContext<S, F> {
        WithContext { inner, fill: self.fill.clone() }
    }
}

/// A service behind a [`ContextLayer`].
#[derive(Clone)]
pub struct WithContext<S, F> {
    inner: S,
    fill: F,
}

impl<S, F> fmt::Debug for WithContext<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithContext").finish_non_exhaustive()
    }
}

impl<S, F> Service<Request> for WithContext<S, F>
where
    S: Service<Request, Response = Response>,
    S::Future: Send + 'static,
    S::Error: 'static,
    F: Fn(&Parts) -> EventContext,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        // of a layer around this one
        let outer = parts.extensions.get::<EventContext>().cloned().unwrap_or_default();
        let mut context = (self.fill)(&parts).or(outer).or(context_of(&parts.headers));
        let correlation = *context.correlation_id.get_or_insert_with(|| SharedClock::SYSTEM.new_id());
        parts.extensions.insert(context.clone());
        let response = context.scope(self.inner.call(Request::from_parts(parts, body)));
        Box::pin(async move {
            let mut response = response.await?;
            if let Ok(id) = HeaderValue::try_from(correlation.to_string()) {
                // an inner layer names the conversation of the events
                response.headers_mut().entry(CORRELATION_ID).or_insert(id);
            }
            Ok(response)
        })
    }
}

/// Returns the context that the headers of a request name.
fn context_of(headers: &HeaderMap) -> EventContext {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::trim);
    let correlation = text(CORRELATION_ID).filter(|text| !text.is_empty());
    let correlation_id = correlation
        .map(|text| Uuid::try_parse(text).unwrap_or_else(|_| Uuid::new_v5(&CORRELATION_NAMESPACE, text.as_bytes())));
    let context = EventContext { correlation_id, ..EventContext::default() };
    // several headers of this name are one list
    let states = headers.get_all("tracestate").iter().filter_map(|state| state.to_str().ok());
    let states = states.filter(|state| !state.is_empty()).collect::<Vec<_>>().join(",");
    match text("traceparent").and_then(|parent| TraceContext::parse(parent, Some(&states))) {
        Some(trace) => context.with_trace(trace.parent(), trace.state()),
        None => context,
    }
}

/// The repository of a request: its saves have the context that the layer [`context`] gave the request, and its
/// aggregates belong to the context's tenant.
impl<A: Aggregate + Apply, S: Send + Sync> FromRequestParts<S> for Repository<A>
where
    App: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let context = parts.extensions.get().cloned().unwrap_or_else(EventContext::current);
        let repository: AggregateRepository<A> = App::from_ref(state).repository();
        Ok(repository.for_tenant(context.tenant_id).with_context(context).into())
    }
}
