//! Checks of the consumer groups of a bus on Redis, and of its dead letters.

use std::time::Duration;

use eventbus_redis::{keys, redis::cmd};
use serde_json::json;

use super::{
    bus_target::{ConsumerState, GroupState, StreamState, entry_ms},
    finding::Finding,
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
    if id.is_none() {
        let found = format!("the server holds no store with the prefix `{}`", target.prefix());
        let consequence = "the store cannot be read; an application with this prefix begins a new, empty one";
        let repair = "give the `key_prefix` of the application by `--store-prefix`; if the store was there, restore it \
                      from a backup";
        outcome.add(Finding::fault(found, consequence, repair).observed(json!({ "key": meta })));
    }
    Ok(outcome)
}

/// Compares the format in the hash `meta` with the one that this release writes, and the lowest one that this release
/// needs.
async fn compare_format(redis: &RedisTarget, meta: &str, known: u32, lowest: u32) -> Result<Outcome, CheckError> {
    let command = cmd("HMGET").arg((meta, "format", "min_reader")).to_owned();
    let (format, min_reader): (Option<String>, Option<String>) = redis.query(&command).await?;
    let Some(format) = format else { return Ok(Outcome::healthy()) };
    let min_reader = min_reader.unwrap_or_else(|| format.clone());
    let number = |text: &str| text.parse::<u32>().ok();
    let observed = json!({ "key": meta, "format": format, "min_reader": min_reader, "known": known });
    let found = format!("the keys have format {format}, readable from {min_reader} on; this release knows {known}");
    let repair = "run one release everywhere: deploy the newer one to this process, too";
    let finding = match (number(&format), number(&min_reader)) {
        (Some(format), Some(min_reader)) if min_reader <= known => {
            let newer = || {
                let consequence =
                    "a newer release works on these keys: two releases are at work until all are deployed";
                Finding::warning(found, consequence, repair)
            };
            (format > known || format < lowest).then(newer)
        }
        (Some(_), Some(_)) => Some(Finding::fault(found, "this release refuses to start", repair)),
        _ => Some(Finding::fault(
            format!("`{meta}` names no format: `{format}`, `{min_reader}`"),
            "no release starts",
            format!("HDEL {meta} format min_reader, if the keys are of one release"),
        )),
    };
    Ok(finding.map(|finding| finding.observed(observed)).into())
}

/// Returns the seconds since an entry was added.
fn age_seconds(id: &str, now: u64) -> u64 {
    now.saturating_sub(entry_ms(id)) / 1_000
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) async fn check_unattended(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.bus()?, on.config);
    let now = target.redis().time().await?;
    let idle_ms = milliseconds(config.idle_group);
    let mut outcome = Outcome::healthy();
    if let Some(stream) = target.load().await? {
        for group in &stream.groups {
            let Some(oldest) = target.oldest_unfinished(&stream.key, group).await? else { continue };
            if now.saturating_sub(entry_ms(&oldest)) <= idle_ms {
                continue;
            }
            if target.count_live(&stream.key, &group.name, now, idle_ms).await? == 0 {
                outcome.add(unattended(&stream, group, age_seconds(&oldest, now)));
            }
        }
    }
    Ok(outcome)
}

fn unattended(stream: &StreamState, group: &GroupState, age: u64) -> Finding {
    let unread = group.lag.map_or_else(|| "an unknown number".into(), |lag| lag.to_string());
    let found = format!(
        "the group `{}` of `{}` has no live consumer: {} entries pending, {unread} unread, the oldest for {age} s",
        group.name, stream.key, group.pending
    );
    let consequence = "no process handles these events, and the stream keeps them";
    let repair = "start the service with that group; if it is gone for good: `eventbus groups retire`";
    let observed = json!({
        "stream": stream.key, "group": group.name, "pending": group.pending, "unread": group.lag,
        "oldest_seconds": age,
    });
    Finding::warning(found, consequence, repair).observed(observed)
}

pub(crate) async fn check_dead_consumers(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.bus()?, on.config);
    let now = target.redis().time().await?;
    let idle_max = milliseconds(config.idle_group);
    let mut outcome = Outcome::healthy();
    if let Some(stream) = target.load().await? {
        for group in stream.groups.iter().filter(|group| group.pending > 0) {
            let members = target.members(&group.name).await?;
            for ConsumerState { name, pending, idle_ms } in target.consumers(&stream.key, &group.name).await? {
                let is_live = members.get(&name).is_some_and(|member| member.is_live(now));
                if pending == 0 || is_live || idle_ms < idle_max {
                    continue;
                }
                let found = format!(
                    "the consumer `{name}` of the group `{}` holds {pending} entries, and has shown no life for {} s",
                    group.name,
                    idle_ms / 1_000
                );
                let consequence = "these events are not handled, and no live consumer claims them";
                let repair = "start the process again, or one more consumer of the group, which claims them";
                let observed = json!({
                    "stream": stream.key, "group": group.name, "consumer": name, "entries": pending,
                    "idle_ms": idle_ms,
                });
                outcome.add(Finding::warning(found, consequence, repair).observed(observed));
            }
        }
    }
    Ok(outcome)
}

