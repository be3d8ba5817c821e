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
mod dead_letters;
mod group_cursor;
mod log;
mod unreadable_events;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

pub use self::builder::InMemoryEventBusBuilder;
use self::{builder::BusSettings, consume::StoredProgress, log::EntryLog};
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{
        Announced, BusCounters, BusStats, CheckpointError, ConsumeError, Consuming, EventBus, EventStore,
        GroupProgress, MessageId, PublishError, RunLock, ShutdownError, SkippedBefore, StreamInfo, Subscribers,
        check_records,
    },
};

static DESTINATION: Name = Name::from_static("memory");
static DEFAULT_GROUP: Name = Name::from_static("default");

/// A bus within one process. Cloning shares it.
///
/// Each consumer group with subscribers gets every event while [`start_consuming`](EventBus::start_consuming) runs:
/// events of one aggregate in order, one after the other; the [builder](InMemoryEventBusBuilder) sets how many at once.
/// A group that comes later starts at the oldest event still held. The bus retries a delivery with a failed handler
/// after a growing delay, for the handlers that have not succeeded; meanwhile later events of its aggregate wait and
/// all other events flow. A delivery whose attempts are used up is a dead letter.
///
/// The bus lives in memory. With a store, given by [`resume_from`](EventBus::resume_from) as an app does, each group
/// resumes after a restart where it was: the store's feed has the events, and the store keeps which of them wait for a
/// retry, with their attempts, and which are dead letters. After a restart the bus delivers the unfinished events, and
/// of the finished ones at most the last 64, whose progress it had no time to save.
///
/// A process that ends without stopping the bus may have been ended by an event that it had in flight. So after such an
/// end, the events that may have been in flight run alone, one at a time, each after a delay that doubles from a second
/// to a minute with each end; an event that ended its process five times in a row while no other event ran is a dead
/// letter. Without a store the bus knows none of this after a restart.
///
/// The store also keeps which event types a group ever announced, and from where on the group skipped a type. So a
/// release without a handler of a type that an earlier one handled leaves its events to a later one, and events that no
/// release handled are delivered when one announces their type for the first time, if the group began to skip it [not
/// too long ago](InMemoryEventBusBuilder::deliver_skipped_within). One process handles a group: events that are left
/// wait for the next start, and do not count as pending. Of events that no store holds, the bus delivers those that its
/// log still has.
///
/// If the store cannot read an event that the bus is to deliver, as its row was damaged, only this event stands still:
/// the group handles all other events, in order. The bus reads it again every minute, and health has an alert until its
/// row is repaired or an operator [skips](crate::App::skip_published_event) it.
///
/// # Examples
/// ```
/// use eventbus::{EventFilter, InMemoryEventBus, Name, port::{EventBus, Subscriber}};
///
/// let bus = InMemoryEventBus::new();
/// let print = Subscriber::new(Name::from_static("print"), EventFilter::All, |delivery| {
///     Box::pin(async move {
///         println!("{}", delivery.metadata().event_type());
///         Ok(())
///     })
/// });
/// bus.subscribers().add(bus.default_group().clone(), print);
/// assert_eq!(bus.subscribers().wildcard_count(), 1);
/// ```
#[derive(Debug, Clone)]
pub struct InMemoryEventBus {
    inner: Arc<BusInner>,
}

#[derive(Debug)]
struct BusInner {
    settings: BusSettings,
    /// One lock for the entries and all cursors: a trim reads every cursor.
    log: Mutex<EntryLog>,
    /// Wakes the groups when there are entries to read.
    published: watch::Sender<()>,
    /// Wakes publishers when there may be room.
    capacity_freed: watch::Sender<()>,
    resume: Mutex<Option<ResumePoint>>,
    /// Makes a suspect run alone among the events of all groups.
    run_lock: RunLock,
    subscribers: Subscribers,
    counters: Arc<BusCounters>,
    consuming: Consuming,
}

