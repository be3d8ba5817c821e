//! What the server says about the stream and its groups.

use std::{collections::HashMap, time::Duration};

use eventbus::{
    Name,
    port::{
        ConsumeError, GroupInfo, GroupProgress, Health, InFlight, OldestUnfinished, SilentConsumer, StreamInfo, Tries,
    },
};
use redis::{RedisError, RedisResult, Value};
use serde::Deserialize;

use crate::{
    bus::Shared,
    command::{
        self, Group,
        operate::{self, Consumer},
    },
    connection::{CommandError, boxed},
    entry_id::EntryId,
    keys, script,
};

/// What a consumer says of itself.
#[derive(Deserialize)]
struct Member {
    /// When it said so, in milliseconds since 1970 by the server's clock.
    at: u64,
    /// How long it is to be believed, in milliseconds.
    live_ms: u64,
    /// Whether it has ended since.
    #[serde(default)]
    left: bool,
    /// What tells it from others.
    #[serde(default)]
    instance: String,
    /// What it was busy with for long when it said so, as JSON.
    busy: Option<String>,
}

impl Member {
    fn is_live(&self, now: u64) -> bool {
        !self.left && self.at.saturating_add(self.live_ms) > now
    }

    /// What it has been busy with for long.
    fn in_flight(&self, name: &str, now: u64) -> Option<InFlight> {
        let mut run: InFlight = serde_json::from_str(self.busy.as_deref()?).ok()?;
        run.seconds = run.seconds.saturating_add(now.saturating_sub(self.at) / 1_000);
        run.consumer = Some(name.to_owned());
        Some(run)
    }
}

/// How many consumers show life: the members that said so not long ago, and those of other programs that were busy not
/// long ago.
fn active(consumers: &[Consumer], members: &HashMap<String, Member>, now: u64, idle: Duration) -> u64 {
    let live = members.values().filter(|member| member.is_live(now)).count();
    let is_foreign =
        |consumer: &&Consumer| !members.contains_key(consumer.name.as_str()) && consumer.name != keys::ABSENT;
    let busy = consumers.iter().filter(is_foreign).filter(|consumer| consumer.idle < idle).count();
    (live + busy) as u64
}

/// Adds what there is to know about a partition.
fn add(all: &mut StreamInfo, part: StreamInfo) {
    let id = |id: &Option<String>| id.as_ref().and_then(|id| id.parse::<EntryId>().ok());
    let older =
        |a: Option<String>, b: Option<String>| match id(&a).is_none() || id(&b).is_some_and(|b| Some(b) < id(&a)) {
            true => b,
            false => a,
        };
    let newer = |a: Option<String>, b: Option<String>| if id(&b) > id(&a) { b } else { a };
    all.connected = part.connected;
    all.dlq_messages = part.dlq_messages;
    let (stream, other) = (&mut all.stream, part.stream);
    stream.length += other.length;
    stream.first_entry_id = older(stream.first_entry_id.take(), other.first_entry_id);
    stream.last_entry_id = newer(stream.last_entry_id.take(), other.last_entry_id);
    for other in part.consumer_groups {
        let Some(group) = all.consumer_groups.iter_mut().find(|group| group.name == other.name) else {
            all.consumer_groups.push(other);
            continue;
        };
        group.consumers = group.consumers.max(other.consumers);
        group.active_consumers = group.active_consumers.max(other.active_consumers);
        group.pending += other.pending;
        group.lag = group.lag.zip(other.lag).map(|(a, b)| a + b);
        group.last_delivered_id = newer(group.last_delivered_id.take(), other.last_delivered_id);
        group.oldest_pending_id = older(group.oldest_pending_id.take(), other.oldest_pending_id);
        group.oldest_pending_age_ms = group.oldest_pending_age_ms.max(other.oldest_pending_age_ms);
        // each partition knows the same members
        group.in_flight = other.in_flight;
        group.silent = group.silent.take().or(other.silent);
        let age = |oldest: &Option<OldestUnfinished>| oldest.as_ref().map(|oldest| oldest.seconds);
        if age(&other.oldest_unfinished) > age(&group.oldest_unfinished) {
            group.oldest_unfinished = other.oldest_unfinished;
        }
        if let Some(oldest) = &mut group.oldest_unfinished {
            oldest.unfinished = group.pending;
        }
    }
}

