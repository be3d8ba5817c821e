//! The state of the stream and its groups, as the server reports it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use eventbus::{
    Name,
    delivery::DeliveryAttempts,
    health::{GroupInfo, Health, OldestUnfinished, RunningHandler, SilentConsumer, StreamInfo},
    port::{ConsumeError, GroupProgress},
};
use redis::{RedisResult, Value};
use serde::Deserialize;

use crate::{
    backlog::{self, BacklogState},
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
    let is_foreign = |consumer: &&ConsumerState| {
        !members.contains_key(consumer.name.as_str()) && consumer.name != keys::ABSENT_CONSUMER
    };
    let busy = consumers.iter().filter(is_foreign).filter(|consumer| consumer.idle < idle).count();
    (live + busy) as u64
}

/// Adds the state of a partition to that of the bus.
fn merge_partition(all: &mut StreamInfo, part: StreamInfo) {
    all.connected = part.connected;
    all.dlq_messages = part.dlq_messages;
    let (stream, other) = (&mut all.stream, part.stream);
    stream.length += other.length;
    stream.first_entry_id = older(stream.first_entry_id.take(), other.first_entry_id);
    stream.last_entry_id = newer(stream.last_entry_id.take(), other.last_entry_id);
    for mut other in part.consumer_groups {
        match all.consumer_groups.iter_mut().find(|group| group.name == other.name) {
            Some(group) => {
                // each partition has the same members
                group.in_flight = std::mem::take(&mut other.in_flight);
                merge_group(group, other);
            }
            None => all.consumer_groups.push(other),
        }
    }
}

/// Adds the state of a group in a partition, or in its backlog, to its state in the others, without the running
/// handlers.
fn merge_group(group: &mut GroupInfo, other: GroupInfo) {
    group.consumers = group.consumers.max(other.consumers);
    group.active_consumers = group.active_consumers.max(other.active_consumers);
    group.pending += other.pending;
    group.lag = group.lag.zip(other.lag).map(|(a, b)| a + b);
    group.oldest_unread_age_ms = group.oldest_unread_age_ms.max(other.oldest_unread_age_ms);
    group.last_delivered_id = newer(group.last_delivered_id.take(), other.last_delivered_id);
    group.oldest_pending_id = older(group.oldest_pending_id.take(), other.oldest_pending_id);
    group.oldest_pending_age_ms = group.oldest_pending_age_ms.max(other.oldest_pending_age_ms);
    group.silent = group.silent.take().or(other.silent);
    let age = |oldest: &Option<OldestUnfinished>| oldest.as_ref().map(|oldest| oldest.seconds);
    if age(&other.oldest_unfinished) > age(&group.oldest_unfinished) {
        group.oldest_unfinished = other.oldest_unfinished;
    }
    if let Some(oldest) = &mut group.oldest_unfinished {
        oldest.unfinished = group.pending;
    }
}

fn parse_id(id: &Option<String>) -> Option<EntryId> {
    id.as_ref().and_then(|id| id.parse().ok())
}

fn older(a: Option<String>, b: Option<String>) -> Option<String> {
    match parse_id(&a).is_none() || parse_id(&b).is_some_and(|b| Some(b) < parse_id(&a)) {
        true => b,
        false => a,
    }
}

fn newer(a: Option<String>, b: Option<String>) -> Option<String> {
    if parse_id(&b) > parse_id(&a) { b } else { a }
}

