//! Checks of the consumer groups of a bus on Redis, and of its dead letters.

use std::{collections::HashMap, time::Duration};

use eventbus::dead_letter::{DeadLetterFilter, DeadLetters as _};
use eventbus_redis::{
    keys,
    redis::{FromRedisValue, RedisResult, Value, cmd, from_redis_value},
};
use serde_json::json;

use super::{
    outcome::{CheckError, Outcome, unread},
    redis_target::RedisTarget,
    store_contents::compare_retention,
    subjects::Subjects,
};

pub(crate) async fn check_format(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.bus()?;
    let meta = keys::meta(&target.stream());
    compare_format(target.redis(), &meta, keys::FORMAT.format, keys::FORMAT.min_reader).await
}

pub(crate) async fn check_store_format(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis_store()?;
    let (format, meta) = (eventstore_redis::keys::FORMAT, target.keys().meta());
    let mut outcome = compare_format(target.redis(), &meta, format.format, format.min_reader).await?;
    let id: Option<String> = target.redis().query(cmd("HGET").arg((&meta, "id"))).await?;
    outcome.row(json!({ "_is_missing": id.is_none(), "_prefix": target.prefix(), "key": meta }));
    Ok(outcome)
}

/// Compares the format in the hash `meta` with the one that this release writes, and the lowest one that this release
/// needs.
async fn compare_format(redis: &RedisTarget, meta: &str, known: u32, lowest: u32) -> Result<Outcome, CheckError> {
    let command = cmd("HMGET").arg((meta, "format", "min_reader")).to_owned();
    let (format, min_reader): (Option<String>, Option<String>) = redis.query(&command).await?;
    let Some(format) = format else { return Ok(Outcome::healthy()) };
    let min_reader = min_reader.unwrap_or_else(|| format.clone());
    let [number, reader] = [&format, &min_reader].map(|text| text.parse::<u32>().ok());
    let is_readable = reader.is_some_and(|reader| reader <= known);
    Ok(Outcome::of_row(json!({
        "_is_nameless": number.is_none() || reader.is_none(),
        "_is_refused": number.is_some() && reader.is_some_and(|reader| reader > known),
        "_is_other": is_readable && number.is_some_and(|format| format > known || format < lowest),
        "key": meta, "format": format, "min_reader": min_reader, "known": known,
    })))
}

pub(crate) async fn check_unattended(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let mut outcome = Outcome::healthy();
    let Some(info) = on.bus()?.load_info().await? else { return Ok(outcome) };
    for group in info.consumer_groups.iter().filter(|group| group.active_consumers == 0) {
        let oldest_ms = group.oldest_pending_age_ms.max(group.oldest_unread_age_ms).unwrap_or_default();
        if Duration::from_millis(oldest_ms) > on.config.idle_group {
            let unread = group.lag.map_or_else(|| "an unknown number".into(), |lag| lag.to_string());
            outcome.row(json!({
                "stream": info.stream.name, "group": group.name, "pending": group.pending, "unread": group.lag,
                "_unread": unread, "oldest_seconds": oldest_ms / 1_000,
            }));
        }
    }
    Ok(outcome)
}

pub(crate) async fn check_held_trimming(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.bus()?;
    let Some(bus) = target.opened()? else { return Ok(Outcome::healthy()) };
    let Some(blocker) = bus.trim_blocker().await.map_err(unread)? else { return Ok(Outcome::healthy()) };
    Ok(Outcome::of_row(json!({
        "_is_held": blocker.age > on.config.held_trim, "stream": target.stream(), "group": blocker.group,
        "oldest": blocker.oldest.as_str(), "oldest_seconds": blocker.age.as_secs(),
    })))
}

/// Counts of a stream, as the server reports them.
struct StreamCounts {
    length: u64,
    /// The number of entries ever added.
    added: u64,
    /// The id of the last entry ever added.
    last_added: String,
    /// The oldest entry that is left.
    first: Option<String>,
    /// The highest id of an entry that was deleted by its id; `None` if none was. With one, counts are no longer exact.
    deleted: Option<String>,
}

/// The place of a consumer group in a stream, as the server reports it.
struct GroupCounts {
    name: String,
    last_delivered: String,
    /// The number of entries that the group had read up to there; `None` if the server has lost count.
    read: Option<u64>,
}

type Fields = HashMap<String, Value>;