impl Shared {
    /// Whether a consumer is of this bus: where it has several, each has a number behind its name.
    fn is_instance(&self, instance: &str) -> bool {
        let rest = instance.strip_prefix(self.instance.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    pub(crate) async fn stream_info(&self) -> StreamInfo {
        let mut info = self.ask_open().await.unwrap_or_else(|error| {
            tracing::warn!(stream = self.stream, %error, "stream cannot be inspected");
            StreamInfo::default()
        });
        info.stats = self.counters.snapshot();
        info
    }

    pub(crate) async fn health(&self) -> Health {
        let consuming = self.consuming.is_running();
        self.subscribers.report(match self.ask_open().await {
            Ok(info) => {
                let (mut runs, mut silent, mut oldest) = (Vec::new(), Vec::new(), Vec::new());
                for group in info.consumer_groups {
                    runs.extend(group.in_flight);
                    silent.extend(group.silent);
                    oldest.extend(group.oldest_unfinished);
                }
                Health::connected(consuming, info.pending_messages, info.dlq_messages)
                    .with_in_flight(runs)
                    .with_silent(silent)
                    .with_oldest_unfinished(oldest)
            }
            Err(error) => Health::disconnected(consuming, error.to_string()),
        })
    }

    async fn ask_open(&self) -> Result<StreamInfo, CommandError> {
        if self.consuming.is_closed() {
            return Err(CommandError::NotSent("the bus was disconnected".into()));
        }
        let mut all = StreamInfo::default();
        for part in self.parts() {
            add(&mut all, part.ask().await?);
        }
        all.stream.name.clone_from(&self.stream);
        all.consumer_groups.sort_by(|a, b| a.name.cmp(&b.name));
        all.pending_messages = all.consumer_groups.iter().map(|group| group.pending).sum();
        all.active_consumers = all.consumer_groups.iter().map(|group| group.active_consumers).sum();
        Ok(all)
    }

    async fn ask(&self) -> Result<StreamInfo, CommandError> {
        let dead_letters = self.config.dlq_stream_name();
        let commands = command::inspect(&self.stream, &dead_letters);
        let replies: Vec<RedisResult<Value>> = self.link.query_all(&commands).await?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
        let stream = command::stream(next())?;
        let groups = command::groups(next())?;

        let mut info = StreamInfo::default();
        info.connected = true;
        info.stream.length = stream.length;
        info.stream.first_entry_id = stream.first_id;
        info.stream.last_entry_id = stream.last_id;
        info.dlq_messages = redis::from_redis_value(next()?).map_err(RedisError::from)?;
        info.consumer_groups = self.ask_groups(groups).await?;
        Ok(info)
    }

    async fn ask_groups(&self, groups: Vec<Group>) -> Result<Vec<GroupInfo>, CommandError> {
        let mut commands = operate::time();
        // a consumer of ours renews its claims three times in that time
        let silent_ms = self.config.pending_idle_ms / 2;
        for group in &groups {
            operate::inspect_group(&mut commands, &self.stream, &self.home, &group.name, silent_ms);
        }
        let replies: Vec<RedisResult<Value>> = self.link.query_all(&commands).await?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
        let now = operate::milliseconds(redis::from_redis_value(next()?).map_err(RedisError::from)?);
        let idle = Duration::from_millis(self.config.pending_idle_ms);
        let mut described = Vec::with_capacity(groups.len());
        for group in groups {
            let mut consumers = operate::consumers(next())?;
            let members: HashMap<String, String> = redis::from_redis_value(next()?).map_err(RedisError::from)?;
            let members: HashMap<String, Member> = members
                .into_iter()
                .filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?)))
                .collect();
            let pending = operate::pending(next())?;
            let silent = operate::pending(next())?;
            let mut info = GroupInfo::new(group.name, group.consumers, group.pending);
            if self.is_partition() {
                consumers.clear(); // whoever owns the partition has the same name there
                info.consumers = members.len() as u64;
            }
            info.active_consumers = active(&consumers, &members, now, idle);
            info.last_delivered_id = Some(group.last_delivered);
            info.lag = group.lag;
            let oldest: Option<EntryId> = pending.first().and_then(|(id, ..)| id.parse().ok());
            info.oldest_pending_id = oldest.map(|id| id.to_string());
            info.oldest_pending_age_ms = oldest.map(|id| now.saturating_sub(id.ms));
            info.oldest_unfinished = self.oldest_unfinished(&info, pending, &members, now).await?;
            let others =
                members.iter().filter(|(_, member)| member.is_live(now) && !self.is_instance(&member.instance));
            info.in_flight = others.filter_map(|(name, member)| member.in_flight(name, now)).collect();
            info.in_flight.sort_by(|a, b| a.consumer.cmp(&b.consumer));
            // the owner of a partition shows life by its lease, and what is left to absent members is to wait
            let mut silent = silent.into_iter().filter(|(_, consumer, _)| !consumer.starts_with(keys::ABSENT));
            let silent = silent.next().filter(|_| !self.is_partition());
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

    /// Of the oldest pending entries of a group, the one that has been unfinished for longest since a handler failed. What
    /// has not failed counts since it was published, unless a live consumer of ours has it: it is about to be handled.
    async fn oldest_unfinished(
        &self,
        group: &GroupInfo,
        pending: Vec<(String, String, u64)>,
        members: &HashMap<String, Member>,
        now: u64,
    ) -> Result<Option<OldestUnfinished>, CommandError> {
        if pending.is_empty() {
            return Ok(None);
        }
        let retry = keys::retry(&self.stream, &self.config.retry_key_prefix, &group.name);
        let noted = operate::noted(&retry, pending.iter().map(|(id, ..)| id.as_str()));
        let noted: Vec<Option<String>> = self.link.query(&noted).await?;
        let by_our_clock = self.config.clock.unix_millis();
        let has_owner = |consumer: &str| match self.is_partition() {
            true => members.values().any(|member| member.is_live(now)),
            false => members.get(consumer).is_some_and(|member| member.is_live(now)),
        };
        let since = |((id, consumer, _), noted): (&(String, String, u64), Option<String>)| {
            let tries = noted.and_then(|noted| Tries::from_json(&noted).ok());
            if tries.is_none() && has_owner(consumer) {
                return None;
            }
            let id: EntryId = id.parse().ok()?;
            let published = by_our_clock.saturating_sub(now.saturating_sub(id.ms));
            let tries = tries.unwrap_or_default();
            Some((tries.first_failed_at.unwrap_or(published), tries.handlers()))
        };
        let oldest = pending.iter().zip(noted).filter_map(since).min();
        Ok(oldest.map(|(since, handlers)| {
            OldestUnfinished::new(&group.name, &handlers, since, group.pending, &self.config.clock)
        }))
    }

    pub(crate) async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        let destination = || self.destination.clone();
        if self.consuming.is_closed() {
            return Err(ConsumeError::ShutDown { destination: destination() });
        }
        let asking = async {
            let mut all = GroupProgress::default();
            for part in self.parts() {
                let part = part.ask_progress(group).await?;
                all.unread += part.unread;
                all.pending += part.pending;
                all.exhausted += part.exhausted;
            }
            let backlog = self.backlog_progress(group).await?;
            all.unread += backlog.unread;
            all.pending += backlog.pending;
            all.exhausted += backlog.exhausted;
            Ok(all)
        };
        let progress = asking.await;
        drop(self.burying.write().await); // what it says is counted
        progress.map_err(|error| ConsumeError::Unavailable { destination: destination(), source: boxed(error) })
    }

