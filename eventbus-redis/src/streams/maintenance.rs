//! Trims streams, retires their groups, and shows their health.

use std::collections::BTreeMap;

use eventbus::port::MessageId;
use redis::{RedisError, RedisResult, Value};
use serde::{Serialize, Serializer};

use super::{RedisStreams, StreamEntry};
use crate::{
    RedisCommandError, Trim, Trimmed,
    command::{self, GroupState, streams as commands},
    entry_id::EntryId,
    error::CommandError,
    keys,
    reply::{self, Entry},
    trim::{TrimProgress, TrimReply, trim_script},
};

/// State of a stream in one instant. Its JSON names entries by their ids, without their fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StreamHealth {
    /// Number of entries.
    pub length: u64,
    /// The oldest entry.
    #[serde(serialize_with = "by_id")]
    pub first_entry: Option<StreamEntry>,
    /// The newest entry.
    #[serde(serialize_with = "by_id")]
    pub last_entry: Option<StreamEntry>,
    /// The groups, by name.
    pub consumer_groups: Vec<GroupHealth>,
    /// Checkpoint of each projection over the stream, by the prefix of its program and its name: `events:order-stats`.
    /// A rebuild has its own: `events:order-stats:rebuild`. Colons within prefix and name are shown as `%3A`.
    pub projections: BTreeMap<String, MessageId>,
}

/// State of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupHealth {
    /// Name of the group.
    pub name: String,
    /// Number of consumers that it ever had, except removed ones.
    pub consumers: u64,
    /// Number of entries that were delivered to consumers and not acknowledged.
    pub pending: u64,
    /// The last entry that was delivered to a consumer.
    pub last_delivered_id: MessageId,
    /// Number of entries that no consumer has read. `None` if the server cannot know without counting: after entries
    /// were deleted in the middle of the stream, or if the group began there.
    pub lag: Option<u64>,
}

#[allow(clippy::ref_option, reason = "as serde calls it")]
fn by_id<S: Serializer>(entry: &Option<StreamEntry>, serializer: S) -> Result<S::Ok, S::Error> {
    entry.as_ref().map(|entry| &entry.id).serialize(serializer)
}

/// Trims the stream of a key, in as many steps as needed; if forced, also removes entries that were not read.
pub(super) async fn trim(
    streams: &RedisStreams,
    key: &str,
    limits: Trim,
    is_forced: bool,
) -> Result<Trimmed, RedisCommandError> {
    let (trim, mut steps) = (trim_script(key, limits, is_forced), TrimProgress::default());
    let failed = |error| RedisCommandError::from_command_error(key, error);
    while steps.add_step(streams.connection().run::<TrimReply>(&trim).await.map_err(failed)?.into()) {}
    Ok(steps.total)
}

/// Removes a group of the stream of a key; returns `true` if it was there, or listed among the groups of the stream.
pub(super) async fn retire_group(streams: &RedisStreams, key: &str, group: &str) -> Result<bool, RedisCommandError> {
    // never sent twice: a second run would find that the first run has removed it
    let removed: Result<bool, _> = streams.connection().query(&commands::destroy_group(key, group)).await;
    match removed {
        Err(error) if command::is_group_missing(&error) => Ok(false),
        removed => removed.map_err(|error| RedisCommandError::from_command_error(key, error)),
    }
}

pub(super) async fn health(streams: &RedisStreams, key: &str) -> Result<StreamHealth, RedisCommandError> {
    let pipeline = commands::health(key, &keys::projections(key));
    let failed = |error| RedisCommandError::from_command_error(key, error);
    let replies: Vec<RedisResult<Value>> =
        streams.connection().query_all_idempotent(&pipeline).await.map_err(failed)?;
    parse_health(replies).map_err(|error| failed(CommandError::Sent(error)))
}

fn parse_health(replies: Vec<RedisResult<Value>>) -> Result<StreamHealth, RedisError> {
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
    let one =
        |reply| Ok::<_, RedisError>(reply::parse_value::<Vec<Entry>>(reply)?.into_iter().next().map(StreamEntry::from));
    let length = reply::parse_value(next()?)?;
    let (first_entry, last_entry) = (one(next()?)?, one(next()?)?);
    let groups = command::parse_groups(next())?;
    let projections: BTreeMap<String, String> = reply::parse_value(next()?)?;
    let ends = [first_entry.as_ref(), last_entry.as_ref()];
    let mut consumer_groups: Vec<_> = groups.into_iter().map(|group| group_health(group, length, ends)).collect();
    consumer_groups.sort_by(|a, b| a.name.cmp(&b.name));
    // a note is an id, a count and a hash, see `StreamPosition`
    let id = |note: String| MessageId::new(note.split(' ').next().unwrap_or_default());
    let projections = projections.into_iter().map(|(name, note)| (name, id(note))).collect();
    Ok(StreamHealth { length, first_entry, last_entry, consumer_groups, projections })
}

/// Corrects the server's lag, which counts entries that were removed before the group read them: the lag of a group
/// before the first entry is the length of the stream, the lag of a group that has read the last entry is 0.
fn group_health(group: GroupState, length: u64, ends: [Option<&StreamEntry>; 2]) -> GroupHealth {
    let id = |text: &str| text.parse::<EntryId>().ok();
    let [first, last] = ends.map(|entry| entry.and_then(|entry| id(entry.id.as_str())));
    let delivered = id(&group.last_delivered);
    let is_before_all = first.is_none_or(|first| delivered.is_some_and(|delivered| delivered < first));
    let has_read_all = last.is_some_and(|last| delivered.is_some_and(|delivered| delivered >= last));
    let lag = match (is_before_all, has_read_all) {
        (true, _) => Some(length),
        (false, true) => Some(0),
        (false, false) => group.lag,
    };
    GroupHealth {
        name: group.name,
        consumers: group.consumers,
        pending: group.pending,
        last_delivered_id: MessageId::new(group.last_delivered),
        lag,
    }
}