fn field<T: FromRedisValue>(fields: &Fields, name: &str) -> RedisResult<T> {
    Ok(from_redis_value(fields.get(name).cloned().unwrap_or(Value::Nil))?)
}

impl StreamCounts {
    fn new(info: &Fields) -> RedisResult<Self> {
        let deleted: String = field(info, "max-deleted-entry-id")?;
        let first: Option<(String, Value)> = field(info, "first-entry")?;
        Ok(Self {
            length: field(info, "length")?,
            added: field::<Option<u64>>(info, "entries-added")?.unwrap_or_default(),
            last_added: field(info, "last-generated-id")?,
            first: first.map(|(id, _)| id),
            deleted: Some(deleted).filter(|id| id != "0-0"),
        })
    }
}

impl GroupCounts {
    fn new(group: &Fields) -> RedisResult<Self> {
        Ok(Self {
            name: field(group, "name")?,
            last_delivered: field(group, "last-delivered-id")?,
            read: field(group, "entries-read")?,
        })
    }
}

/// Returns the sort key of an entry's id.
fn sort_key(id: &str) -> (u64, u64) {
    let (ms, number) = id.split_once('-').unwrap_or((id, ""));
    (ms.parse().unwrap_or_default(), number.parse().unwrap_or_default())
}

pub(crate) async fn check_lost_entries(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, mut outcome) = (on.bus()?, Outcome::healthy());
    let (redis, key) = (target.redis(), target.stream());
    if !redis.query::<bool>(cmd("EXISTS").arg(&key)).await? {
        return Ok(outcome);
    }
    let stream = StreamCounts::new(&redis.query(cmd("XINFO").arg("STREAM").arg(&key)).await?)?;
    if stream.added <= stream.length {
        return Ok(outcome);
    }
    let groups: Vec<Fields> = redis.query(cmd("XINFO").arg("GROUPS").arg(&key)).await?;
    for group in &groups {
        let group = GroupCounts::new(group)?;
        match count_lost(&stream, &group) {
            Ok(lost) => outcome.row(json!({
                "_has_lost": lost > 0, "stream": key, "group": group.name, "lost": lost,
            })),
            Err(reason) => outcome.not_checked(format!("`{key}`: {reason}")),
        }
    }
    Ok(outcome)
}

/// Returns the number of entries that were removed before a group read them, or the reason why that is unknown.
fn count_lost(stream: &StreamCounts, group: &GroupCounts) -> Result<u64, String> {
    let read_to = sort_key(&group.last_delivered);
    if let Some(deleted) = stream.deleted.as_ref().filter(|id| sort_key(id) > read_to) {
        return Err(format!(
            "the entry {deleted} was deleted by its id, and the group `{}` has not read up to there",
            group.name
        ));
    }
    // a trim removes the oldest entries
    let has_read_removed = stream.first.as_ref().is_some_and(|first| sort_key(first) <= read_to)
        || sort_key(&stream.last_added) <= read_to;
    match group.read {
        // no entry that is left was read, so that the entries that were read are among the removed ones
        Some(read) if stream.deleted.is_none() || !has_read_removed => {
            Ok(stream.added.saturating_sub(stream.length).saturating_sub(read))
        }
        _ if has_read_removed => Ok(0),
        _ => Err(format!("the server does not know how many entries the group `{}` has read", group.name)),
    }
}

pub(crate) async fn check_missing_bus(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.bus()?;
    Ok(Outcome::of_row(json!({ "_is_missing": target.opened()?.is_none(), "_prefix": target.prefix() })))
}

pub(crate) async fn check_dead_letters(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let count = on.bus()?.load_info().await?.map_or(0, |info| info.dlq_messages);
    let are = if count == 1 { "is 1 dead letter".into() } else { format!("are {count} dead letters") };
    Ok(Outcome::of_row(json!({ "_has_some": count > 0, "_are": are, "count": count })))
}

pub(crate) async fn check_dead_letter_age(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let Some(bus) = on.bus()?.opened()? else { return Ok(Outcome::healthy()) };
    let oldest = bus.list_dead_letters(&DeadLetterFilter::default(), None, 1).await.map_err(unread)?;
    let since = oldest.letters.first().and_then(|oldest| oldest.dead_lettered_at);
    let age = since.and_then(|since| Duration::try_from(on.config.clock.now() - since).ok());
    Ok(compare_retention(age.unwrap_or_default(), on.config))
}
