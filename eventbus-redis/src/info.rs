//! The state of the stream and its groups, as the server reports it.

use std::{collections::HashMap, time::Duration};

use eventbus::{
    Name,
    delivery::DeliveryAttempts,
    health::{GroupInfo, Health, OldestUnfinished, RunningHandler, SilentConsumer, StreamInfo},
    port::{ConsumeError, GroupProgress},
};
use redis::{RedisResult, Value};
use serde::Deserialize;

use crate::{
    command::{
        self, GroupState,
        admin::{self, ConsumerState},
    },
    entry_id::EntryId,
    error::{CommandError, boxed},
    group,
    inner::BusInner,
    keys,
    reply::parse_value,
};

/// The record that a member of a group writes about itself.
#[derive(Deserialize)]
struct MemberRecord {
    /// The time of the record, in milliseconds since 1970 by the server's clock.
    at: u64,
    /// The time for which the record is a sign of life, in milliseconds.
    live_ms: u64,
    /// Set if the member has left since.
    #[serde(default)]
    left: bool,
    /// The id of the bus object, and of the consumer within it.
    #[serde(default)]
    instance: String,
    /// The handler that had been running for long at that time, as JSON.
    busy: Option<String>,
}

impl MemberRecord {
    fn is_live(&self, now: u64) -> bool {
        !self.left && self.at.saturating_add(self.live_ms) > now
    }

    /// Returns the handler that has been running for long.
    fn to_running_handler(&self, name: &str, now: u64) -> Option<RunningHandler> {
        let mut run: RunningHandler = serde_json::from_str(self.busy.as_deref()?).ok()?;
        run.seconds = run.seconds.saturating_add(now.saturating_sub(self.at) / 1_000);
        run.consumer = Some(name.to_owned());
        Some(run)
    }
}

/// Counts the consumers that show life: the members with a recent record, and the consumers of other programs that were
/// active within `idle`.
fn count_active_consumers(
    consumers: &[ConsumerState],
    members: &HashMap<String, MemberRecord>,
    now: u64,
    idle: Duration,
) -> u64 {
    let live = members.values().filter(|member| member.is_live(now)).count();
    let is_foreign = |consumer: &&ConsumerState| !members.contains_key(consumer.name.as_str());
    let busy = consumers.iter().filter(is_foreign).filter(|consumer| consumer.idle < idle).count();
    (live + busy) as u64
}

pub(crate) async fn stream_info(bus: &BusInner) -> StreamInfo {
    load_stream_info(bus).await.unwrap_or_else(|error| {
        // metrics call this often; `connected` and the health report an outage
        tracing::debug!(stream = bus.stream(), %error, "cannot inspect the stream");
        let mut info = StreamInfo::default();
        info.stats = bus.counters().snapshot();
        info
    })
}

pub(crate) async fn health(bus: &BusInner) -> Health {
    let consuming = bus.consuming().is_running();
    bus.subscribers().report(match load_stream_info(bus).await {
        Ok(info) => {
            let mut health = Health::connected(consuming, info.pending_messages, info.dlq_messages);
            for group in info.consumer_groups {
                health.in_flight.extend(group.in_flight);
                health.silent.extend(group.silent);
                health = health.with_oldest_unfinished(group.oldest_unfinished);
            }
            health
        }
        Err(error) => Health::disconnected(consuming, error.to_string()),
    })
}

pub(crate) async fn load_stream_info(bus: &BusInner) -> Result<StreamInfo, CommandError> {
    if bus.consuming().is_closed() {
        return Err(CommandError::NotSent("the bus was disconnected".into()));
    }
    let commands = command::inspect(bus.stream(), &bus.config().dlq_stream_name());
    let replies: Vec<RedisResult<Value>> = bus.connection().query_all_idempotent(&commands).await?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
    let stream = command::parse_stream(next())?;
    let groups = command::parse_groups(next())?;

    let mut info = StreamInfo::default();
    info.connected = true;
    bus.stream().clone_into(&mut info.stream.name);
    info.stream.length = stream.length;
    info.stream.first_entry_id = stream.first_id;
    info.stream.last_entry_id = stream.last_id;
    info.dlq_messages = parse_value(next()?)?;
    info.stats = bus.counters().snapshot();
    info.consumer_groups = inspect_groups(bus, groups).await?;
    info.consumer_groups.sort_by(|a, b| a.name.cmp(&b.name));
    info.pending_messages = info.consumer_groups.iter().map(|group| group.pending).sum();
    info.active_consumers = info.consumer_groups.iter().map(|group| group.active_consumers).sum();
    Ok(info)
}