/// Returns `true` if a consumer is of this bus: if it has several, a number follows the bus's id.
fn is_own_instance(bus: &BusInner, instance: &str) -> bool {
    let rest = instance.strip_prefix(bus.instance());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
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
    let (mut all, mut backlogs, mut joined) = (StreamInfo::default(), OpenBacklogs::default(), BTreeSet::new());
    for part in bus.partitions_or_self() {
        let inspected = inspect_stream(part).await?;
        merge_partition(&mut all, inspected.info);
        backlogs.add(&inspected.fills);
        joined.extend(inspected.joined);
    }
    if !joined.is_empty() {
        // all handlers may name a different group: then the default group of the bus would be behind for ever
        all.consumer_groups.retain(|group| joined.contains(&group.name));
    }
    for (name, is_filling) in backlogs.0 {
        let Some(group) = all.consumer_groups.iter_mut().find(|group| group.name == name) else {
            continue;
        };
        let Ok(name) = Name::new("group", name) else {
            continue; // a group of another program: it has no backlog
        };
        let backlog = inspect_stream(&bus.for_backlog(&name)).await?;
        for mut of_backlog in backlog.info.consumer_groups {
            // a consumer that also reads the stream reports its runs in both
            of_backlog.in_flight.retain(|run| group.in_flight.iter().all(|known| known.consumer != run.consumer));
            group.in_flight.append(&mut of_backlog.in_flight);
            of_backlog.last_delivered_id = None; // an id of another stream
            merge_group(group, of_backlog);
        }
        if is_filling {
            group.lag = None; // the store, or the stream, has further events for it, which are not counted
        }
    }
    all.stats = bus.counters().snapshot();
    all.stream.name = bus.stream().to_owned();
    all.consumer_groups.sort_by(|a, b| a.name.cmp(&b.name));
    all.pending_messages = all.consumer_groups.iter().map(|group| group.pending).sum();
    all.active_consumers = all.consumer_groups.iter().map(|group| group.active_consumers).sum();
    Ok(all)
}

/// The groups with an unfinished backlog; `true` for a group whose backlog is still being filled.
#[derive(Debug, Default)]
struct OpenBacklogs(BTreeMap<String, bool>);

impl OpenBacklogs {
    /// Adds those of a stream, given the fields of its fills, see `backlog.lua`.
    fn add(&mut self, fills: &HashMap<String, String>) {
        for field in fills.keys() {
            let found = match field.split_once(' ') {
                Some(("open", group)) => Some((group, false)),
                Some(("copy", rest)) => rest.split_once('\n').map(|(group, _)| (group, true)),
                Some(("fill", rest)) => {
                    let of_group = rest.split_once(' ').and_then(|(_, rest)| rest.split_once('\n'));
                    of_group.map(|(group, _)| (group, true))
                }
                _ => None,
            };
            if let Some((group, is_filling)) = found {
                *self.0.entry(group.to_owned()).or_default() |= is_filling;
            }
        }
    }
}

/// The state of the stream, of a partition or of a backlog.
struct InspectedStream {
    info: StreamInfo,
    /// The fields of its fills.
    fills: HashMap<String, String>,
    /// The groups that count, see [`is_joined`].
    joined: Vec<String>,
}

/// Returns `true` if a group counts: every one does, unless a bus created it while it connected and no consumer joined
/// it. The scripts of trimming have the same rule.
fn is_joined(group: &GroupState, unjoined: &HashMap<String, String>) -> bool {
    group.has_begun() || !unjoined.contains_key(&group.name)
}

async fn inspect_stream(bus: &BusInner) -> Result<InspectedStream, CommandError> {
    let dead_letters = bus.config().dlq_stream_name();
    let commands = command::inspect(bus.stream(), &dead_letters);
    let replies: Vec<RedisResult<Value>> = bus.connection().query_all_idempotent(&commands).await?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
    let stream = command::parse_stream(next())?;
    let groups = command::parse_groups(next())?;

    let mut info = StreamInfo::default();
    info.connected = true;
    info.stream.length = stream.length;
    info.stream.first_entry_id = stream.first_id;
    info.stream.last_entry_id = stream.last_id;
    info.dlq_messages = parse_value(next()?)?;
    let fills = parse_value(next()?)?;
    let unjoined: HashMap<String, String> = parse_value(next()?)?;
    let joined = groups.iter().filter(|group| is_joined(group, &unjoined)).map(|group| group.name.clone()).collect();
    info.consumer_groups = inspect_groups(bus, groups).await?;
    Ok(InspectedStream { info, fills, joined })
}

