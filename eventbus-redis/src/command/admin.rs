//! The commands for operators of the bus, and the parsers of their replies.

use std::{collections::HashMap, time::Duration};

use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};

use super::{GroupState, list_or_empty, take_field};
use crate::{
    entry_id::EntryId,
    keys,
    reply::{parse_value, request},
};

/// Reads entries from an id, or after one that begins with `(`, up to an id.
pub(crate) fn range(stream: &str, from: &str, to: &str, count: usize) -> Cmd {
    request("XRANGE", (stream, from, to, "COUNT", count))
}

/// Reads the newest entry.
pub(crate) fn newest(stream: &str) -> Cmd {
    request("XREVRANGE", (stream, "+", "-", "COUNT", 1))
}

pub(crate) fn delete(stream: &str, ids: &[String]) -> Cmd {
    request("XDEL", (stream, ids))
}

/// Trims a stream towards `max_length` entries, but not below, even if groups have not read the removed ones. The
/// server removes only whole blocks of entries, and at most some thousand entries.
pub(crate) fn trim(stream: &str, max_length: u64) -> Cmd {
    request("XTRIM", (stream, "MAXLEN", "~", max_length))
}

/// Converts the reply of `TIME` to milliseconds since 1970.
pub(crate) fn to_milliseconds((seconds, micros): (u64, u64)) -> u64 {
    seconds.saturating_mul(1_000).saturating_add(micros / 1_000)
}

/// Reads the server's time.
pub(crate) fn time() -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("TIME");
    pipeline.ignore_errors();
    pipeline
}

/// Adds commands that read the consumers of a group, its members, its oldest pending entries, and the oldest of those
/// whose claims no consumer has renewed for `silent_ms`.
pub(crate) fn inspect_group(pipeline: &mut Pipeline, stream: &str, group: &str, silent_ms: u64) {
    pipeline.cmd("XINFO").arg("CONSUMERS").arg(stream).arg(group);
    pipeline.cmd("HGETALL").arg(keys::members(stream, group));
    pipeline.cmd("XPENDING").arg(stream).arg(group).arg("-").arg("+").arg(OLDEST_PENDING_MAX);
    pipeline.cmd("XPENDING").arg((stream, group, "IDLE", silent_ms, "-", "+", SILENT_ENTRIES_MAX));
}

/// Adds a command that reads the oldest entry that a group has not read.
pub(crate) fn find_unread(pipeline: &mut Pipeline, stream: &str, group: &GroupState) {
    pipeline.add_command(range(stream, &format!("({}", group.last_delivered), "+", 1));
}

/// Parses the id of that entry; `None` if the group has read all.
pub(crate) fn parse_unread(reply: RedisResult<Value>) -> RedisResult<Option<EntryId>> {
    // no id is higher than the one that the group has read
    let is_last = |error: &RedisError| error.detail().is_some_and(|detail| detail.contains("invalid start ID"));
    if reply.as_ref().is_err_and(is_last) {
        return Ok(None);
    }
    let entries: Vec<(String, Value)> = parse_value(list_or_empty(reply)?)?;
    Ok(entries.first().and_then(|(id, _)| id.parse().ok()))
}

/// The number of oldest pending entries whose delivery attempts health reads. Most old ones have failed.
const OLDEST_PENDING_MAX: usize = 10;

/// The number of entries with unrenewed claims that health reads: those that wait for absent members are among them.
const SILENT_ENTRIES_MAX: usize = 100;

/// The state of a consumer, as the server has it.
#[derive(Debug)]
pub(crate) struct ConsumerState {
    pub(crate) name: String,
    pub(crate) idle: Duration,
    pub(crate) pending: u64,
}

/// Parses the reply of `XINFO CONSUMERS`; a group that is gone has none.
pub(crate) fn parse_consumers(reply: RedisResult<Value>) -> RedisResult<Vec<ConsumerState>> {
    let consumers: Vec<HashMap<String, Value>> = parse_value(list_or_empty(reply)?)?;
    let read = |mut map: HashMap<String, Value>| {
        let (idle, pending) = (take_field(&mut map, "idle")?, take_field(&mut map, "pending")?);
        Ok(ConsumerState { name: take_field(&mut map, "name")?, idle: Duration::from_millis(idle), pending })
    };
    consumers.into_iter().map(read).collect()
}

/// Reads the delivery attempts that consumers saved for entries.
pub(crate) fn load_attempts<'a>(retry: &str, ids: impl Iterator<Item = &'a str>) -> Cmd {
    request("HMGET", (retry, ids.collect::<Vec<_>>()))
}

/// Parses the reply of `XPENDING` with a range: the entries, their consumers, and the milliseconds since each claim was
/// last renewed.
pub(crate) fn parse_pending(reply: RedisResult<Value>) -> RedisResult<Vec<(String, String, u64)>> {
    let pending: Vec<(String, String, u64, u64)> = parse_value(list_or_empty(reply)?)?;
    Ok(pending.into_iter().map(|(id, consumer, idle, _)| (id, consumer, idle)).collect())
}
