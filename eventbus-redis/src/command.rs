//! The commands that go to Redis, and the parsers of their replies; apart from `reply`, no other module builds a
//! command.

pub(crate) mod admin;
pub(crate) mod pages;
pub(crate) mod streams;

use std::{collections::HashMap, time::Duration};

use eventbus::port::MessageId;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation, Value, cmd, from_redis_value};

use crate::{
    error::CommandError,
    reply::{Entry, parse_value, request},
    wire::EntryFields,
};

/// The number of entries that one script call takes: the server runs no other command meanwhile.
pub(crate) const SCRIPT_BATCH_MAX: usize = 500;

/// The place where a consumer reads, and the number of entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupRead<'a> {
    pub(crate) stream: &'a str,
    pub(crate) group: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) count: usize,
}

impl GroupRead<'_> {
    /// Reads entries that are new to the group; waits for them if `block` is given.
    pub(crate) fn new_entries(&self, block: Option<Duration>) -> Cmd {
        let Self { stream, group, consumer, count } = *self;
        let block = block.map(|block| ("BLOCK", block_ms(block)));
        request("XREADGROUP", ("GROUP", group, consumer, "COUNT", count, block, "STREAMS", stream, ">"))
    }
}

/// Returns the time that a read may block, above 0, which would block for ever.
fn block_ms(block: Duration) -> u64 {
    u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Waits until a stream has an entry after an id, or after the beginning; replies with the first one.
pub(crate) fn wait_for_entry(stream: &str, after: Option<&str>, block: Duration) -> Cmd {
    request("XREAD", ("COUNT", 1, "BLOCK", block_ms(block), "STREAMS", stream, after.unwrap_or("0-0")))
}

pub(crate) fn ping() -> Cmd {
    cmd("PING")
}

pub(crate) fn client_id() -> Cmd {
    request("CLIENT", "ID")
}

/// Ends the blocking read of a connection as if its time were over; no entry is lost.
pub(crate) fn unblock(client: i64) -> Cmd {
    request("CLIENT", ("UNBLOCK", client))
}

/// Returns `true` if the group, or its stream, does not exist.
pub(crate) fn is_group_missing(error: &CommandError) -> bool {
    matches!(error, CommandError::Sent(error) if is_missing(error))
}

fn is_missing(error: &RedisError) -> bool {
    error.code() == Some("NOGROUP")
        || is_key_missing(error)
        || error.detail().is_some_and(|detail| detail.contains("requires the key to exist"))
}

/// Returns a reply that is a list: an empty one if the group, or its stream, does not exist.
fn list_or_empty(reply: RedisResult<Value>) -> RedisResult<Value> {
    reply.or_else(|error| if is_missing(&error) { Ok(Value::Array(Vec::new())) } else { Err(error) })
}

/// Returns `true` if a blocking read ended because the stream was deleted.
pub(crate) fn is_unblocked(error: &CommandError) -> bool {
    matches!(error, CommandError::Sent(error) if error.code() == Some("UNBLOCKED"))
}

/// Returns `true` if the key does not exist.
fn is_key_missing(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("no such key"))
}

pub(crate) fn acknowledge<'i>(stream: &str, group: &str, ids: impl IntoIterator<Item = &'i MessageId>) -> Cmd {
    let ids: Vec<_> = ids.into_iter().map(MessageId::as_str).collect();
    request("XACK", (stream, group, ids))
}

/// Acknowledges entries, and deletes the attempts that some of them have on record; if only the first takes effect, unused
/// records are swept later.
pub(crate) fn acknowledge_with_attempts<'i>(
    stream: &str,
    group: &str,
    ids: impl IntoIterator<Item = &'i MessageId>,
    retry: &str,
    with_attempts: Vec<&str>,
) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.add_command(acknowledge(stream, group, ids));
    pipeline.add_command(request("HDEL", (retry, with_attempts)));
    pipeline
}

/// Lists the ids that are pending on a consumer, from an id (`-`, or `(id` for those after it).
pub(crate) fn pending_of_consumer(stream: &str, group: &str, consumer: &str, from: &str, count: usize) -> Cmd {
    request("XPENDING", (stream, group, from, "+", count, consumer))
}

/// Parses the ids in the reply of [`pending_of_consumer`].
pub(crate) fn parse_pending_ids(reply: Value) -> RedisResult<Vec<String>> {
    let pending: Vec<(String, Value, Value, Value)> = parse_value(reply)?;
    Ok(pending.into_iter().map(|(id, ..)| id).collect())
}

/// Counts the entries that are pending in a group.
pub(crate) fn count_pending(stream: &str, group: &str) -> Cmd {
    request("XPENDING", (stream, group))
}

/// Parses the number in the reply of [`count_pending`].
pub(crate) fn parse_pending_count(reply: Value) -> RedisResult<u64> {
    let (count, ..): (u64, Value, Value, Value) = parse_value(reply)?;
    Ok(count)
}

