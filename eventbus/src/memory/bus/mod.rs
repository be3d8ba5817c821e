//! The in-process bus: the readable reference of a bus.
//!
//! Publishing appends to a log and never runs a handler; while the bus consumes, a task per group reads the log and
//! passes the entries to the group's workers.
//!
//! Invariant: the bus acknowledges an event after its handlers ran, and saves a checkpoint after that. An unfinished
//! event that the checkpoint passes has a row in the store: see `group_cursor`.

mod announced_types;
mod builder;
mod consume;
mod dead_letter_id;
mod dead_letters;
mod group_cursor;
mod inner;
mod log;
mod log_entry;
mod settings;
mod store_access;
mod stored_progress;
mod unreadable_checks;
mod unreadable_events;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::builder::InMemoryEventBusBuilder;
use self::{
    inner::{BusInner, NotifyPublishersGuard, ResumePoint},
    settings::{BusSettings, DEFAULT_GROUP, DESTINATION},
    stored_progress::{StoredProgress, forget, save_types},
};
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{
        Announced, CheckpointError, ConsumeError, DeadLetters, EventBus, EventStore, GroupProgress, MessageId,
        PublishError, ShutdownError, SkippedBefore, Subscriber, SubscriberStatus, Subscription,
        feed_claim::{FeedClaim, FeedInUse},
        health::Health,
        health_of,
        stats::{BusStats, InFlightCounts, StreamInfo},
    },
};

/// The most dead letters that a report of health counts: probes ask often.
const DEAD_LETTERS_OF_HEALTH_MAX: u64 = 500;

