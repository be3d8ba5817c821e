//! A bus on Redis: its stream, and the groups of the stream with consumers and members.

use std::collections::HashMap;

use eventbus::{Name, support::ReaderKind};
use eventbus_redis::{
    keys,
    redis::{FromRedisValue, RedisResult, Value, cmd, from_redis_value},
};
use serde::Deserialize;

use super::{outcome::CheckError, redis_target::RedisTarget};

/// A bus on Redis.
#[derive(Debug, Clone)]
pub(crate) struct BusTarget {
    redis: RedisTarget,
    prefix: String,
    dead_letter_suffix: String,
}

/// The state of a stream, as the server reports it.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) key: String,
    pub(crate) length: u64,
    /// The number of entries ever added.
    pub(crate) added: u64,
    /// The id of the last entry ever added.
    pub(crate) last_added: String,
    /// The highest id of an entry that was deleted by its id; `None` if none was. With one, counts are no longer exact.
    pub(crate) deleted: Option<String>,
    pub(crate) groups: Vec<GroupState>,
}

/// The state of a consumer group of a stream, as the server reports it.
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) name: String,
    pub(crate) pending: u64,
    pub(crate) last_delivered: String,
    /// The number of entries that the group had read up to there; `None` if the server has lost count.
    pub(crate) read: Option<u64>,
    pub(crate) lag: Option<u64>,
}

/// A consumer of a group, as the server reports it.
#[derive(Debug)]
pub(crate) struct ConsumerState {
    pub(crate) name: String,
    pub(crate) pending: u64,
    /// The time since it last asked for entries.
    pub(crate) idle_ms: u64,
}

/// The record that a member of a group writes about itself.
#[derive(Debug, Deserialize)]
pub(crate) struct MemberRecord {
    /// The time of the record, in milliseconds since 1970 by the server's clock.
    at: u64,
    /// The time for which the record is a sign of life, in milliseconds.
    live_ms: u64,
    #[serde(default)]
    left: bool,
}

impl MemberRecord {
    pub(crate) const fn is_live(&self, now: u64) -> bool {
        !self.left && self.at.saturating_add(self.live_ms) > now
    }
}

impl BusTarget {
    pub(crate) fn new(redis: RedisTarget, prefix: &str, dead_letter_suffix: &str) -> Self {
        Self { redis, prefix: prefix.into(), dead_letter_suffix: dead_letter_suffix.into() }
    }

