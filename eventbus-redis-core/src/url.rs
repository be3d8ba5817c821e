//! URLs of servers.
//!
//! Invariant: no text shows a password, nor a part of a URL that may be one.

use eventbus::support::{is_this_machine, redacted};
use redis::IntoConnectionInfo;

/// The problem of a URL that does not parse. It does not show the URL, which may hold a password anywhere.
const INVALID_URL_PROBLEM: &str =
    "is no Redis URL (redis://[user:password@]host[:port][/database], the password percent-encoded)";
const TCP_PARAMETERS: [&str; 1] = ["protocol"];
const SOCKET_PARAMETERS: [&str; 4] = ["db", "user", "pass", "protocol"];

/// Returns the address in a URL without the password, for messages.
pub fn address(url: &str) -> String {
    let shown = redacted(url);
    // a user without a password is hidden too: mostly it is a password that lacks its colon
    let Some(((scheme, user), host)) =
        shown.split_once('@').and_then(|(user, host)| Some((user.split_once("://")?, host)))
    else {
        return shown;
    };
    let before_password = format!("://{user}:");
    let password = url.split_once(&before_password).map(|(_, rest)| rest);
    if password.is_some_and(|rest| !rest.starts_with('@')) { shown } else { format!("{scheme}://{host}") }
}

/// Returns the problem of a URL.
pub fn url_problem(url: &str, has_tls: bool, package: &str) -> Option<String> {
    let Some(parsed) = redis::parse_redis_url(url) else {
        return Some(INVALID_URL_PROBLEM.into());
    };
    if asks_for_tls(url) && !has_tls {
        return Some(format!("asks for TLS, which needs the cargo feature `tls` of {package}"));
    }
    if asks_for_tls(url) && parsed.fragment() == Some("insecure") {
        return Some("asks for TLS with any server (`#insecure`); set an authority in `tls_ca_file` instead".into());
    }
    let Ok(info) = parsed.clone().into_connection_info() else {
        return Some(INVALID_URL_PROBLEM.into());
    };
    // also those of a socket, which are parameters
    let settings = info.redis_settings();
    if settings.username().is_some() && settings.password().is_none_or(str::is_empty) {
        return Some("names a user without a password, who would be ignored".into());
    }
    let parameters = if parsed.has_host() { &TCP_PARAMETERS[..] } else { &SOCKET_PARAMETERS };
    let unknown = parsed.query_pairs().any(|(name, _)| !parameters.contains(&&*name));
    // the parameters are not shown: an unknown one may be a part of a password
    unknown.then(|| format!("has other parameters than `{}`", parameters.join("`, `")))
}

/// Returns `true` if a URL names a remote machine, without TLS.
pub fn is_plaintext_remote(url: &str) -> bool {
    let parsed = redis::parse_redis_url(url);
    parsed.is_some_and(|url| url.host_str().is_some_and(|host| !host.is_empty() && !is_this_machine(host)))
        && !asks_for_tls(url)
}

/// Returns `true` if a URL asks for TLS.
pub fn asks_for_tls(url: &str) -> bool {
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
    fn a_user_without_a_password_is_refused() {
        for url in ["redis://app@localhost", "unix:///run/redis?user=app"] {
            let problem = url_problem(url, false, "eventbus-redis").unwrap_or_default();
            assert!(problem.contains("user without a password"), "{url}: {problem}");
        }
        for url in ["redis://app:secret@localhost", "unix:///run/redis?user=app&pass=secret"] {
            assert_eq!(url_problem(url, false, "eventbus-redis"), None);
        }
    }

    #[test]
    fn a_build_without_tls_names_the_feature() {
        let problem = url_problem("rediss://localhost", false, "eventbus-redis").unwrap_or_default();
        assert_eq!(problem, "asks for TLS, which needs the cargo feature `tls` of eventbus-redis");
        assert_eq!(url_problem("redis://localhost", false, "eventbus-redis"), None);
    }
}