pub(crate) async fn check_held_trimming(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.bus()?, on.config);
    let now = target.redis().time().await?;
    let mut outcome = Outcome::healthy();
    if let Some(stream) = target.load().await? {
        let mut slowest: Option<(String, &GroupState)> = None;
        for group in &stream.groups {
            if let Some(oldest) = target.oldest_unfinished(&stream.key, group).await?
                && slowest.as_ref().is_none_or(|(id, _)| sort_key(&oldest) < sort_key(id))
            {
                slowest = Some((oldest, group));
            }
        }
        let Some((oldest, group)) = slowest else { return Ok(outcome) };
        let age = age_seconds(&oldest, now);
        if age <= config.held_trim.as_secs() {
            return Ok(outcome);
        }
        let found = format!(
            "the group `{}` keeps `{}` from being trimmed: it has not finished an entry that is {age} s old",
            group.name, stream.key
        );
        let consequence = "the stream grows until Redis is out of memory";
        let repair = "start the group's consumers, or find what fails there; if it is gone for good: \
                      `eventbus groups retire`";
        let observed = json!({
            "stream": stream.key, "group": group.name, "oldest": oldest, "oldest_seconds": age,
            "length": stream.length,
        });
        outcome.add(Finding::warning(found, consequence, repair).observed(observed));
    }
    Ok(outcome)
}

/// Returns the sort key of an entry's id.
fn sort_key(id: &str) -> (u64, u64) {
    let number = id.split_once('-').and_then(|(_, number)| number.parse().ok());
    (entry_ms(id), number.unwrap_or_default())
}

pub(crate) async fn check_lost_entries(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.bus()?;
    let mut outcome = Outcome::healthy();
    if let Some(stream) = target.load().await? {
        if stream.added <= stream.length {
            return Ok(outcome);
        }
        let first = target.first_entry(&stream.key, "-").await?;
        for group in &stream.groups {
            match count_lost(&stream, first.as_deref(), group) {
                Ok(0) => {}
                Ok(lost) => {
                    let found = format!(
                        "{lost} entries of `{}` were removed before the group `{}` had read them",
                        stream.key, group.name
                    );
                    let consequence = "the group has not handled these events; if they are in a store, its relay can publish \
                                       them again: `eventbus relay republish`";
                    let repair = "find what trims the stream (XTRIM, XADD with MAXLEN) and stop it; `bus.trim` waits \
                                  for the groups";
                    let observed = json!({ "stream": stream.key, "group": group.name, "lost": lost });
                    outcome.add(Finding::fault(found, consequence, repair).observed(observed));
                }
                Err(reason) => outcome.not_checked(reason),
            }
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
    let target = on.bus()?;
    // a bus of another program has a stream and no `meta`
    let stream = target.stream();
    let there: u64 = target.redis().query(cmd("EXISTS").arg((keys::meta(&stream), &stream))).await?;
    let finding = || {
        let found = format!("the server holds no bus with the prefix `{}`", target.prefix());
        let consequence = "no group and no dead letter was examined";
        let repair = "give the `stream_prefix` of the application by `--prefix`, or start the application once";
        Finding::warning(found, consequence, repair)
    };
    Ok((there == 0).then(finding).into())
}

pub(crate) async fn check_dead_letters(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.bus()?;
    let count: u64 = target.redis().query(cmd("XLEN").arg(target.dead_letters())).await?;
    let finding = || {
        let consequence =
            "their events are not handled, and later events of their aggregates were handled without them";
        let repair = "`eventbus dead-letters list`, repair the cause, then replay or discard them";
        let found = match count {
            1 => "there is 1 dead letter".to_owned(),
            _ => format!("there are {count} dead letters"),
        };
        Finding::note(found, consequence, repair).observed(json!({ "count": count }))
    };
    Ok((count > 0).then(finding).into())
}

pub(crate) async fn check_dead_letter_age(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.bus()?, on.config);
    let Some(oldest) = target.first_entry(&target.dead_letters(), "-").await? else { return Ok(Outcome::healthy()) };
    let now = target.redis().time().await?;
    Ok(compare_retention(Duration::from_secs(age_seconds(&oldest, now)), config).into())
}
