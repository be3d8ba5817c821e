//! The rules for every request and every answer: names of the server, same origin, login, headers.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{access::is_same_origin, inner::DashboardInner, visit::base_of};

/// The paths that need no login.
const OPEN_PATHS: [&str; 4] = ["/login", "/dashboard.css", "/dashboard.js", "/dashboard.svg"];

/// Scripts, styles and pictures may come only from this server, and no page of another site may embed these pages.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_FRAME_OPTIONS, "DENY"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // `no-referrer` would hide the origin of our own forms too
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // pages hold payloads: no cache keeps them
    (CACHE_CONTROL, "no-store"),
];

/// Passes a request on if the rules allow it, and adds the headers of every answer.
pub(super) async fn guard(State(inner): State<Arc<DashboardInner>>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&inner, &request) {
        Some(refused) => refused,
        None => next.run(request).await,
    };
    add_headers(response.headers_mut());
    response
}

fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Returns the answer to a request that the rules refuse.
fn refusal(inner: &DashboardInner, request: &Request) -> Option<Response> {
    let (access, headers, uri) = (inner.access(), request.headers(), request.uri());
    if !access.allows_host(headers, uri) {
        let text =
            "the dashboard is not known by this name: pass `--host NAME`, or add it to `DashboardConfig::hosts`\n";
        return Some((StatusCode::MISDIRECTED_REQUEST, text).into_response());
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && !is_same_origin(headers, uri) {
        return Some((StatusCode::FORBIDDEN, "the request comes from a different page\n").into_response());
    }
    if !access.may_read(headers, uri) && !OPEN_PATHS.contains(&uri.path()) {
        return Some(match reads {
            true => {
                let login = format!("{}login", base_of(uri, request.extensions()));
                (StatusCode::SEE_OTHER, [(LOCATION, login)]).into_response()
            }
            false => (StatusCode::FORBIDDEN, "not logged in\n").into_response(),
        });
    }
    None
}
