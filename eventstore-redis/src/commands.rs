//! The commands of the event store, and times in the unit of the server.

use std::time::Duration;

use eventbus_redis_core::reply::request;
use redis::Cmd;

/// Reads the entries of a stream with numbers from `from` to `through`, at most `count`.
pub(crate) fn range(key: &str, from: u64, through: u64, count: usize) -> Cmd {
    request("XRANGE", (key, from, through, "COUNT", count))
}

/// Reads the last entry of a stream.
pub(crate) fn last(key: &str) -> Cmd {
    request("XREVRANGE", (key, "+", "-", "COUNT", 1))
}

/// Asks for the number of entries of a stream, and for the last id that the server assigned.
pub(crate) fn stream_info(key: &str) -> Cmd {
    request("XINFO", ("STREAM", key))
}

/// Reads at most `limit` members of a sorted set of names that begin with `prefix` and follow `after`.
pub(crate) fn names(key: &str, prefix: &str, after: Option<&str>, limit: usize) -> Cmd {
    let from = match after {
        Some(after) if after >= prefix => format!("({after}"),
        _ => format!("[{prefix}"),
    };
    // UTF-8 has no byte 0xff, so this ends behind all names with the prefix
    let to = [b"(", prefix.as_bytes(), b"\xff"].concat();
    request("ZRANGEBYLEX", (key, from, to, "LIMIT", 0, limit))
}

pub(crate) fn hash(key: &str) -> Cmd {
    request("HGETALL", key)
}

/// Converts a time to milliseconds, at most a thousand years, so that the server can add it to its clock.
pub(crate) fn millis(time: Duration) -> u64 {
    const LEASE_MS_MAX: u64 = 1_000 * 366 * 86_400 * 1_000;
    u64::try_from(time.as_millis()).unwrap_or(LEASE_MS_MAX).min(LEASE_MS_MAX)
}

/// Returns the `SCAN` pattern that matches all keys with this literal stem.
pub(crate) fn scan_pattern(stem: &str) -> String {
    let mut pattern = String::with_capacity(stem.len() + 2);
    for c in stem.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + "*"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_literally() {
        assert_eq!(scan_pattern("a[b]?*-\\"), r"a\[b\]\?\*\-\\*");
    }
}
