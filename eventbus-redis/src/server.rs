//! The settings for reaching a server, which the configurations of the bus and of the store have in common.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use eventbus::port::{is_this_machine, redacted};
use redis::{Client, IntoConnectionInfo};

use crate::{ConfigMistake, tls};

/// The problem of a URL that does not parse. It does not show the URL, which may hold a password anywhere.
const INVALID_URL_PROBLEM: &str =
    "is no Redis URL (redis://[user:password@]host[:port][/database], the password percent-encoded)";
const TCP_PARAMETERS: [&str; 1] = ["protocol"];
const SOCKET_PARAMETERS: [&str; 4] = ["db", "user", "pass", "protocol"];

/// The settings for reaching a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server<'c> {
    pub(crate) url: &'c str,
    pub(crate) tls_ca_file: Option<&'c Path>,
    /// The certificate that the client shows to a server that asks for one.
    pub(crate) tls_cert_file: Option<&'c Path>,
    pub(crate) tls_key_file: Option<&'c Path>,
    /// The reply timeout.
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// The configuration field that holds the prefix of all keys, and its value.
    pub(crate) prefix: (&'static str, &'c str),
}

impl Server<'_> {
    /// Returns the address without the password, for messages.
    pub(crate) fn address(&self) -> String {
        let shown = redacted(self.url);
        // a user without a password is hidden too: mostly it is a password that lacks its colon
        let Some(((scheme, user), host)) =
            shown.split_once('@').and_then(|(user, host)| Some((user.split_once("://")?, host)))
        else {
            return shown;
        };
        let before_password = format!("://{user}:");
        let password = self.url.split_once(&before_password).map(|(_, rest)| rest);
        if password.is_some_and(|rest| !rest.starts_with('@')) { shown } else { format!("{scheme}://{host}") }
    }

    /// Prepares a client; sends no command.
    pub(crate) fn client(&self) -> Result<Client, ConfigMistake> {
        if asks_for_tls(self.url) {
            return tls::client(self);
        }
        Client::open(self.url).map_err(|_| ConfigMistake::new("redis_url", "is no Redis URL"))
    }

    /// Returns the problem of `tls_ca_file` beside the other settings, without reading the file.
    pub(crate) fn ca_problem(&self) -> Option<String> {
        self.without_tls(self.tls_ca_file)
    }

    /// Returns the problem of `tls_cert_file` beside the other settings, without reading the file.
    pub(crate) fn certificate_problem(&self) -> Option<String> {
        let lacks_key = self.tls_cert_file.is_some() && self.tls_key_file.is_none();
        self.without_tls(self.tls_cert_file).or_else(|| lacks_key.then(|| "is set without `tls_key_file`".into()))
    }

    /// Returns the problem of `tls_key_file` beside the other settings, without reading the file.
    pub(crate) fn key_problem(&self) -> Option<String> {
        let lacks_certificate = self.tls_key_file.is_some() && self.tls_cert_file.is_none();
        self.without_tls(self.tls_key_file)
            .or_else(|| lacks_certificate.then(|| "is set without `tls_cert_file`".into()))
    }

    fn without_tls(&self, file: Option<&Path>) -> Option<String> {
        let without_tls = file.is_some() && !asks_for_tls(self.url);
        without_tls.then(|| "is set, but `redis_url` is not `rediss://…`".to_owned())
    }

    /// Warns, once for each server, if machines on the way can read what the client sends.
    pub(crate) fn warn_plaintext(&self) {
        static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        if is_plaintext_remote(self.url) {
            let address = self.address();
            // a panic elsewhere leaves the set valid
            if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(address.clone()) {
                tracing::warn!(
                    server = address,
                    "the connection to Redis has no TLS: every machine on the way can read events and passwords; to repair: \
                     `rediss://`, and the cargo feature `tls` of eventbus-redis"
                );
            }
        }
    }
}

/// Returns the problem of a URL.
pub(crate) fn url_problem(url: &str, has_tls: bool) -> Option<String> {
    let Some(parsed) = redis::parse_redis_url(url) else {
        return Some(INVALID_URL_PROBLEM.into());
    };
    if asks_for_tls(url) && !has_tls {
        return Some("asks for TLS, which needs the cargo feature `tls` of eventbus-redis".into());
    }
    if asks_for_tls(url) && parsed.fragment() == Some("insecure") {
        return Some("asks for TLS with anybody (`#insecure`); name whom to trust in `tls_ca_file` instead".into());
    }
    if !parsed.username().is_empty() && parsed.password().is_none_or(str::is_empty) {
        return Some("names a user without a password, who would be ignored".into());
    }
    let parameters = if parsed.has_host() { &TCP_PARAMETERS[..] } else { &SOCKET_PARAMETERS };
    let unknown = parsed.query_pairs().any(|(name, _)| !parameters.contains(&&*name));
    if parsed.into_connection_info().is_err() {
        return Some(INVALID_URL_PROBLEM.into());
    }
    // the parameters are not shown: an unknown one may be a part of a password
    unknown.then(|| format!("has other parameters than `{}`", parameters.join("`, `")))
}

/// Returns `true` if a URL names a remote machine, without TLS.
fn is_plaintext_remote(url: &str) -> bool {
    let parsed = redis::parse_redis_url(url);
    parsed.is_some_and(|url| url.host_str().is_some_and(|host| !host.is_empty() && !is_this_machine(host)))
        && !asks_for_tls(url)
}

/// Returns `true` if a URL asks for TLS.
pub(crate) fn asks_for_tls(url: &str) -> bool {
    redis::parse_redis_url(url).is_some_and(|url| matches!(url.scheme(), "rediss" | "valkeys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_without_tls_is_warned_of() {
        for here in
            ["redis://localhost:6379", "redis://:pass@127.0.0.1", "redis://[::1]:7000/2", "redis+unix:///run/redis"]
        {
            assert!(!is_plaintext_remote(here), "{here}");
        }
        assert!(is_plaintext_remote("redis://:secret@db.example:6379/1"));
        assert!(!is_plaintext_remote("rediss://:secret@db.example:6379/1"));
    }

    #[test]
    fn a_build_without_tls_names_the_feature() {
        let problem = url_problem("rediss://localhost", false).unwrap_or_default();
        assert_eq!(problem, "asks for TLS, which needs the cargo feature `tls` of eventbus-redis");
        assert_eq!(url_problem("redis://localhost", false), None);
    }
}
