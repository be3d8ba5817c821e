//! Who may read a dashboard and change data through it.

use std::net::IpAddr;

use axum::http::{
    HeaderMap, HeaderValue, Uri,
    header::{COOKIE, HOST, ORIGIN},
    uri::Authority,
};

use super::config::DashboardConfig;

/// The prefix of the name of the cookie that holds the token.
const TOKEN_COOKIE: &str = "eventbus_dashboard";

/// Who may read a dashboard and change data through it.
#[derive(Debug)]
pub(super) struct Access {
    config: DashboardConfig,
}

impl Access {
    pub(super) const fn new(config: DashboardConfig) -> Self {
        Self { config }
    }

    /// Returns `true` if there is a token to log in with.
    pub(super) const fn has_login(&self) -> bool {
        self.config.token.is_some()
    }

    /// Returns `true` if operators who have logged in may change data.
    pub(super) const fn allows_changes(&self) -> bool {
        self.config.allow_changes && self.has_login()
    }

    /// Returns `true` if `given` is the token.
    pub(super) fn accepts(&self, given: &str) -> bool {
        self.config.token.as_ref().is_some_and(|token| token.matches(given.trim()))
    }

    /// Returns `true` if a request has the token.
    pub(super) fn is_logged_in(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let cookie = cookie_name(headers, uri);
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == cookie && self.accepts(value))
    }

    /// Returns `true` if a request may read the pages.
    pub(super) fn may_read(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        !self.config.login_to_read || self.is_logged_in(headers, uri)
    }

    /// Returns `true` if a request may change data.
    pub(super) fn may_change(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        self.allows_changes() && self.is_logged_in(headers, uri)
    }

    /// Returns `true` if the browser reached the server by a name that is allowed.
    pub(super) fn allows_host(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let Some(allowed) = &self.config.hosts else { return true };
        let Some(authority) = authority_of(headers, uri) else { return false };
        let host = authority.host();
        let is_address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        is_address
            || host.eq_ignore_ascii_case("localhost")
            || allowed.iter().any(|name| host.eq_ignore_ascii_case(name))
    }

    /// Returns the value of the header that logs a browser in until the browser ends; without a token, the header logs
    /// it out.
    ///
    /// The cookie has no path, so it is for the folder of the login page, wherever the dashboard is mounted. A browser
    /// that came by HTTPS sends it only by HTTPS.
    pub(super) fn cookie(headers: &HeaderMap, uri: &Uri, token: Option<&str>) -> Option<HeaderValue> {
        let (value, end) = match token {
            Some(token) => (token.trim(), ""),
            None => ("", "; Max-Age=0"),
        };
        let name = cookie_name(headers, uri);
        let is_encrypted = headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
        let secure = if is_encrypted { "; Secure" } else { "" };
        HeaderValue::from_str(&format!("{name}={value}; HttpOnly; SameSite=Strict{secure}{end}")).ok()
    }
}

/// Returns the name of the cookie: a browser sends the cookies of a machine to all its ports, each of which may serve a
/// dashboard with a token of its own.
fn cookie_name(headers: &HeaderMap, uri: &Uri) -> String {
    match authority_of(headers, uri).and_then(|authority| authority.port_u16()) {
        Some(port) => format!("{TOKEN_COOKIE}_{port}"),
        None => TOKEN_COOKIE.to_owned(),
    }
}

/// Returns the name and port by which a browser has reached the server.
fn authority_of(headers: &HeaderMap, uri: &Uri) -> Option<Authority> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
    // HTTP/2 has it in the address of the request
    host.or_else(|| uri.authority().cloned())
}

/// Returns `true` if a browser sent a request from a page of this server: a page of a different site can send forms
/// too.
///
/// A request without any sign of its origin is refused.
pub(super) fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    let origin =
        origin.and_then(|origin| origin.split_once("://")).and_then(|(_, host)| host.parse::<Authority>().ok());
    origin.is_some() && origin == authority_of(headers, uri)
}
