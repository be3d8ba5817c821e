//! The contract of an event bus.
//!
//! Guarantees: events published by one call keep their order; every consumer group gets every event at least once, in
//! that order within one aggregate and consumer, also over retries; an event is acknowledged only after every handler of
//! the group succeeded, and one that used up its attempts is a dead letter. Not guaranteed: delivery exactly once, or
//! order across consumers of one group, unless the bus says so.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Serialize, Serializer};

use super::{
    Announced, Backlogs, BusStats, CheckpointError, DeadLetters, EventStore, Health, RelayTarget, SkippedBefore,
    StreamInfo, Subscribers, address::type_name,
};
use crate::domain::{error::BoxError, metadata::EventId, name::Name, record::RecordedEvent, stream::Position};

/// What a bus calls an entry; on Redis the entry id (`1795157844243-0`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageId(Arc<str>);

impl MessageId {
    /// Wraps the bus's own id.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// How far a consumer group has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GroupProgress {
    /// Entries that no consumer of the group took over yet.
    pub unread: u64,
    /// Entries taken over and not acknowledged.
    pub pending: u64,
    /// Those of the pending entries whose attempts are used up, and that are no dead letters as the bus keeps none.
    pub exhausted: u64,
}

impl GroupProgress {
    /// Whether nothing is left to do: nothing is unread, being handled or waiting for a retry.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.unread == 0 && self.pending <= self.exhausted
    }
}

/// Transports published events to consumer groups; a bus only delivers, [`dispatch`](super::dispatch) runs handlers.
///
/// Implementations are shared between tasks and must pass the event-bus suite of `eventbus::testkit`.
#[async_trait]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event bus",
    label = "not an event bus",
    note = "buses are `InMemoryEventBus`, `RedisEventBus`, `FileQueue`, or an `Arc` of one; did you forget to `.await?` its constructor?"
)]
pub trait EventBus: DeadLetters + 'static {
    /// Where the events go; durable, part of the relay's checkpoint name.
    fn destination(&self) -> &Name;

    /// What it is and where, without credentials, as the log shows it: its type, and the address of its server.
    fn describe(&self) -> String {
        type_name::<Self>()
    }

    /// The group of subscribers that name none.
    fn default_group(&self) -> &Name;

    /// Publishes events, in order, in one round trip, and returns the id of each. Nothing to publish is no error.
    ///
    /// # Errors
    /// [`PublishError`]; see [`PublishError::is_retryable`].
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError>;

    /// Publishes what a relay read from its store's feed, on a bus without a [`relay_target`](Self::relay_target).
    ///
    /// # Errors
    /// [`PublishError`] as for [`publish`](Self::publish).
    async fn publish_feed(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.publish(events).await
    }

    /// The way for relays, if the bus keeps the position of a store beside its events.
    ///
    /// Without it a relay publishes plainly: after a crash between publishing and its checkpoint it repeats.
    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        None
    }

    /// The way to give one group what the bus does not hold for it any more, on a bus that forgets at all.
    fn backlogs(&self) -> Option<&dyn Backlogs> {
        None
    }

    /// Records for good which event types groups handle, so that none of them is skipped from now on, and has what was
    /// skipped not long ago delivered. Returns what was skipped long ago and is not announced: its handler says what
    /// becomes of it. `store` is where a bus records it that keeps nothing itself.
    ///
    /// # Errors
    /// [`ConsumeError`] if the bus, or that store, cannot be asked.
    async fn announce(
        &self,
        announced: &[Announced],
        store: Option<&dyn EventStore>,
    ) -> Result<Vec<SkippedBefore>, ConsumeError> {
        let _ = (announced, store);
        Ok(Vec::new())
    }

    /// Whether the bus keeps what was published, and how far each group has come, by itself.
    fn is_durable(&self) -> bool {
        true
    }

    /// Gives a bus that keeps no progress of its own the store whose feed it is published, as the place for the
    /// checkpoints and [unfinished deliveries](super::UnfinishedDeliveries) of its groups. Returns from where it needs
    /// the feed again. `None`: it is durable, or nobody subscribed.
    ///
    /// # Errors
    /// [`CheckpointError`] if the progress cannot be read.
    async fn resume_from(&self, store: Arc<dyn EventStore>) -> Result<Option<Position>, CheckpointError> {
        drop(store);
        Ok(None)
    }

    /// Keeps a copy of the bus's dead letters in the store whose events they are, and puts back what the bus has lost of
    /// them. Never ends on a bus that does so; an app runs it, and drops it when it stops.
    ///
    /// A bus that keeps its dead letters nowhere but in the store, or in files, has nothing to copy.
    async fn copy_dead_letters(&self, store: Arc<dyn EventStore>) {
        drop(store);
    }

    /// Connects a bus that was made without connecting, and does nothing if it is connected already or was once. An app
    /// asks for it when it starts, and again until it succeeds.
    ///
    /// # Errors
    /// [`ConnectError`] says whether trying again can succeed by itself.
    async fn ensure_connected(&self) -> Result<(), ConnectError> {
        Ok(())
    }

    /// The subscribers; adding one here is subscribing.
    fn subscribers(&self) -> &Subscribers;

    /// Consumes for every group that has subscribers, until [`stop_consuming`](Self::stop_consuming); also for groups
    /// that get their first subscriber meanwhile.
    ///
    /// # Errors
    /// [`ConsumeError`] if it cannot begin; what goes wrong later is retried and counted.
    async fn start_consuming(&self) -> Result<(), ConsumeError>;

    /// Asks the consumers to stop after the deliveries they are in; returns once they have stopped. A handler that awaits
    /// this waits for itself, for ever: it spawns a task that does. So it is with [`shutdown`](Self::shutdown), until its
    /// timeout.
    async fn stop_consuming(&self);

    /// Whether [`start_consuming`](Self::start_consuming) is running.
    fn is_consuming(&self) -> bool;

    /// Stops consuming, waits for what is in flight up to `timeout`, and closes the bus.
    ///
    /// # Errors
    /// [`ShutdownError`] if the deadline passed first; what was in flight stays pending and is delivered again.
    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError>;

    /// What the bus counted since it was made.
    fn stats(&self) -> BusStats;

    /// What there is to know about the stream; `connected` is false when the bus cannot be asked.
    async fn stream_info(&self) -> StreamInfo;

    /// Whether the bus is connected and consumes, and what piles up; what a health endpoint answers. It never fails.
    async fn health(&self) -> Health {
        let info = self.stream_info().await;
        let consuming = self.is_consuming();
        self.subscribers().report(match info.connected {
            true => {
                let unreadable = info.consumer_groups.into_iter().filter_map(|group| group.unreadable);
                Health::connected(consuming, info.pending_messages, info.dlq_messages)
                    .with_unreadable(unreadable.collect())
            }
            false => Health::disconnected(consuming, "the bus cannot be asked"),
        })
    }

    /// How far a consumer group has come.
    ///
    /// # Errors
    /// [`ConsumeError::Unavailable`] if the bus cannot be asked.
    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError>;
}

