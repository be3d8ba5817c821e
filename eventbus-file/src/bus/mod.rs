//! The queue as a bus: handlers get its events as jobs.
//!
//! Invariant: a job is one event with one claim. Every handler of the claiming process that takes the event's type runs,
//! and the event has its result only once all of them succeeded, or one gave up.

mod dead_letters;
mod worker;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    Name, RecordedEvent,
    health::{BusStats, GroupInfo, Health, StreamInfo},
    port::{
        ConsumeError, DeadLetters, EventBus, GroupProgress, MessageId, PublishError, RelayTarget, ShutdownError,
        Subscriber, SubscriberStatus, Subscription,
    },
    support::check_records,
};

use crate::{
    FileQueue,
    error::{FileQueueError, Result},
    event::message_id,
    inner::QueueInner,
    publish::{self, PublishFailure},
};

/// Time after a shutdown in which aborted workers release their claims. Real time, not the given clock: other workers read
/// the claims in files.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

#[async_trait]
impl EventBus for FileQueue {
    fn destination(&self) -> &Name {
        self.inner().name()
    }

    fn describe(&self) -> String {
        format!("FileQueue {}", self.inner().config().root_dir.display())
    }

    /// Returns the name of the queue: all its handlers share one group, whatever group they name.
    fn default_group(&self) -> &Name {
        self.inner().name()
    }

    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        check_records(self.destination(), events)?;
        publish_records(self.inner(), events.to_vec()).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        Some(self)
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn add_subscriber(&self, _group: Name, subscriber: Subscriber) -> Subscription {
        self.inner().subscribers().add(self.inner().name().clone(), subscriber)
    }

    fn subscribers(&self) -> Vec<Arc<dyn SubscriberStatus>> {
        self.inner().subscribers().list()
    }

    fn report(&self, health: Health) -> Health {
        self.inner().subscribers().report(health)
    }

    async fn start_consuming(&self) -> Result<(), ConsumeError> {
        let queue = self.inner();
        let consume = |_, stop| worker::run_workers(Arc::clone(queue), stop);
        queue.consuming().run(queue.name(), queue.subscribers(), consume).await
    }

    async fn stop_consuming(&self) {
        self.inner().consuming().stop().await;
    }

    fn is_consuming(&self) -> bool {
        self.inner().consuming().is_running()
    }

    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        let queue = self.inner();
        queue.consuming().close();
        queue.change_signal().send_replace(());
        let stopped = queue.consuming().shutdown(queue.subscribers(), "file queue", timeout).await;
        // so that other workers get the jobs of aborted handlers at once
        queue.jobs().close();
        let _ = tokio::time::timeout(RELEASE_TIMEOUT, queue.jobs().wait()).await;
        stopped
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

    /// Returns the number of events without a result, whatever the group.
    async fn progress(&self, _group: &Name) -> Result<GroupProgress, ConsumeError> {
        let counted = self.inner().blocking(|queue| queue.results().count_unfinished(queue.log())).await;
        let destination = self.inner().name().clone();
        let counted = counted.map_err(|error| ConsumeError::Unavailable { destination, source: error.into() })?;
        Ok(GroupProgress { unread: counted.unclaimed, pending: counted.claimed, ..GroupProgress::default() })
    }
}

/// Publishes events, and counts them.
pub(crate) async fn publish_records(
    queue: &Arc<QueueInner>,
    records: Vec<RecordedEvent>,
) -> Result<Vec<MessageId>, PublishError> {
    let published =
        publish::publish(queue, records, Vec::new()).await.map_err(|stopped| publish_error(queue.name(), stopped))?;
    queue.counters().events_published(published.len() as u64);
    Ok(published.iter().map(|event| message_id(event.id())).collect())
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

/// Describes the queue from its oldest and newest ids; gaps and missing ids between the two count as entries. It lists
/// only the first and the last of the folders of events, so that the answer for a long queue does not come too late for
/// the caller.
fn load_stream_info(queue: &QueueInner) -> Result<StreamInfo> {
    let mut info = StreamInfo::default();
    let head = queue.log().head()?;
    if let Some(first) = queue.log().ids_from(1)?.next().transpose()? {
        info.stream.first_entry_id = Some(first.to_string());
        let last = head.max(first); // it may have been published since
        info.stream.last_entry_id = Some(last.to_string());
        info.stream.length = last - first + 1;
    }
    info.dlq_messages = queue.dead_letters().list_ids()?.len() as u64;
    let unfinished = queue.results().count_unfinished(queue.log())?;
    let consumers = u64::from(queue.consuming().is_running());
    let mut group = GroupInfo::new(queue.name().to_string(), consumers, unfinished.claimed);
    group.lag = Some(unfinished.unclaimed);
    group.oldest_pending_id = unfinished.oldest_claimed.map(|id| id.to_string());
    (info.pending_messages, info.active_consumers) = (unfinished.claimed, consumers);
    info.consumer_groups.push(group);
    info.connected = true;
    Ok(info)
}