    pub(crate) const fn redis(&self) -> &RedisTarget {
        &self.redis
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the key of the stream.
    pub(crate) fn stream(&self) -> String {
        keys::stream(&self.prefix)
    }

    /// Returns the role of the relay to this bus: a store keeps its checkpoint and its lease by that name.
    pub(crate) fn relay(&self) -> Result<Name, CheckError> {
        let destination = Name::new("destination", format!("redis:{}", self.stream()));
        Ok(ReaderKind::Relay.name_of(&destination.map_err(|error| CheckError::Other(error.to_string()))?))
    }

    pub(crate) fn dead_letters(&self) -> String {
        keys::dead_letters(&self.prefix, &self.dead_letter_suffix)
    }

    /// Loads the state of the stream; `None` if it does not exist.
    pub(crate) async fn load(&self) -> Result<Option<StreamState>, CheckError> {
        let key = self.stream();
        let is_there: bool = self.redis.query(cmd("EXISTS").arg(&key)).await?;
        Ok(if is_there { Some(self.load_stream(key).await?) } else { None })
    }

    async fn load_stream(&self, key: String) -> Result<StreamState, CheckError> {
        let info: HashMap<String, Value> = self.redis.query(cmd("XINFO").arg("STREAM").arg(&key)).await?;
        let groups: Vec<HashMap<String, Value>> = self.redis.query(cmd("XINFO").arg("GROUPS").arg(&key)).await?;
        let deleted: String = field(&info, "max-deleted-entry-id")?;
        let groups = groups.iter().map(|group| {
            Ok(GroupState {
                name: field(group, "name")?,
                pending: field(group, "pending")?,
                last_delivered: field(group, "last-delivered-id")?,
                read: field(group, "entries-read")?,
                lag: field(group, "lag")?,
            })
        });
        Ok(StreamState {
            length: field(&info, "length")?,
            added: field::<Option<u64>>(&info, "entries-added")?.unwrap_or_default(),
            last_added: field(&info, "last-generated-id")?,
            deleted: Some(deleted).filter(|id| id != "0-0"),
            groups: groups.collect::<RedisResult<_>>()?,
            key,
        })
    }

    pub(crate) async fn consumers(&self, stream: &str, group: &str) -> Result<Vec<ConsumerState>, CheckError> {
        let command = cmd("XINFO").arg("CONSUMERS").arg(stream).arg(group).to_owned();
        let consumers: Vec<HashMap<String, Value>> = self.redis.query(&command).await?;
        let read = |consumer: &HashMap<String, Value>| {
            Ok(ConsumerState {
                name: field(consumer, "name")?,
                pending: field(consumer, "pending")?,
                idle_ms: field(consumer, "idle")?,
            })
        };
        Ok(consumers.iter().map(read).collect::<RedisResult<_>>()?)
    }

    /// Returns the members of a group, by the names of their consumers.
    pub(crate) async fn members(&self, group: &str) -> Result<HashMap<String, MemberRecord>, CheckError> {
        let members = keys::members(&self.stream(), group);
        let members: HashMap<String, String> = self.redis.query(cmd("HGETALL").arg(members)).await?;
        let read = |(name, text): (String, String)| match serde_json::from_str(&text) {
            Ok(record) => Ok((name, record)),
            Err(error) => Err(CheckError::Other(format!(
                "the record of member `{name}` of the group `{group}` cannot be read: {error}: `{text}`"
            ))),
        };
        members.into_iter().map(read).collect()
    }

    /// Returns the number of consumers that show life: live members, and consumers of other programs that were active
    /// within `idle_ms`.
    pub(crate) async fn count_live(
        &self,
        stream: &str,
        group: &str,
        now: u64,
        idle_ms: u64,
    ) -> Result<usize, CheckError> {
        let members = self.members(group).await?;
        let live = members.values().filter(|member| member.is_live(now)).count();
        let consumers = self.consumers(stream, group).await?;
        let is_foreign = |consumer: &&ConsumerState| !members.contains_key(&consumer.name);
        let busy = consumers.iter().filter(is_foreign).filter(|consumer| consumer.idle_ms < idle_ms).count();
        Ok(live + busy)
    }

    /// Returns the id of the oldest entry that a group has not finished, and that is still in the stream.
    pub(crate) async fn oldest_unfinished(
        &self,
        stream: &str,
        group: &GroupState,
    ) -> Result<Option<String>, CheckError> {
        if group.pending > 0 {
            let first = self.first_entry(stream, "-").await?;
            let from = first.as_deref().unwrap_or("-");
            let command = cmd("XPENDING").arg((stream, &group.name, from, "+", 1)).to_owned();
            let pending: Vec<(String, Value, Value, Value)> = self.redis.query(&command).await?;
            if let Some((id, ..)) = pending.into_iter().next() {
                return Ok(Some(id));
            }
        }
        self.first_entry(stream, &format!("({}", group.last_delivered)).await
    }

    /// Returns the id of the first entry from an id on.
    pub(crate) async fn first_entry(&self, stream: &str, from: &str) -> Result<Option<String>, CheckError> {
        let command = cmd("XRANGE").arg((stream, from, "+", "COUNT", 1)).to_owned();
        let entries: Vec<(String, Value)> = self.redis.query(&command).await?;
        Ok(entries.into_iter().next().map(|(id, _)| id))
    }
}

/// Returns the time of an entry's id, in milliseconds since 1970.
pub(crate) fn entry_ms(id: &str) -> u64 {
    id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or_default()
}

/// Returns the sort key of an entry's id.
pub(crate) fn sort_key(id: &str) -> (u64, u64) {
    let number = id.split_once('-').and_then(|(_, number)| number.parse().ok());
    (entry_ms(id), number.unwrap_or_default())
}

fn field<T: FromRedisValue>(fields: &HashMap<String, Value>, name: &str) -> RedisResult<T> {
    Ok(from_redis_value(fields.get(name).cloned().unwrap_or(Value::Nil))?)
}