/// Adds an entry; `max_length` trims the stream to about that length.
pub(crate) fn add<V: AsRef<[u8]>>(stream: &str, fields: &[(&str, V)], max_length: Option<u64>) -> Cmd {
    let bytes: usize = fields.iter().map(|(field, value)| field.len() + value.as_ref().len()).sum();
    let mut command = Cmd::with_capacity(2 * fields.len() + 6, bytes + stream.len() + "XADDMAXLEN~*".len() + 20);
    command.arg("XADD").arg(stream);
    if let Some(max_length) = max_length {
        command.arg("MAXLEN").arg("~").arg(max_length);
    }
    command.arg("*");
    for (field, value) in fields {
        command.arg(*field).arg(value.as_ref());
    }
    command
}

/// Adds the fields of an entry to the arguments of a script, after their number.
pub(crate) fn add_fields(script: &mut ScriptInvocation<'_>, fields: &[(impl AsRef<str>, impl AsRef<[u8]>)]) {
    script.arg(fields.len() * 2);
    for (name, value) in fields {
        script.arg(name.as_ref()).arg(value.as_ref());
    }
}

/// Adds entries in one round trip, as one transaction: the server takes all of them, or none if it is out of memory. If
/// it refuses a single entry, for example because the stream's ids have run out, the reply to that entry is the error.
pub(crate) fn add_all(stream: &str, entries: &[EntryFields<'_>]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(entries.len());
    pipeline.atomic().ignore_errors();
    for fields in entries {
        pipeline.add_command(add(stream, fields, None));
    }
    pipeline
}

/// Inspects a stream and its groups, and counts the dead letters.
pub(crate) fn inspect(stream: &str, dead_letters: &str) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("XINFO").arg("STREAM").arg(stream);
    pipeline.cmd("XINFO").arg("GROUPS").arg(stream);
    pipeline.cmd("XLEN").arg(dead_letters);
    pipeline.ignore_errors();
    pipeline
}

/// Inspects the groups of a stream, and counts its entries.
pub(crate) fn inspect_groups(stream: &str) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("XINFO").arg("GROUPS").arg(stream);
    pipeline.cmd("XLEN").arg(stream);
    pipeline.ignore_errors();
    pipeline
}

/// The state of a stream.
#[derive(Debug, Default)]
pub(crate) struct StreamState {
    pub(crate) length: u64,
    pub(crate) first_id: Option<String>,
    pub(crate) last_id: Option<String>,
}

/// The state of a group.
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) name: String,
    pub(crate) consumers: u64,
    pub(crate) pending: u64,
    pub(crate) last_delivered: String,
    /// The number of unread entries; `None` if the server has lost count.
    pub(crate) lag: Option<u64>,
}

/// Parses the reply of `XINFO STREAM`; a stream that is missing is empty.
pub(crate) fn parse_stream(reply: RedisResult<Value>) -> RedisResult<StreamState> {
    let reply = match reply {
        Err(error) if is_key_missing(&error) => return Ok(StreamState::default()),
        reply => reply?,
    };
    let mut map: HashMap<String, Value> = from_redis_value(reply)?;
    let mut entry = |key: &str| match map.remove(key) {
        Some(Value::Array(entry)) => entry.into_iter().next().map(from_redis_value).transpose(),
        _ => Ok(None),
    };
    let (first_id, last_id) = (entry("first-entry")?, entry("last-entry")?);
    Ok(StreamState { length: take_field(&mut map, "length")?, first_id, last_id })
}

/// Parses the reply of `XINFO GROUPS`; a stream that is missing has none.
pub(crate) fn parse_groups(reply: RedisResult<Value>) -> RedisResult<Vec<GroupState>> {
    let groups: Vec<HashMap<String, Value>> = parse_value(list_or_empty(reply)?)?;
    let read = |mut map: HashMap<String, Value>| {
        Ok(GroupState {
            name: take_field(&mut map, "name")?,
            consumers: take_field(&mut map, "consumers")?,
            pending: take_field(&mut map, "pending")?,
            last_delivered: take_field(&mut map, "last-delivered-id")?,
            lag: take_field(&mut map, "lag")?,
        })
    };
    groups.into_iter().map(read).collect()
}

fn take_field<T: FromRedisValue>(map: &mut HashMap<String, Value>, key: &str) -> RedisResult<T> {
    Ok(from_redis_value(map.remove(key).unwrap_or(Value::Nil))?)
}

/// Parses the reply of `XREADGROUP` on one stream; nil means no entries.
pub(crate) fn parse_group_entries(reply: Value) -> RedisResult<Vec<Entry>> {
    let stream = match reply {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(streams) => match streams.into_iter().next() {
            Some(Value::Array(mut stream)) => stream.pop(),
            other => other,
        },
        Value::Map(streams) => streams.into_iter().next().map(|(_, entries)| entries),
        other => Some(other),
    };
    stream.map_or_else(|| Ok(Vec::new()), parse_value)
}