/// Why a bus is not connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It could not be reached: it may be later.
    #[error("event bus `{destination}` unavailable")]
    Unavailable {
        /// Which bus.
        destination: Name,
        /// What the transport said.
        source: BoxError,
    },
    /// It refuses to be used so, until somebody changes something: a password, a certificate, a number of partitions.
    #[error("event bus `{destination}` refuses the connection")]
    Refused {
        /// Which bus.
        destination: Name,
        /// Why.
        source: BoxError,
    },
}

/// Why events were not, or may not have been, published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The bus could not be reached; nothing was published.
    #[error("event bus `{destination}` unavailable")]
    Unavailable {
        /// Where the events should have gone.
        destination: Name,
        /// What the transport said.
        source: BoxError,
    },
    /// The connection broke, or the server refused, after some were sent: some, all or none may be published.
    #[error("outcome of publishing to `{destination}` unknown")]
    OutcomeUnknown {
        /// Where the events should have gone.
        destination: Name,
        /// What the transport said.
        source: BoxError,
    },
    /// The bus refuses the events, until somebody changes something; nothing was published.
    #[error("event bus `{destination}` refuses the events")]
    Refused {
        /// Where the events should have gone.
        destination: Name,
        /// The first event that it refuses; `None` if it takes none at all.
        event_id: Option<EventId>,
        /// Why.
        source: BoxError,
    },
    /// A relay publishes everything this store holds; publishing by hand too would repeat it all.
    #[error("a relay publishes this store to `{destination}`; publishing by hand too would publish everything twice")]
    OwnedByRelay {
        /// Where the relay publishes.
        destination: Name,
    },
    /// The bus holds as much as it may, and nobody consumes; nothing was published.
    #[error("event bus `{destination}` is full and nobody consumes")]
    Full {
        /// Where the events should have gone.
        destination: Name,
    },
    /// The bus was shut down; nothing was published.
    #[error("event bus `{destination}` is shut down")]
    ShutDown {
        /// Where the events should have gone.
        destination: Name,
    },
}

impl PublishError {
    /// Whether publishing again can succeed; after an unknown outcome it may repeat events.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::OutcomeUnknown { .. } | Self::Full { .. })
    }
}

/// Why a bus does not consume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// It consumes already.
    #[error("event bus `{destination}` is consuming already")]
    AlreadyConsuming {
        /// The bus.
        destination: Name,
    },
    /// It was shut down.
    #[error("event bus `{destination}` is shut down")]
    ShutDown {
        /// The bus.
        destination: Name,
    },
    /// It could not be reached.
    #[error("event bus `{destination}` unavailable")]
    Unavailable {
        /// The bus.
        destination: Name,
        /// What the transport said.
        source: BoxError,
    },
}

/// A shutdown that did not finish in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} was still busy after {timeout:?}; what it was handling is delivered again")]
#[non_exhaustive]
pub struct ShutdownError {
    /// What was still busy.
    pub what: String,
    /// How long it was waited for.
    pub timeout: Duration,
}

impl ShutdownError {
    /// Names what was still busy.
    pub fn new(what: impl Into<String>, timeout: Duration) -> Self {
        Self { what: what.into(), timeout }
    }
}

__delegate!(<B> Arc<B>, self => (**self); EventBus {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        (**self).publish(events).await
    }

    async fn publish_feed(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        (**self).publish_feed(events).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        (**self).relay_target()
    }

    fn backlogs(&self) -> Option<&dyn Backlogs> {
        (**self).backlogs()
    }

    async fn announce(
        &self,
        announced: &[Announced],
        store: Option<&dyn EventStore>,
    ) -> Result<Vec<SkippedBefore>, ConsumeError> {
        (**self).announce(announced, store).await
    }

    fn is_durable(&self) -> bool {
        (**self).is_durable()
    }

    async fn resume_from(&self, store: Arc<dyn EventStore>) -> Result<Option<Position>, CheckpointError> {
        (**self).resume_from(store).await
    }
});
