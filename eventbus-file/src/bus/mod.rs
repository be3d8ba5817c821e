//! The queue as a bus: every consumer group gets every event.
//!
//! Invariant: one worker at a time consumes for a group, so the order of an aggregate's events holds over all workers.
//! Once a second worker has taken the group over, writes of the first have no effect.

mod consumer;
mod dead_letters;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    Name, RecordedEvent,
    health::{BusStats, GroupInfo, Health, InFlightCounts, StreamInfo},
    port::{
        Announced, ConsumeError, DeadLetters, EventBus, EventStore, GroupProgress, MessageId, PublishError,
        RelayTarget, ShutdownError, SkippedBefore, Subscriber, SubscriberStatus, Subscription,
    },
    support::check_records,
};

use crate::{
    FileQueue,
    claim_store::Claim,
    error::{FileQueueError, Result},
    event::message_id,
    group_store::LoadedGroup,
    inner::QueueInner,
    publish::{self, PublishFailure},
};

#[async_trait]
impl EventBus for FileQueue {
    fn destination(&self) -> &Name {
        self.inner().name()
    }

    fn describe(&self) -> String {
        format!("FileQueue {}", self.inner().config().root_dir.display())
    }

    fn default_group(&self) -> &Name {
        &self.inner().config().default_group
    }

    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        check_records(self.destination(), events)?;
        let published = publish::publish(self.inner(), events.to_vec()).await;
        let published = published.map_err(|stopped| publish_error(self.inner().name(), stopped))?;
        self.inner().counters().events_published(published.len() as u64);
        Ok(published.iter().map(|event| message_id(event.id())).collect())
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        Some(self)
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    /// Returns the event types that are undecided, and writes none: only the worker that consumes for a group writes
    /// its progress, so this worker records the types of its handlers once it consumes.
    async fn announce(
        &self,
        announced: &[Announced],
        _store: Option<&dyn EventStore>,
    ) -> Result<Vec<SkippedBefore>, ConsumeError> {
        let (within, clock) = (self.inner().config().deliver_skipped_within, &self.inner().config().clock);
        let mut older = Vec::new();
        for of_group in announced.chunk_by(|one, next| one.group == next.group) {
            let group = of_group[0].group.clone();
            let key = group.clone();
            let found = self.inner().blocking(move |queue| queue.groups().load_group(&key)).await;
            let destination = self.inner().name().clone();
            let (_, progress) =
                found.map_err(|error| ConsumeError::Unavailable { destination, source: error.into() })?;
            // the consumer records the types once it owns the group
            let undecided = progress.types.undecided(of_group, within, clock.unix_millis());
            older.extend(undecided.into_iter().map(|(name, range)| range.skipped_before(&group, name, clock)));
        }
        Ok(older)
    }

    fn add_subscriber(&self, group: Name, subscriber: Subscriber) -> Subscription {
        self.inner().subscribers().add(group, subscriber)
    }

    fn subscribers(&self) -> Vec<Arc<dyn SubscriberStatus>> {
        self.inner().subscribers().list()
    }

    fn report(&self, health: Health) -> Health {
        self.inner().subscribers().report(health)
    }

    fn in_flight(&self) -> BTreeMap<Name, InFlightCounts> {
        self.inner().subscribers().in_flight()
    }

    async fn start_consuming(&self) -> Result<(), ConsumeError> {
        let queue = self.inner();
        let consume = |group, stop| consumer::consume(Arc::clone(queue), group, stop);
        queue.consuming().run(queue.name(), queue.subscribers(), consume).await
    }

    async fn stop_consuming(&self) {
        self.inner().consuming().stop().await;
    }

    fn is_consuming(&self) -> bool {
        self.inner().consuming().is_running()
    }

    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.inner().consuming().close();
        self.inner().change_signal().send_replace(());
        self.inner().consuming().shutdown(self.inner().subscribers(), "file queue", timeout).await
    }

    fn stats(&self) -> BusStats {
        self.inner().counters().snapshot()
    }

    async fn stream_info(&self) -> StreamInfo {
        let mut info = match self.inner().consuming().is_closed() {
            true => StreamInfo::default(),
            false => self.inner().blocking(load_stream_info).await.unwrap_or_else(|error| {
                tracing::warn!(queue = %self.inner().name(), error = error.log(), "the queue cannot be described");
                StreamInfo::default()
            }),
        };
        info.stats = self.stats();
        info.stream.name = self.inner().name().to_string();
        info
    }

    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        let key = group.clone();
        let progress = self.inner().blocking(move |queue| load_progress(queue, &key)).await;
        let destination = self.inner().name().clone();
        progress.map_err(|error| ConsumeError::Unavailable { destination, source: error.into() })
    }
}