/// The store that keeps the groups' progress, and the position after which its feed is published.
#[derive(Clone)]
struct ResumePoint {
    store: Arc<dyn EventStore>,
    fed_from: Option<Position>,
}

impl std::fmt::Debug for ResumePoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResumePoint").field("fed_from", &self.fed_from).finish_non_exhaustive()
    }
}

impl Default for InMemoryEventBus {
    fn default() -> Self {
        Self::new()
    }
}

impl InMemoryEventBus {
    /// Creates a bus with a capacity of 8,192 events.
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
    /// use eventbus::{InMemoryEventBus, port::EventBus};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let bus = InMemoryEventBus::new();
    /// let was_announced = bus.forget_event_type(bus.default_group(), "OrderArchived").await.unwrap();
    /// assert!(!was_announced);
    /// # });
    /// ```
    pub async fn forget_event_type(&self, group: &Name, event_type: &str) -> Result<bool, CheckpointError> {
        let (inner, resume) = (&self.inner, self.inner.resume().clone());
        let was_announced = {
            let mut log = inner.log();
            let cursor = log.cursor(group);
            // the types of a group that is not loaded are in the store only
            (resume.is_none() || cursor.is_loaded).then(|| cursor.forget_type(event_type))
        };
        inner.published.send_replace(());
        match (was_announced, resume) {
            (Some(was_announced), Some(ResumePoint { store, .. })) => {
                consume::save_types(inner, &*store, group).await?;
                Ok(was_announced)
            }
            (None, Some(ResumePoint { store, .. })) => announced_types::forget(&*store, group, event_type).await,
            (was_announced, None) => Ok(was_announced.unwrap_or_default()),
        }
    }

    fn with_settings(settings: BusSettings) -> Self {
        let clock = settings.clock.clone();
        let mut log = EntryLog::new(settings.capacity.max(1), clock.clone());
        log.cursor(&DEFAULT_GROUP);
        Self {
            inner: Arc::new(BusInner {
                settings,
                log: Mutex::new(log),
                published: watch::Sender::new(()),
                capacity_freed: watch::Sender::new(()),
                resume: Mutex::default(),
                run_lock: RunLock::default(),
                subscribers: Subscribers::default(),
                counters: Arc::default(),
                consuming: Consuming::with_clock(clock),
            }),
        }
    }
}

impl BusInner {
    fn log(&self) -> MutexGuard<'_, EntryLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resume(&self) -> MutexGuard<'_, Option<ResumePoint>> {
        self.resume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends events as soon as no group lags by the capacity.
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        check_records(&DESTINATION, events)?;
        let mut room = self.capacity_freed.subscribe();
        let mut subscribers = self.subscribers.watch();
        loop {
            // before the try, so that a change during it ends the wait below
            room.mark_unchanged();
            subscribers.mark_unchanged();
            if let Some(published) = self.try_publish(events) {
                return published;
            }
            tokio::select! {
                _ = room.changed() => {}
                _ = subscribers.changed() => {}
            }
        }
    }

    /// Appends events if there is room, refuses them if there will be none, else `None`: the publisher waits.
    fn try_publish(&self, events: &[RecordedEvent]) -> Option<Result<Vec<MessageId>, PublishError>> {
        let destination = DESTINATION.clone();
        if self.consuming.is_closed() {
            return Some(Err(PublishError::ShutDown { destination }));
        }
        let groups = self.subscribers.groups();
        let mut log = self.log();
        if log.is_full(&groups) {
            let refused = Err(PublishError::Full { destination });
            return (!self.consuming.is_running()).then_some(refused);
        }
        let ids = log.append(events, &groups);
        drop(log);
        self.counters.events_published(events.len() as u64);
        self.published.send_replace(());
        Some(Ok(ids))
    }
}

/// Wakes publishers when it is dropped, as the bus consumes no more.
struct NotifyPublishersGuard<'a>(&'a BusInner);

