//! The commands of the event store.

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
