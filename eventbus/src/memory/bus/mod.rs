//! The in-process bus: the readable reference of a bus.
//!
//! Publishing appends to a log and never runs a handler; while the bus consumes, a task per group reads the log and
//! passes the entries to the group's workers.
//!
//! Invariant: the bus acknowledges an event after its handlers ran.

mod builder;
mod consume;
mod dead_letter_id;
mod dead_letters;
mod group_cursor;
mod inner;
mod log;
mod log_entry;
mod relay;
mod settings;

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::builder::InMemoryEventBusBuilder;
use self::{
    inner::{BusInner, NotifyPublishersGuard},
    settings::{BusSettings, DEFAULT_GROUP, DESTINATION},
};
use crate::{
    domain::{name::Name, record::RecordedEvent},
    port::{
        ConsumeError, DeadLetters, EventBus, GroupProgress, MessageId, PublishError, RelayTarget, ShutdownError,
        Subscriber, SubscriberStatus, Subscription,
        health::Health,
        stats::{BusStats, InFlightCounts, StreamInfo},
    },
};

/// A bus within one process. Cloning shares it.
///
/// Each consumer group with subscribers gets every event while [`start_consuming`](EventBus::start_consuming) runs:
/// events of one aggregate in order, one after the other; the [builder](InMemoryEventBusBuilder) sets how many
/// deliveries run at once. A group that comes later starts at the oldest event still held. The bus retries a delivery
/// after growing delays, for the handlers that have not succeeded; meanwhile later events of its aggregate wait, and
/// all other events flow. A delivery that has used up its attempts becomes a dead letter.
///
/// The bus lives in memory, with its cursors, attempts and dead letters: a process that ends loses what its groups have
/// not handled. The handlers of an app with a store do not need a bus, as they read the store. Take this bus for
/// subscribers by hand and for tests, or as a stream that an app
/// [consumes](crate::app::AppBuilder::consume).
///
/// The relay of an app with a store publishes here as it does to Redis. But the bus is empty at each start, so a relay goes
/// on behind the position that the store notes. Of several processes on
/// one store only one relays, to its own bus: where processes share a store, take a bus on a server.
///
/// The bus skips and logs events of a type that no handler of the group wants.
///
/// # Examples
/// ```
/// use eventbus::{InMemoryEventBus, Name, bus::EventBus, event::EventFilter, port::Subscriber};
///
/// let bus = InMemoryEventBus::new();
/// let print = Subscriber::new(Name::from_static("print"), EventFilter::All, |delivery| {
///     Box::pin(async move {
///         println!("{}", delivery.metadata().event_type());
///         Ok(())
///     })
/// });
/// bus.add_subscriber(bus.default_group().clone(), print);
/// assert_eq!(bus.subscribers().len(), 1);
/// ```
#[derive(Debug, Clone)]
pub struct InMemoryEventBus {
    inner: Arc<BusInner>,
}

impl Default for InMemoryEventBus {
    fn default() -> Self {
        Self::new()
    }
}

impl InMemoryEventBus {
    /// Creates a bus with a capacity of 8,192 events, and of 64 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> InMemoryEventBusBuilder {
        InMemoryEventBusBuilder::new()
    }

    /// Creates a bus that holds about `capacity` events: see [`capacity`](InMemoryEventBusBuilder::capacity).
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self::builder().capacity(capacity).build()
    }

    fn with_settings(settings: BusSettings) -> Self {
        Self { inner: Arc::new(BusInner::new(settings)) }
    }
}

#[async_trait]
impl EventBus for InMemoryEventBus {
    fn destination(&self) -> &Name {
        &DESTINATION
    }

    fn default_group(&self) -> &Name {
        &DEFAULT_GROUP
    }

    /// Waits while a group lags by the bus's capacity. A handler that publishes to its own bus must not fill it so far:
    /// it would wait for itself.
    ///
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.inner.publish(events).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        Some(self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn add_subscriber(&self, group: Name, subscriber: Subscriber) -> Subscription {
        self.inner.subscribers().add(group, subscriber)
    }

    fn subscribers(&self) -> Vec<Arc<dyn SubscriberStatus>> {
        self.inner.subscribers().list()
    }

    fn report(&self, health: Health) -> Health {
        self.inner.subscribers().report(health)
    }

    fn in_flight(&self) -> BTreeMap<Name, InFlightCounts> {
        self.inner.subscribers().in_flight()
    }

    async fn start_consuming(&self) -> Result<(), ConsumeError> {
        let inner = &self.inner;
        let _ended = NotifyPublishersGuard(inner);
        let consume = |group, stop| consume::consume_group(Arc::clone(inner), group, stop);
        inner.consuming().run(&DESTINATION, inner.subscribers(), consume).await
    }

    async fn stop_consuming(&self) {
        self.inner.consuming().stop().await;
    }

    fn is_consuming(&self) -> bool {
        self.inner.consuming().is_running()
    }

    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.inner.consuming().close();
        self.inner.notify_capacity_freed();
        let what = "in-process event bus";
        self.inner.consuming().shutdown(self.inner.subscribers(), what, timeout).await
    }

    fn stats(&self) -> BusStats {
        self.inner.counters().snapshot()
    }

    async fn stream_info(&self) -> StreamInfo {
        let mut info =
            StreamInfo { connected: !self.inner.consuming().is_closed(), stats: self.stats(), ..StreamInfo::default() };
        info.stream.name = DESTINATION.to_string();
        let consumed = match self.is_consuming() {
            true => self.inner.subscribers().groups(),
            false => Vec::new(),
        };
        self.inner.log().describe(&mut info, &consumed);
        info
    }

    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        Ok(self.inner.log().progress(group))
    }
}
