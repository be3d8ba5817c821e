//! The commands of the streams door, and how their replies are read.

use std::time::Duration;

use eventbus::port::MessageId;
use redis::{Cmd, Pipeline, RedisResult, Value, cmd};

use super::{Entry, entry, read};

/// Takes over entries that are pending for long, from an id on.
pub(crate) fn claim(stream: &str, group: &str, consumer: &str, idle: Duration, from: &str, count: usize) -> Cmd {
    let mut command = cmd("XAUTOCLAIM");
    let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    command.arg(stream).arg(group).arg(consumer).arg(idle).arg(from).arg("COUNT").arg(count);
    command
}

/// What [`claim`] replies.
pub(crate) struct ClaimedEntries {
    /// Where to go on; `0-0` at the end.
    pub(crate) cursor: String,
    pub(crate) entries: Vec<Entry>,
    /// Entries that were pending and are not there any more.
    pub(crate) deleted: Vec<String>,
}

/// Reads the reply of [`claim`].
pub(crate) fn claimed(reply: Value) -> RedisResult<ClaimedEntries> {
    let parts: Vec<Value> = read(reply)?;
    let mut parts = parts.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let (cursor, entries): (String, Vec<Value>) = (read(next())?, read(next())?);
    let deleted = read::<Option<Vec<String>>>(next())?.unwrap_or_default();
    // older servers leave a nil for an entry that is gone
    let entries = entries.into_iter().filter(|entry| !matches!(entry, Value::Nil));
    Ok(ClaimedEntries { cursor, entries: entries.map(entry).collect::<RedisResult<_>>()?, deleted })
}

/// How often each of some entries was delivered.
pub(crate) fn deliveries<'a>(stream: &str, group: &str, ids: impl IntoIterator<Item = &'a str>) -> Pipeline {
    let mut pipeline = redis::pipe();
    for id in ids {
        pipeline.cmd("XPENDING").arg(stream).arg(group).arg(id).arg(id).arg(1);
    }
    pipeline
}

/// Reads the number in a reply to [`deliveries`]; none if the entry is pending no more.
pub(crate) fn delivered(reply: Value) -> RedisResult<Option<u64>> {
    let pending: Vec<(String, Value, Value, u64)> = read(reply)?;
    Ok(pending.into_iter().next().map(|(.., deliveries)| deliveries))
}

/// The length, first and last entry, groups of a stream, and its projections, in one instant.
pub(crate) fn health(stream: &str, projections: &str) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.atomic().ignore_errors();
    pipeline.cmd("XLEN").arg(stream);
    pipeline.cmd("XRANGE").arg(stream).arg("-").arg("+").arg("COUNT").arg(1);
    pipeline.cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
    pipeline.cmd("XINFO").arg("GROUPS").arg(stream);
    pipeline.cmd("HGETALL").arg(projections);
    pipeline
}

pub(crate) fn length(stream: &str) -> Cmd {
    let mut command = cmd("XLEN");
    command.arg(stream);
    command
}

pub(crate) fn get(key: &str) -> Cmd {
    let mut command = cmd("GET");
    command.arg(key);
    command
}

pub(crate) fn set(key: &str, value: &str) -> Cmd {
    let mut command = cmd("SET");
    command.arg(key).arg(value);
    command
}

/// The members of a set.
pub(crate) fn members(key: &str) -> Cmd {
    let mut command = cmd("SMEMBERS");
    command.arg(key);
    command
}

/// Removes fields of a hash.
pub(crate) fn forget(key: &str, fields: &[&str]) -> Cmd {
    let mut command = cmd("HDEL");
    command.arg(key).arg(fields);
    command
}

/// The texts of ids.
pub(crate) fn texts<'a>(ids: impl IntoIterator<Item = &'a MessageId>) -> impl Iterator<Item = &'a str> {
    ids.into_iter().map(MessageId::as_str)
}