impl Drop for NotifyPublishersGuard<'_> {
    fn drop(&mut self) {
        self.0.capacity_freed.send_replace(());
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

    /// Waits while a group lags by the bus's capacity. A handler that publishes to its own bus must not let it get
    /// that far: it would wait for itself.
    ///
    /// Once the bus has resumed, it gets stored events from the feed only and refuses them here, because an event that
    /// overtook the feed would move checkpoints past events that are still to come.
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        let is_stored = |event: &RecordedEvent| event.position().is_some();
        if self.inner.resume().is_some() && events.iter().any(is_stored) {
            return Err(PublishError::OwnedByRelay { destination: DESTINATION.clone() });
        }
        self.inner.publish(events).await
    }

    async fn publish_feed(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.inner.publish(events).await
    }

    fn is_durable(&self) -> bool {
        false
    }

    /// Call it before the bus consumes and before the feed is published.
    async fn resume_from(&self, store: Arc<dyn EventStore>) -> Result<Option<Position>, CheckpointError> {
        let mut loaded = Vec::new();
        for group in self.inner.subscribers.groups() {
            loaded.push(StoredProgress::load(&*store, &group, &self.inner.subscribers).await?);
        }
        let fed_from = loaded.iter().map(|progress| progress.checkpoint.unwrap_or(Position::START)).min();
        let mut log = self.inner.log();
        log.reset_feed();
        for progress in loaded {
            progress.apply_to(&mut log, fed_from);
        }
        drop(log);
        *self.inner.resume() = Some(ResumePoint { store, fed_from });
        Ok(fed_from)
    }

    async fn announce(
        &self,
        announced: &[Announced],
        store: Option<&dyn EventStore>,
    ) -> Result<Vec<SkippedBefore>, ConsumeError> {
        let (clock, within) = (&self.inner.settings.clock, self.inner.settings.deliver_skipped_within);
        let mut skipped = Vec::new();
        for of_group in announced.chunk_by(|one, next| one.group == next.group) {
            let group = &of_group[0].group;
            match store.filter(|store| store.notes().is_some()) {
                Some(store) => {
                    let (destination, now) = (DESTINATION.clone(), clock.unix_millis());
                    let undecided = announced_types::announce(store, group, of_group, (within, now)).await;
                    skipped.extend(undecided.map_err(|source| ConsumeError::Unavailable { destination, source })?);
                }
                None => {
                    let undecided = self.inner.log().announce(group, of_group, within);
                    skipped.extend(undecided.into_iter().map(|(name, range)| range.skipped_before(group, name, clock)));
                }
            }
        }
        Ok(skipped)
    }

    fn subscribers(&self) -> &Subscribers {
        &self.inner.subscribers
    }

    async fn start_consuming(&self) -> Result<(), ConsumeError> {
        let inner = &self.inner;
        let _ended = NotifyPublishersGuard(inner);
        let consume = |group, stop| consume::consume_group(Arc::clone(inner), group, stop);
        inner.consuming.run(&DESTINATION, &inner.subscribers, consume).await
    }

    async fn stop_consuming(&self) {
        self.inner.consuming.stop().await;
    }

    fn is_consuming(&self) -> bool {
        self.inner.consuming.is_running()
    }

    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.inner.consuming.close();
        self.inner.capacity_freed.send_replace(());
        let what = "in-process event bus";
        self.inner.consuming.shutdown(what, timeout).await
    }

    fn stats(&self) -> BusStats {
        self.inner.counters.snapshot()
    }

    async fn stream_info(&self) -> StreamInfo {
        let mut info =
            StreamInfo { connected: !self.inner.consuming.is_closed(), stats: self.stats(), ..StreamInfo::default() };
        info.stream.name = DESTINATION.to_string();
        let consumed = match self.is_consuming() {
            true => self.inner.subscribers.groups(),
            false => Vec::new(),
        };
        self.inner.log().describe(&mut info, &consumed);
        info.dlq_messages += self.inner.count_stored_dead_letters().await;
        info
    }

    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        Ok(self.inner.log().progress(group))
    }
}