/// A bus within one process. Cloning shares it.
///
/// Each consumer group with subscribers gets every event while [`start_consuming`](EventBus::start_consuming) runs:
/// events of one aggregate in order, one after the other; the [builder](InMemoryEventBusBuilder) sets how many
/// deliveries run at once. A group that comes later starts at the oldest event still held. The bus retries a delivery
/// after growing delays, for the handlers that have not succeeded; meanwhile later events of its aggregate wait, and
/// all other events flow. A delivery that has used up its attempts becomes a dead letter.
///
/// The bus lives in memory. With a store, which an app gives it by [`resume_from`](EventBus::resume_from), each group
/// resumes after a restart where it was: the store's feed has the events, and the store keeps which of them wait for a
/// retry, with their attempts, and which are dead letters. After a restart the bus delivers the unfinished events
/// again, and a few hundred finished ones at most, whose progress it had no time to save.
///
/// One app with a store feeds the bus at a time: the start of a second one fails with
/// [`StartMistake::BusFedByOtherApp`](crate::app::StartMistake::BusFedByOtherApp). Apps without a store, or without a
/// relay, may share the bus with it, and the next one may start once it was dropped.
///
/// A process that ends without stopping the bus may have been ended by an event that it had in flight. So after such an
/// end, the events that may have been in flight run alone, one at a time, each after a delay that doubles from a second
/// to a minute with each end. An event that ended its process five times in a row while no other event ran becomes a
/// dead letter. Without a store the bus knows none of this after a restart.
///
/// The store also keeps which event types a group ever announced, and from where on the group skipped a type. So if a
/// release has no handler of a type that an earlier release handled, it leaves the events of the type to a later
/// release. Events that no release handled are delivered once a release announces their type for the first time, if the
/// group began to skip it [not too long ago](InMemoryEventBusBuilder::deliver_skipped_within). Only one process handles
/// a group: events that are left wait for the next start, and do not count as pending. Of events that no store holds,
/// the bus delivers those that its log still has.
///
/// If the store cannot read an event that the bus is to deliver, because its row was damaged, only this event is
/// delayed: the group handles all other events, in order. The bus reads it again every minute, and health has an alert
/// until its row is repaired or an operator [skips](crate::App::skip_published_event) it.
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

    /// Describes the stream; of the dead letters in the store it counts up to `dead_letters_max`.
    async fn describe_stream(&self, dead_letters_max: u64) -> StreamInfo {
        let mut info =
            StreamInfo { connected: !self.inner.consuming().is_closed(), stats: self.stats(), ..StreamInfo::default() };
        info.stream.name = DESTINATION.to_string();
        let consumed = match self.is_consuming() {
            true => self.inner.subscribers().groups(),
            false => Vec::new(),
        };
        self.inner.log().describe(&mut info, &consumed);
        match dead_letters::count_stored(&self.inner, dead_letters_max).await {
            Some(stored) => info.dlq_messages += stored,
            None => info.is_dlq_unknown = true,
        }
        info
    }

    /// Deletes from the store what it keeps of a group that no release has any more: its position, the deliveries that
    /// wait, and the event types that it announced. Returns the number of deliveries that waited; 0 without a store.
    ///
    /// Dead letters stay until they are discarded or replayed. A group of that name that begins again leaves out their
    /// events, and a replay delivers them only to the handlers that had not succeeded: discard them before the group begins
    /// if all its handlers are to get these events.
    ///
    /// Stop the processes that consume for the group first: the store does not know whether one runs, and a running one
    /// creates the group again. Call it on the bus that the app was given, or on one that
    /// [resumed](EventBus::resume_from) from its store.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store does not answer; a second call goes on.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// use std::sync::Arc;
    /// use eventbus::{InMemoryEventBus, InMemoryEventStore, Name, bus::EventBus};
    ///
    /// let bus = InMemoryEventBus::new();
    /// bus.resume_from(Arc::new(InMemoryEventStore::new())).await?;
    /// assert_eq!(bus.retire_group(&Name::from_static("old-reports")).await?, 0);
    /// # Ok(()) }
    /// ```
    pub async fn retire_group(&self, group: &Name) -> Result<u64, CheckpointError> {
        match self.inner.store() {
            Some(store) => forget(&*store, group).await,
            None => Ok(0),
        }
    }

    /// Makes a group forget that it ever announced an event type, in any version; returns `true` if it had. For
    /// operators, after the group's last handler of that type was removed for good; `"*"` if that was a handler of all
    /// types. The group skips the events that wait for a handler of the type. A handler of the type announces it again
    /// when it starts.
    ///
    /// Call it on the bus that the app was given, or on one that [resumed](EventBus::resume_from) from its store.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store does not answer. While the bus consumes for the group, it goes on trying to
    /// save.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{InMemoryEventBus, bus::EventBus};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let bus = InMemoryEventBus::new();
    /// let was_announced = bus.forget_event_type(bus.default_group(), "OrderArchived").await.unwrap();
    /// assert!(!was_announced);
    /// # });
    /// ```
    pub async fn forget_event_type(&self, group: &Name, event_type: &str) -> Result<bool, CheckpointError> {
        let (inner, resume) = (&self.inner, self.inner.resume_point());
        let was_announced = {
            let mut log = inner.log();
            let cursor = log.cursor(group);
            // the types of a group that is not loaded are in the store only
            (resume.is_none() || cursor.is_loaded()).then(|| cursor.forget_type(event_type))
        };
        inner.notify_published();
        match (was_announced, resume) {
            (Some(was_announced), Some(resume)) => {
                save_types(inner, &resume, group).await?;
                Ok(was_announced)
            }
            (None, Some(resume)) => announced_types::forget(&*resume.store, group, event_type).await,
            (was_announced, None) => Ok(was_announced.unwrap_or_default()),
        }
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
    /// Once the bus has resumed, it gets stored events from the feed only and refuses them here, because an event that
    /// overtook the feed would move checkpoints past events that are still to come.
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        let is_stored = |event: &RecordedEvent| event.position().is_some();
        if self.inner.store().is_some() && events.iter().any(is_stored) {
            return Err(PublishError::OwnedByRelay { destination: DESTINATION.clone() });
        }
        self.inner.publish(events).await
    }

    async fn publish_feed(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.inner.publish(events).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn is_durable(&self) -> bool {
        false
    }

    async fn claim_feed(&self) -> Result<FeedClaim, FeedInUse> {
        self.inner.feed().claim().await
    }

    /// Call it before the bus consumes and before the feed is published. It fails on a bus that an app with a store
    /// feeds: the positions of a second feed would be compared with the checkpoints of the first one.
    async fn resume_from(&self, store: Arc<dyn EventStore>) -> Result<Option<Position>, CheckpointError> {
        self.inner.feed().begin().map_err(|error| CheckpointError::new(&DESTINATION, error))?;
        let mut loaded = Vec::new();
        for group in self.inner.subscribers().groups() {
            self.inner.log().cursor(&group).begin_load();
            loaded.push(StoredProgress::load(&*store, &group, self.inner.subscribers()).await?);
        }
        let fed_from = loaded.iter().map(|progress| progress.checkpoint.unwrap_or(Position::START)).min();
        let mut log = self.inner.log();
        let feed_epoch = log.reset_feed();
        for progress in loaded {
            progress.apply_to(&mut log, fed_from);
        }
        drop(log);
        self.inner.set_resume_point(ResumePoint { store, fed_from, feed_epoch });
        Ok(fed_from)
    }

    async fn announce(
        &self,
        announced: &[Announced],
        store: Option<&dyn EventStore>,
    ) -> Result<Vec<SkippedBefore>, ConsumeError> {
        let (clock, within) = (&self.inner.settings().clock, self.inner.settings().deliver_skipped_within);
        let unavailable = |source| ConsumeError::Unavailable { destination: DESTINATION.clone(), source };
        let (store, now) = (store.filter(|store| store.notes().is_some()), clock.unix_millis());
        let by_group = || announced.chunk_by(|one, next| one.group == next.group);
        let mut skipped = Vec::new();
        for of_group in by_group() {
            let group = &of_group[0].group;
            if let Some(store) = store {
                let undecided = announced_types::undecided(store, group, of_group, (within, now)).await;
                skipped.extend(undecided.map_err(unavailable)?);
            } else {
                let undecided = self.inner.log().undecided(group, of_group, within);
                skipped.extend(undecided.into_iter().map(|(name, range)| range.skipped_before(group, name, clock)));
            }
        }
        if !skipped.is_empty() {
            return Ok(skipped);
        }
        for of_group in by_group() {
            let group = &of_group[0].group;
            if let Some(store) = store {
                announced_types::announce(store, group, of_group, (within, now)).await.map_err(unavailable)?;
            } else {
                self.inner.log().announce(group, of_group, within);
            }
        }
        Ok(Vec::new())
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
        self.describe_stream(u64::MAX).await
    }

    async fn health(&self) -> Health {
        health_of(self, self.describe_stream(DEAD_LETTERS_OF_HEALTH_MAX).await)
    }

    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        Ok(self.inner.log().progress(group))
    }
}