async fn inspect_groups(bus: &BusInner, groups: Vec<GroupState>) -> Result<Vec<GroupInfo>, CommandError> {
    let mut commands = admin::time();
    // our consumers renew their claims three times in that time
    let silent_ms = bus.config().pending_idle_ms / 2;
    for group in &groups {
        admin::inspect_group(&mut commands, bus.stream(), bus.base_stream(), &group.name, silent_ms);
        admin::find_unread(&mut commands, bus.stream(), group);
    }
    let replies: Vec<RedisResult<Value>> = bus.connection().query_all_idempotent(&commands).await?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
    let now = admin::to_milliseconds(parse_value(next()?)?);
    let idle = Duration::from_millis(bus.config().pending_idle_ms);
    let mut described = Vec::with_capacity(groups.len());
    for group in groups {
        let mut consumers = admin::parse_consumers(next())?;
        let members: HashMap<String, String> = parse_value(next()?)?;
        let members: HashMap<String, MemberRecord> =
            members.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?))).collect();
        let pending = admin::parse_pending(next())?;
        let silent = admin::parse_pending(next())?;
        let unread = admin::parse_unread(next())?;
        let mut info = GroupInfo::new(group.name, group.consumers, group.pending);
        if bus.is_partition() {
            // all owners of a partition have the same consumer name
            consumers.clear();
            info.consumers = members.len() as u64;
        }
        info.active_consumers = count_active_consumers(&consumers, &members, now, idle);
        info.last_delivered_id = Some(group.last_delivered);
        // the server counts entries that were removed before the group read them
        info.lag = if unread.is_none() { Some(0) } else { group.lag };
        info.oldest_unread_age_ms = Some(unread.map_or(0, |id| now.saturating_sub(id.ms)));
        let oldest: Option<EntryId> = pending.first().and_then(|(id, ..)| id.parse().ok());
        info.oldest_pending_id = oldest.map(|id| id.to_string());
        info.oldest_pending_age_ms = oldest.map(|id| now.saturating_sub(id.ms));
        info.oldest_unfinished = find_oldest_unfinished(bus, &info, pending, &members, now).await?;
        let others =
            members.iter().filter(|(_, member)| member.is_live(now) && !is_own_instance(bus, &member.instance));
        info.in_flight = others.filter_map(|(name, member)| member.to_running_handler(name, now)).collect();
        info.in_flight.sort_by(|a, b| a.consumer.cmp(&b.consumer));
        // the lease of a partition shows that its owner is alive, and entries for absent members wait on purpose; a
        // member may be configured to renew its claims less often than this bus
        let is_live = |consumer: &str| members.get(consumer).is_some_and(|member| member.is_live(now));
        let is_silent = |consumer: &str| !consumer.starts_with(keys::ABSENT_CONSUMER) && !is_live(consumer);
        let mut silent = silent.into_iter().filter(|(_, consumer, _)| is_silent(consumer));
        let silent = silent.next().filter(|_| !bus.is_partition());
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
    let has_owner = |consumer: &str| match bus.is_partition() {
        true => members.values().any(|member| member.is_live(now)),
        false => members.get(consumer).is_some_and(|member| member.is_live(now)),
    };
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
    let asking = async {
        let mut all = GroupProgress::default();
        for part in bus.partitions_or_self() {
            let part = load_progress(part, group).await?;
            all.unread += part.unread;
            all.pending += part.pending;
            all.exhausted += part.exhausted;
        }
        let backlog = backlog_progress(bus, group).await?;
        all.unread += backlog.unread;
        all.pending += backlog.pending;
        all.exhausted += backlog.exhausted;
        Ok(all)
    };
    let progress = asking.await;
    // waits until dead letters that are no longer pending are counted
    bus.dead_letter_gate().wait_for_writers().await;
    progress.map_err(|error| bus.unavailable(boxed(error)))
}

pub(crate) async fn load_progress(bus: &BusInner, group: &Name) -> Result<GroupProgress, CommandError> {
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
    Ok(GroupProgress {
        unread: unread.min(length),
        pending: found.pending,
        exhausted: count_exhausted(bus, group).await?.min(found.pending),
    })
}

/// Counts the entries that used up their attempts and stay pending.
async fn count_exhausted(bus: &BusInner, group: &Name) -> Result<u64, CommandError> {
    if bus.config().enable_dlq {
        return Ok(0);
    }
    group::count_staying(bus, bus.stream(), group, true, u64::MAX).await
}

/// Returns the progress of a group in its backlog.
async fn backlog_progress(bus: &BusInner, group: &Name) -> Result<GroupProgress, CommandError> {
    match backlog::inspect_backlog(bus, group).await? {
        BacklogState::None | BacklogState::Finished => Ok(GroupProgress::default()),
        BacklogState::Unfinished { .. } => {
            let backlog = bus.for_backlog(group);
            let mut progress = load_progress(&backlog, group).await?;
            // the fill may not have begun, so an empty backlog is not a finished one
            progress.unread = progress.unread.max(u64::from(progress.pending == 0));
            Ok(progress)
        }
    }
}