async fn inspect_groups(bus: &BusInner, groups: Vec<GroupState>) -> Result<Vec<GroupInfo>, CommandError> {
    let mut commands = admin::time();
    // our consumers renew their claims three times in that time
    let silent_ms = bus.config().pending_idle_ms / 2;
    for group in &groups {
        admin::inspect_group(&mut commands, bus.stream(), &group.name, silent_ms);
        admin::find_unread(&mut commands, bus.stream(), group);
    }
    let replies: Vec<RedisResult<Value>> = bus.connection().query_all_idempotent(&commands).await?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
    let now = admin::to_milliseconds(parse_value(next()?)?);
    let idle = Duration::from_millis(bus.config().pending_idle_ms);
    let mut described = Vec::with_capacity(groups.len());
    for group in groups {
        let consumers = admin::parse_consumers(next())?;
        let members: HashMap<String, String> = parse_value(next()?)?;
        let members: HashMap<String, MemberRecord> =
            members.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?))).collect();
        let pending = admin::parse_pending(next())?;
        let silent = admin::parse_pending(next())?;
        let unread = admin::parse_unread(next())?;
        let mut info = GroupInfo::new(group.name, group.consumers, group.pending);
        info.active_consumers = count_active_consumers(&consumers, &members, now, idle);
        info.last_delivered_id = Some(group.last_delivered);
        // the server counts entries that were removed before the group read them
        info.lag = if unread.is_none() { Some(0) } else { group.lag };
        info.oldest_unread_age_ms = Some(unread.map_or(0, |id| now.saturating_sub(id.ms)));
        let oldest: Option<EntryId> = pending.first().and_then(|(id, ..)| id.parse().ok());
        info.oldest_pending_id = oldest.map(|id| id.to_string());
        info.oldest_pending_age_ms = oldest.map(|id| now.saturating_sub(id.ms));
        info.oldest_unfinished = find_oldest_unfinished(bus, &info, pending, &members, now).await?;
        let others = members.iter().filter(|(_, member)| member.is_live(now) && member.instance != bus.instance());
        info.in_flight = others.filter_map(|(name, member)| member.to_running_handler(name, now)).collect();
        info.in_flight.sort_by(|a, b| a.consumer.cmp(&b.consumer));
        // a member may be configured to renew its claims less often than this bus
        let is_live = |consumer: &str| members.get(consumer).is_some_and(|member| member.is_live(now));
        let mut silent = silent.into_iter().filter(|(_, consumer, _)| !is_live(consumer));
        let silent = silent.next();
        info.silent = silent.map(|(entry_id, consumer, idle)| SilentConsumer {
            consumer,
            group: info.name.clone(),
            entry_id,
            seconds: idle / 1_000,
        });
        described.push(info);
    }
    Ok(described)
}

/// Returns the entry, among the oldest pending ones of a group, whose first failure is the longest ago. An entry
/// without a failure counts from its publishing, unless a live consumer of ours is about to handle it.
async fn find_oldest_unfinished(
    bus: &BusInner,
    group: &GroupInfo,
    pending: Vec<(String, String, u64)>,
    members: &HashMap<String, MemberRecord>,
    now: u64,
) -> Result<Option<OldestUnfinished>, CommandError> {
    if pending.is_empty() {
        return Ok(None);
    }
    let retry = keys::retry(bus.stream(), &bus.config().retry_key_prefix, &group.name);
    let query = admin::load_attempts(&retry, pending.iter().map(|(id, ..)| id.as_str()));
    let attempts_json: Vec<Option<String>> = bus.connection().query_idempotent(&query).await?;
    let local_now = bus.config().clock.unix_millis();
    let has_owner = |consumer: &str| members.get(consumer).is_some_and(|member| member.is_live(now));
    let since = |((id, consumer, _), json): (&(String, String, u64), Option<String>)| {
        let attempts = json.and_then(|noted| DeliveryAttempts::from_json(&noted).ok());
        if attempts.is_none() && has_owner(consumer) {
            return None;
        }
        let id: EntryId = id.parse().ok()?;
        let published = local_now.saturating_sub(now.saturating_sub(id.ms));
        let attempts = attempts.unwrap_or_default();
        Some((attempts.first_failed_at.unwrap_or(published), attempts.handlers()))
    };
    let oldest = pending.iter().zip(attempts_json).filter_map(since).min();
    Ok(oldest.map(|(since, handlers)| {
        OldestUnfinished::new(&group.name, &handlers, since, group.pending, &bus.config().clock)
    }))
}

pub(crate) async fn progress(bus: &BusInner, group: &Name) -> Result<GroupProgress, ConsumeError> {
    bus.ensure_consuming()?;
    load_progress(bus, group).await.map_err(|error| bus.unavailable(boxed(error)))
}

async fn load_progress(bus: &BusInner, group: &Name) -> Result<GroupProgress, CommandError> {
    let commands = command::inspect_groups(bus.stream());
    let replies: Vec<RedisResult<Value>> = bus.connection().query_all_idempotent(&commands).await?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
    let groups = command::parse_groups(next())?;
    let length = parse_value(next()?)?;
    let Some(found) = groups.into_iter().find(|found| *group == found.name.as_str()) else {
        // a group that does not exist yet begins with the oldest entry
        return Ok(GroupProgress { unread: length, ..GroupProgress::default() });
    };
    let unread = match found.lag {
        // the server counts entries that were removed before the group read them
        Some(lag) if lag > 0 && group::has_after(bus, &found.last_delivered).await? => lag,
        Some(_) => 0,
        // the server has lost count
        None => group::count_after(bus, &found.last_delivered).await?,
    };
    let exhausted = count_exhausted(bus, group).await?.min(found.pending);
    // after the server's replies: it writes a disposition before this process counts it and releases the entry
    let in_flight = bus.subscribers().in_flight().get(group).map_or(0, |counts| counts.entries);
    Ok(GroupProgress { unread: unread.min(length), pending: found.pending.max(in_flight), exhausted, is_paused: false })
}

/// Counts the entries that used up their attempts and stay pending.
async fn count_exhausted(bus: &BusInner, group: &Name) -> Result<u64, CommandError> {
    if bus.config().enable_dlq {
        return Ok(0);
    }
    group::count_exhausted(bus, group).await
}
