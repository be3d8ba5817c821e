//! One request to a page, and the frame of its answer.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{FromRequestParts, OriginalUri},
    http::{Extensions, StatusCode, Uri, header::LOCATION, request::Parts},
    response::{Html, IntoResponse as _, Response},
};
use maud::{DOCTYPE, Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{inner::DashboardInner, parts::time};
use crate::error::{CommandError, ExitStatus};

/// The pages of the navigation: path and title.
const TABS: [(&str, &str); 7] = [
    ("", "Overview"),
    ("streams", "Streams"),
    ("projections", "Projections"),
    ("groups", "Groups"),
    ("dead-letters", "Dead letters"),
    ("relay", "Relay"),
    ("health", "Health"),
];

/// One request to a page.
pub(super) struct Visit {
    inner: Arc<DashboardInner>,
    /// The text before the path of a link: all links are relative, so that the pages may lie at any path.
    base: String,
    /// The link to the overview.
    home: String,
    /// The path of the page's tab.
    tab: String,
    is_logged_in: bool,
    may_change: bool,
}

/// Returns the text before the path of a link on a page: pages lie in one folder, but the first may lie at the name of
/// the folder.
pub(super) fn base_of(uri: &Uri, extensions: &Extensions) -> String {
    let original = extensions.get::<OriginalUri>().map_or(uri, |original| &original.0);
    match original.path().rsplit_once('/') {
        Some((_, last)) if uri.path() == "/" && !last.is_empty() => format!("./{last}/"),
        _ => "./".into(),
    }
}

/// Returns the link to the overview, which lies at the name of the folder of the pages, without a slash after it.
fn home_of(uri: &Uri, extensions: &Extensions) -> String {
    let original = extensions.get::<OriginalUri>().map_or(uri, |original| &original.0);
    let is_overview = uri.path() == "/";
    let mut segments = original.path().rsplit('/').skip(usize::from(!is_overview));
    match segments.next() {
        Some(folder) if !folder.is_empty() => format!("{}{folder}", if is_overview { "./" } else { "../" }),
        _ => "./".into(),
    }
}

impl FromRequestParts<Arc<DashboardInner>> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, inner: &Arc<DashboardInner>) -> Result<Self, Infallible> {
        inner.start_samples();
        Ok(Self {
            base: base_of(&parts.uri, &parts.extensions),
            home: home_of(&parts.uri, &parts.extensions),
            tab: parts.uri.path().trim_start_matches('/').to_owned(),
            is_logged_in: inner.access().is_logged_in(&parts.headers, &parts.uri),
            may_change: inner.access().may_change(&parts.headers, &parts.uri),
            inner: Arc::clone(inner),
        })
    }
}

impl Visit {
    pub(super) fn inner(&self) -> &DashboardInner {
        &self.inner
    }

    /// Returns `true` if the page shows forms that change data.
    pub(super) const fn may_change(&self) -> bool {
        self.may_change
    }

    /// Returns a link to a page, with parameters that are not empty.
    pub(super) fn link(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        let mut link = if path.is_empty() { self.home.clone() } else { format!("{}{path}", self.base) };
        for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
            link.push(if link.contains('?') { '&' } else { '?' });
            link.push_str(&format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
        link
    }

    /// Returns the answer that redirects the browser to a page.
    pub(super) fn lead_to(&self, path: &str, parameters: &[(&str, &str)]) -> Response {
        (StatusCode::SEE_OTHER, [(LOCATION, self.link(path, parameters))]).into_response()
    }

    /// Returns the refusal of a change, unless the operator may make it.
    pub(super) fn refuse_change(&self) -> Option<Response> {
        let text = match self.inner.access().allows_changes() {
            _ if self.may_change => return None,
            true => "Log in first: changes need the token.",
            false => "This dashboard is read-only.",
        };
        Some(self.show_with(StatusCode::FORBIDDEN, "Refused", &html! { p { (text) } }))
    }

    /// Returns a page with its title and content, or the error that it met.
    pub(super) fn show(&self, title: &str, content: Result<Markup, CommandError>) -> Response {
        match content {
            Ok(content) => self.show_with(StatusCode::OK, title, &content),
            Err(error) => {
                let status = match error.status() {
                    ExitStatus::Usage => StatusCode::BAD_REQUEST,
                    ExitStatus::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                let text = error.to_line();
                self.show_with(status, title, &html! { p.problem role="alert" { (text) } })
            }
        }
    }

    /// Returns the answer for an item that does not exist.
    pub(super) fn show_missing(&self, text: &str) -> Response {
        self.show_with(StatusCode::NOT_FOUND, "Not found", &html! { p { (text) } })
    }

    pub(super) fn show_with(&self, status: StatusCode, title: &str, content: &Markup) -> Response {
        let access = self.inner.access();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " – eventbus" }
                    link rel="icon" type="image/svg+xml" href=(self.link("dashboard.svg", &[]));
                    link rel="stylesheet" href=(self.link("dashboard.css", &[]));
                    script src=(self.link("dashboard.js", &[])) defer {}
                }
                body {
                    a.skip href="#content" { "Skip to the content" }
                    header {
                        nav aria-label="Pages" {
                            ul {
                                @for (path, name) in TABS {
                                    li { a href=(self.link(path, &[])) aria-current=[self.is_tab(path).then_some("page")] { (name) } }
                                }
                            }
                        }
                    }
                    main #content tabindex="-1" {
                        h1 { (title) }
                        p #stale .problem role="status" hidden { "The server does not answer: this page is not up to date." }
                        (content)
                    }
                    footer {
                        p { "As of " (time(Some(self.inner.source().clock().now()))) }
                        @if self.is_logged_in {
                            form method="post" action=(self.link("logout", &[])) { button { "Log out" } }
                        } @else if access.has_login() {
                            p { a href=(self.link("login", &[])) { "Log in" } @if access.allows_changes() { " to make changes" } }
                        } @else {
                            p { "Read-only" }
                        }
                    }
                }
            }
        };
        (status, Html(page.into_string())).into_response()
    }

    /// Returns `true` if the page is the one of a tab, or about one of its items.
    fn is_tab(&self, path: &str) -> bool {
        let tab = match self.tab.as_str() {
            "stream" => "streams",
            "group" | "pause" | "resume" => "groups",
            "dead-letter" | "replay" | "discard" => "dead-letters",
            "rebuild" => "projections",
            "examine" => "health",
            tab => tab,
        };
        tab == path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative_to_the_folder_of_the_pages() {
        for (original, inner, base, home) in [
            ("/", "/", "./", "./"),
            ("/streams", "/streams", "./", "./"),
            ("/operate", "/", "./operate/", "./operate"),
            ("/a/operate/", "/", "./", "./"),
            ("/operate/streams?type=Order", "/streams?type=Order", "./", "../operate"),
            ("/a/operate/login", "/login", "./", "../operate"),
        ] {
            let mut extensions = Extensions::new();
            extensions.insert(OriginalUri(Uri::from_static(original)));
            let inner = Uri::from_static(inner);
            assert_eq!((&*base_of(&inner, &extensions), &*home_of(&inner, &extensions)), (base, home), "{original}");
        }
    }
}
