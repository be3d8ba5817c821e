//! The commands of the event store.

use redis::{Cmd, RedisResult, Value, cmd};

use super::{Entry, parse_entry, parse_value};

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

/// Parses a reply of entries.
pub(crate) fn parse_entries(reply: Value) -> RedisResult<Vec<Entry>> {
    parse_value::<Vec<Value>>(reply)?.into_iter().map(parse_entry).collect()
}

pub(crate) fn get(key: &str) -> Cmd {
    let mut command = cmd("GET");
    command.arg(key);
    command
}

pub(crate) fn set(key: &str, value: u64) -> Cmd {
    let mut command = cmd("SET");
    command.arg(key).arg(value);
    command
}

pub(crate) fn hash(key: &str) -> Cmd {
    let mut command = cmd("HGETALL");
    command.arg(key);
    command
}
