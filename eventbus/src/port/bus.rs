//! The contract of an event bus.
//!
//! Guarantees: events published by one call keep their order; every consumer group gets every event at least once, in
//! that order within one aggregate and consumer, also over retries; an event is acknowledged only after every handler
//! of the group succeeded, and an event that used up its attempts becomes a dead letter. Not guaranteed: delivery
//! exactly once, or order across consumers of one group, unless the bus says so.

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use auto_impl::auto_impl;
use serde::Serialize;

use super::{
    ConnectError, ConsumeError, DeadLetters, MessageId, PublishError, RelayTarget, ShutdownError, Subscriber,
    SubscriberStatus, Subscription,
    health::Health,
    stats::{BusStats, InFlightCounts, StreamInfo},
};
use crate::domain::{name::Name, record::RecordedEvent, shown::type_name};

/// The progress of a consumer group, in entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GroupProgress {
    /// Entries that no consumer of the group has read yet; a file queue counts gaps between its ids, too.
    pub unread: u64,
    /// Entries that a consumer of the group has read and not acknowledged.
    pub pending: u64,
    /// Pending entries that have used up their attempts and are no dead letters, because the bus keeps none.
    pub exhausted: u64,
    /// Set if an operator has paused the group.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_paused: bool,
}

impl GroupProgress {
    /// Returns `true` if the group has no work left: no entry is unread, in flight or waiting for a retry.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.unread == 0 && self.pending <= self.exhausted
    }
}

/// Transports published events to consumer groups. A bus only delivers; [`dispatch`](crate::delivery::dispatch) runs
/// the handlers.
///
/// Implementations are shared between tasks and must pass the event-bus suite of `eventbus::testkit`.
#[async_trait]
#[auto_impl(Arc)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event bus",
    label = "not an event bus",
    note = "buses are `InMemoryEventBus`, `RedisEventBus`, `FileQueue`, or an `Arc` of one; did you forget to `.await?` its constructor?"
)]
pub trait EventBus: Send + Sync + 'static {
    /// Returns the name of the destination of the events. It must not change: it is part of the relay's checkpoint
    /// name.
    fn destination(&self) -> &Name;

    /// Describes the bus for the log, without credentials: its type, and the address of its server.
    fn describe(&self) -> String {
        type_name::<Self>()
    }

    /// Returns the bus itself, for tools that know its type and use more of it.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// Returns the group of subscribers that name no group.
    fn default_group(&self) -> &Name;

    /// Publishes events, in order, in one round trip, and returns the id of each. Publishing no events is no error.
    ///
    /// # Errors
    /// [`PublishError`]; see [`PublishError::is_retryable`].
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError>;

    /// Returns the target for relays, if the bus keeps the position of a store beside its events. An app with a store
    /// relays to no other bus.
    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        None
    }

    /// Returns the dead letters, if the bus keeps any; also if its configuration now disables them, since it may hold
    /// older ones.
    fn dead_letters(&self) -> Option<&dyn DeadLetters>;

    /// Connects a bus that was created without connecting; has no effect if the bus is, or once was, connected. An app
    /// calls it when it starts, and again until it succeeds.
    ///
    /// # Errors
    /// [`ConnectError`], whose variant says whether a later try can succeed.
    async fn ensure_connected(&self) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Adds a subscriber to a consumer group, from the next delivery on. If the group has a subscriber of that name,
    /// the new one gets a number behind its name (`name#2`); but it takes the place of a handler whose app has ended.
    fn add_subscriber(&self, group: Name, subscriber: Subscriber) -> Subscription;

    /// Returns the subscribers with the state of their runs, in the order in which they were added.
    fn subscribers(&self) -> Vec<Arc<dyn SubscriberStatus>>;

    /// Adds to a health report what the consumers of this process know without asking the bus: long runs, faults that
    /// handlers wait for, unfinished deliveries.
    fn report(&self, health: Health) -> Health;

    /// Counts the entries that the consumers of this process have in flight, by group. The provided body returns none.
    fn in_flight(&self) -> BTreeMap<Name, InFlightCounts> {
        BTreeMap::new()
    }

    /// Consumes for every group that has subscribers, until [`stop_consuming`](Self::stop_consuming); also for groups
    /// that get their first subscriber meanwhile.
    ///
    /// # Errors
    /// [`ConsumeError`] if the bus cannot begin to consume; it retries and counts later failures.
    async fn start_consuming(&self) -> Result<(), ConsumeError>;

    /// Stops the consumers after their current deliveries, and returns once they have stopped. A handler that awaits
    /// this call waits for itself, for ever: it must spawn a task for the call. In [`shutdown`](Self::shutdown) it
    /// waits until the timeout.
    async fn stop_consuming(&self);

    /// Returns `true` while [`start_consuming`](Self::start_consuming) runs.
    fn is_consuming(&self) -> bool;

    /// Stops consuming, waits up to `timeout` for the entries in flight, and closes the bus. Dropping the future ends
    /// the wait early, like the timeout.
    ///
    /// # Errors
    /// [`ShutdownError`] if the timeout passed first; entries in flight stay pending and are redelivered.
    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError>;

    /// Returns the counts since the bus was created.
    fn stats(&self) -> BusStats;

    /// Describes the stream and its consumer groups; `connected` is `false` if the bus cannot be reached.
    async fn stream_info(&self) -> StreamInfo;

    /// Reports, for a health endpoint, whether the bus is connected and consumes, and how much is pending. Never fails.
    async fn health(&self) -> Health {
        let (consuming, info) = (self.is_consuming(), self.stream_info().await);
        self.report(match info.connected {
            true => Health::connected(consuming, info.pending_messages, info.dlq_messages),
            false => Health::disconnected(consuming, "the bus is not connected"),
        })
    }

    /// Returns the progress of a consumer group.
    ///
    /// # Errors
    /// [`ConsumeError::Unavailable`] if the bus cannot be reached.
    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError>;
}
