//! The commands of the event store, and times as the server counts them.

use std::time::Duration;

use redis::{Cmd, cmd};

/// Reads the entries of a stream with numbers from `from` to `through`, at most `count`.
pub(crate) fn range(key: &str, from: u64, through: u64, count: usize) -> Cmd {
    let mut command = cmd("XRANGE");
    command.arg(key).arg(from).arg(through).arg("COUNT").arg(count);
    command
}

/// Reads the last entry of a stream.
pub(crate) fn last(key: &str) -> Cmd {
    let mut command = cmd("XREVRANGE");
    command.arg(key).arg("+").arg("-").arg("COUNT").arg(1);
    command
}

pub(crate) fn hash(key: &str) -> Cmd {
    let mut command = cmd("HGETALL");
    command.arg(key);
    command
}

/// Converts a time to milliseconds, at most a thousand years: the server can add it to its clock.
pub(crate) fn millis(time: Duration) -> u64 {
    const LEASE_MS_MAX: u64 = 1_000 * 366 * 86_400 * 1_000;
    u64::try_from(time.as_millis()).unwrap_or(LEASE_MS_MAX).min(LEASE_MS_MAX)
}
