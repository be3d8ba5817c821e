//! Checks of the consumer groups of a bus on Redis, and of its dead letters.

use std::time::Duration;

use eventbus_redis::{keys, redis::cmd};
use serde_json::json;

use super::{
    bus_target::{GroupState, StreamState, entry_ms, sort_key},
    outcome::{CheckError, Outcome},
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

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) async fn check_unattended(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, idle_ms) = (on.bus()?, milliseconds(on.config.idle_group));
    let (now, mut outcome) = (target.redis().time().await?, Outcome::healthy());
    let Some(stream) = target.load().await? else { return Ok(outcome) };
    for group in &stream.groups {
        let Some(oldest) = target.oldest_unfinished(&stream.key, group).await? else { continue };
        let age_ms = now.saturating_sub(entry_ms(&oldest));
        if age_ms > idle_ms && target.count_live(&stream.key, &group.name, now, idle_ms).await? == 0 {
            let unread = group.lag.map_or_else(|| "an unknown number".into(), |lag| lag.to_string());
            outcome.row(json!({
                "stream": stream.key, "group": group.name, "pending": group.pending, "unread": group.lag,
                "_unread": unread, "oldest_seconds": age_ms / 1_000,
            }));
        }
    }
    Ok(outcome)
}

pub(crate) async fn check_dead_consumers(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, idle_max) = (on.bus()?, milliseconds(on.config.idle_group));
    let (now, mut outcome) = (target.redis().time().await?, Outcome::healthy());
    let Some(stream) = target.load().await? else { return Ok(outcome) };
    for group in stream.groups.iter().filter(|group| group.pending > 0) {
        let members = target.members(&group.name).await?;
        for consumer in target.consumers(&stream.key, &group.name).await? {
            let is_live = members.get(&consumer.name).is_some_and(|member| member.is_live(now));
            if consumer.pending > 0 && !is_live && consumer.idle_ms >= idle_max {
                outcome.row(json!({
                    "stream": stream.key, "group": group.name, "consumer": consumer.name,
                    "entries": consumer.pending, "idle_ms": consumer.idle_ms, "_idle": consumer.idle_ms / 1_000,
                }));
            }
        }
    }
    Ok(outcome)
}

pub(crate) async fn check_held_trimming(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.bus()?;
    let now = target.redis().time().await?;
    let mut slowest: Option<(String, &str)> = None;
    let Some(stream) = target.load().await? else { return Ok(Outcome::healthy()) };
    for group in &stream.groups {
        if let Some(oldest) = target.oldest_unfinished(&stream.key, group).await?
            && slowest.as_ref().is_none_or(|(id, _)| sort_key(&oldest) < sort_key(id))
        {
            slowest = Some((oldest, &group.name));
        }
    }
    let Some((oldest, group)) = slowest else { return Ok(Outcome::healthy()) };
    let age = now.saturating_sub(entry_ms(&oldest)) / 1_000;
    Ok(Outcome::of_row(json!({
        "_is_held": age > on.config.held_trim.as_secs(), "stream": stream.key, "group": group, "oldest": oldest,
        "oldest_seconds": age, "length": stream.length,
    })))
}

pub(crate) async fn check_lost_entries(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, mut outcome) = (on.bus()?, Outcome::healthy());
    let Some(stream) = target.load().await?.filter(|stream| stream.added > stream.length) else { return Ok(outcome) };
    let first = target.first_entry(&stream.key, "-").await?;
    for group in &stream.groups {
        match count_lost(&stream, first.as_deref(), group) {
            Ok(lost) => outcome.row(json!({
                "_has_lost": lost > 0, "stream": stream.key, "group": group.name, "lost": lost,
            })),
            Err(reason) => outcome.not_checked(reason),
        }
    }
    Ok(outcome)
}

/// Returns the number of entries that were removed before a group read them, or the reason why that is unknown; `first`
/// is the oldest entry that is left.
fn count_lost(stream: &StreamState, first: Option<&str>, group: &GroupState) -> Result<u64, String> {
    let read_to = sort_key(&group.last_delivered);
    if let Some(deleted) = stream.deleted.as_ref().filter(|id| sort_key(id) > read_to) {
        return Err(format!(
            "the entry {deleted} of `{}` was deleted by its id, and the group `{}` has not read up to there",
            stream.key, group.name
        ));
    }
    // a trim removes the oldest entries
    let has_read_removed =
        first.is_some_and(|first| sort_key(first) <= read_to) || sort_key(&stream.last_added) <= read_to;
    match group.read {
        // no entry that is left was read, so that the entries that were read are among the removed ones
        Some(read) if stream.deleted.is_none() || !has_read_removed => {
            Ok(stream.added.saturating_sub(stream.length).saturating_sub(read))
        }
        _ if has_read_removed => Ok(0),
        _ => Err(format!(
            "the server does not know how many entries of `{}` the group `{}` has read",
            stream.key, group.name
        )),
    }
}

pub(crate) async fn check_missing_bus(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    // a bus of another program has a stream and no `meta`
    let (target, stream) = (on.bus()?, on.bus()?.stream());
    let there: u64 = target.redis().query(cmd("EXISTS").arg((keys::meta(&stream), &stream))).await?;
    Ok(Outcome::of_row(json!({ "_is_missing": there == 0, "_prefix": target.prefix() })))
}

pub(crate) async fn check_dead_letters(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let count: u64 = on.bus()?.redis().query(cmd("XLEN").arg(on.bus()?.dead_letters())).await?;
    let are = if count == 1 { "is 1 dead letter".into() } else { format!("are {count} dead letters") };
    Ok(Outcome::of_row(json!({ "_has_some": count > 0, "_are": are, "count": count })))
}

pub(crate) async fn check_dead_letter_age(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.bus()?;
    let Some(oldest) = target.first_entry(&target.dead_letters(), "-").await? else { return Ok(Outcome::healthy()) };
    let age = target.redis().time().await?.saturating_sub(entry_ms(&oldest)) / 1_000;
    Ok(compare_retention(Duration::from_secs(age), on.config))
}
