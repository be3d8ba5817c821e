//! Addresses of servers: their form in errors and logs, and hosts that are this machine.

use std::net::IpAddr;

/// Returns a connection URL as errors and logs may show it: without the password.
///
/// A text that is no URL is not shown at all, nor is the part after the scheme if an `@` comes after a `?` or `#`: the
/// place of a password in it would be ambiguous.
///
/// # Examples
/// ```
/// use eventbus::support::redacted;
/// assert_eq!(redacted("redis://app:secret@db.example:6380/1"), "redis://app@db.example:6380/1");
/// assert_eq!(redacted("redis://:secret@db.example"), "redis://db.example");
/// assert_eq!(redacted("postgres://db/orders?password=secret"), "postgres://db/orders");
/// assert_eq!(redacted("secret"), "<not a URL>");
/// ```
#[must_use]
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "<not a URL>".into();
    };
    let (rest, parameters) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    if parameters.contains('@') {
        return format!("{scheme}://<not shown>");
    }
    let (authority, path) = match rest.find('/') {
        // a password may hold a slash that should have been escaped: the last `@` ends the user part
        Some(slash) if !rest[slash..].contains('@') => rest.split_at(slash),
        _ => match rest.rfind('@').and_then(|at| rest[at..].find('/').map(|slash| at + slash)) {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        },
    };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user = user.split(':').next().unwrap_or_default();
    let at = if user.is_empty() { "" } else { "@" };
    format!("{scheme}://{user}{at}{host}{path}")
}

/// Returns `true` if a host, given by name or address, is this machine: then no other machine is on the way to it.
///
/// # Examples
/// ```
/// use eventbus::support::is_this_machine;
/// assert!(is_this_machine("localhost") && is_this_machine("127.0.0.1") && is_this_machine("[::1]"));
/// assert!(!is_this_machine("db.example") && !is_this_machine("10.0.0.7"));
/// ```
#[must_use]
pub fn is_this_machine(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address: Option<IpAddr> = host.parse().ok();
    address.map_or_else(|| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn everything_else_is_shown() {
        for (url, shown) in [
            ("redis://u:secret@h:1/0", "redis://u@h:1/0"),
            ("redis://:secret@h:1", "redis://h:1"),
            ("postgres://u@h/d?password=secret", "postgres://u@h/d"),
            ("postgres://h/d#part", "postgres://h/d"),
            ("sqlite://data/events.db", "sqlite://data/events.db"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    #[test]
    fn no_part_of_a_password_is_shown() {
        for url in [
            "redis://u:secret@h:1/0",
            "redis://u:se/cret@h:1/0",
            "redis://u:secr@et@h:1/0",
            "redis://:secret@h:1/0",
            "postgres://u@h/d?password=secret",
            "u:secret@h",
            "redis://u:secr?et@h:1/0",
            "redis://u:secr#et@h:1/0",
            "redis://u:5ecr@et#secret@h",
            "postgres://h/d?password=secr@et",
        ] {
            let shown = redacted(url);
            assert!(!shown.contains("cret") && !shown.contains("secr"), "{url} became {shown}");
        }
    }
}