pub(crate) fn publish_error(
    name: &Name,
    PublishFailure { is_partial: in_part, error }: PublishFailure,
) -> PublishError {
    let destination = name.clone();
    match error {
        FileQueueError::ShutDown => PublishError::ShutDown { destination },
        error if in_part => PublishError::OutcomeUnknown { destination, source: error.into() },
        FileQueueError::Io { .. } | FileQueueError::RuntimeEnded => {
            PublishError::Unavailable { destination, source: error.into() }
        }
        error => {
            let event_id = match &error {
                FileQueueError::Unwritable { event_id, .. } => Some(*event_id),
                FileQueueError::TooLarge { event_id, .. } => *event_id,
                _ => None,
            };
            PublishError::Refused { destination, event_id, source: error.into() }
        }
    }
}

fn load_progress(queue: &QueueInner, group: &Name) -> Result<GroupProgress> {
    let (_, progress) = queue.groups().load_group(group)?;
    let unread = progress.count_unread(queue.log().head()?, queue.log().removed_through()?);
    let pending = progress.count_pending() + queue.dead_letters().list_replays(group)?.len() as u64;
    Ok(GroupProgress { unread, pending, exhausted: 0 })
}

/// Describes the queue from its oldest and newest ids and the files of its groups; gaps and missing ids between the two
/// count as entries. It lists only the first and the last of the folders of events, so that the answer for a long queue
/// does not come too late for the caller.
fn load_stream_info(queue: &QueueInner) -> Result<StreamInfo> {
    let mut info = StreamInfo::default();
    let (head, removed_through) = (queue.log().head()?, queue.log().removed_through()?);
    if let Some(first) = queue.log().ids_from(1)?.next().transpose()? {
        info.stream.first_entry_id = Some(first.to_string());
        let last = head.max(first); // it may have been published since
        info.stream.last_entry_id = Some(last.to_string());
        info.stream.length = last - first + 1;
    }
    info.dlq_messages = queue.dead_letters().list_dead_letter_stems()?.len() as u64;
    let describe = |group: &Name, loaded: Result<LoadedGroup>| {
        let described = loaded.and_then(|loaded| describe_group(queue, group, &loaded, head, removed_through));
        described.unwrap_or_else(|error| {
            tracing::warn!(%group, error = error.log(), "the progress of a group cannot be read");
            GroupInfo::new(group.to_string(), 0, 0) // the number of unread events is unknown
        })
    };
    let mut groups = BTreeMap::new();
    for (group, loaded) in queue.groups().load_groups()? {
        let described = describe(&group, loaded);
        groups.insert(group, described);
    }
    info.connected = true;
    let default = &queue.config().default_group;
    groups.entry(default.clone()).or_insert_with(|| describe(default, queue.groups().load_group(default)));
    for described in groups.into_values() {
        info.pending_messages += described.pending;
        info.active_consumers += described.active_consumers;
        info.consumer_groups.push(described);
    }
    Ok(info)
}

fn describe_group(
    queue: &QueueInner,
    group: &Name,
    (owner, progress): &LoadedGroup,
    head: u64,
    removed_through: u64,
) -> Result<GroupInfo> {
    let consumers = u64::from(owner.as_ref().is_some_and(Claim::is_live));
    let pending = progress.count_pending() + queue.dead_letters().list_replays(group)?.len() as u64;
    let mut described = GroupInfo::new(group.to_string(), consumers, pending);
    described.last_delivered_id = (progress.read > 0).then(|| progress.read.to_string());
    described.lag = Some(progress.count_unread(head, removed_through));
    described.oldest_pending_id = progress.open.keys().next().map(ToString::to_string);
    Ok(described)
}