    pub(crate) async fn ask_progress(&self, group: &Name) -> Result<GroupProgress, CommandError> {
        let commands = command::inspect_groups(&self.stream);
        let replies: Vec<RedisResult<Value>> = self.link.query_all(&commands).await?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
        let groups = command::groups(next())?;
        let length = redis::from_redis_value(next()?).map_err(RedisError::from)?;
        let Some(found) = groups.into_iter().find(|found| *group == found.name.as_str()) else {
            // it would begin with the oldest entry
            return Ok(GroupProgress { unread: length, ..GroupProgress::default() });
        };
        Ok(GroupProgress {
            unread: self.unread(&found).await?.min(length),
            pending: found.pending,
            exhausted: self.exhausted(group).await?.min(found.pending),
        })
    }

    /// How many entries used up their attempts and are to stay pending.
    async fn exhausted(&self, group: &Name) -> Result<u64, CommandError> {
        if self.config.enable_dlq {
            return Ok(0);
        }
        let mut count = script::EXHAUSTED.key(keys::retry(&self.stream, &self.config.retry_key_prefix, group));
        self.link.rerun(count.key(&self.stream).arg(group.as_str())).await
    }

    /// Where the server does not know how many entries are unread, they are counted, a thousand at a time.
    async fn unread(&self, group: &Group) -> Result<u64, CommandError> {
        match group.lag {
            Some(lag) => Ok(lag),
            None => self.count_after(&group.last_delivered).await,
        }
    }

    pub(crate) async fn count_after(&self, id: &str) -> Result<u64, CommandError> {
        let (mut unread, mut after) = (0, id.to_owned());
        loop {
            let count = command::count_after(&self.stream, &after);
            let (found, last): (u64, String) = self.link.query(&count).await?;
            unread += found;
            if found == 0 {
                return Ok(unread);
            }
            after = last;
        }
    }
}
