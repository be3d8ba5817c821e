//! The handlers of an app on its store, as the bus that the app consumes.
//!
//! It transports nothing: the [`Engine`] reads the feed of the store, and keeps the progress of the handlers there.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    dead_letters::{DESTINATION, StoredDeadLetters},
    handler_queue::{HandlerSpec, MAX_WAITING},
    process::Engine,
};
use crate::{
    delivery::{Limits, Subscribers},
    domain::{clock::SharedClock, error::ErrorLine, name::Name, record::RecordedEvent},
    port::{
        ConsumeError, DeadLetters, EventBus, GroupProgress, MessageId, PublishError, ShutdownError, Subscriber,
        SubscriberStatus, Subscription,
        health::Health,
        retry::RetryPolicy,
        stats::{BusCounters, BusStats, GroupInfo, InFlightCounts, StreamInfo},
        subscriber::HandlerStart,
    },
    runtime::{feed_head::FeedHead, held_lease::new_owner},
};

static DEFAULT_GROUP: Name = Name::from_static("default");

/// The most dead letters that a description counts.
const COUNTED_DEAD_LETTERS_MAX: u64 = 500;
/// How long a shutdown waits for the save after it has aborted runs.
const SAVE_ABORTED_TIMEOUT: Duration = Duration::from_secs(1);
/// The delay before a store that does not answer is asked again to note the handlers.
const DECLARE_INTERVAL: Duration = Duration::from_millis(500);

/// The handlers of an app on its store. Cloning shares them.
#[derive(Clone, derive_more::Debug)]
#[debug("StoreBus({:?})", inner.subscribers)]
pub(crate) struct StoreBus {
    inner: Arc<StoreBusInner>,
}

#[derive(Default)]
struct StoreBusInner {
    subscribers: Subscribers,
    counters: Arc<BusCounters>,
    bound: OnceLock<Bound>,
    /// Held for moments, never across a wait.
    running: Mutex<Option<Running>>,
    is_closed: CancellationToken,
}

/// The store, once the app has it.
struct Bound {
    feed_head: FeedHead,
    settings: (Duration, Name),
    dead_letters: StoredDeadLetters,
}

/// A call of `start_consuming`.
#[derive(Clone)]
struct Running {
    engine: Arc<Engine>,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl StoreBus {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::default() }
    }

    /// Sets the store whose handlers it runs, the duration of their leases, and the name under which operators skip events;
    /// once, before it consumes.
    pub(crate) fn bind(&self, feed_head: FeedHead, lease: Duration, reader: Name) {
        let dead_letters = StoredDeadLetters(Arc::clone(feed_head.store()));
        let is_first = self.inner.bound.set(Bound { feed_head, settings: (lease, reader), dead_letters }).is_ok();
        debug_assert!(is_first, "an app binds its bus once");
    }

    /// Saves what has changed, and learns what other processes have: without the pauses between two saves and two
    /// heartbeats.
    #[cfg(feature = "testkit")]
    pub(crate) async fn flush(&self) {
        if let Some(engine) = self.engine() {
            engine.flush().await;
        }
    }

    /// Returns `true` if a handler has events to run now.
    #[cfg(feature = "testkit")]
    pub(crate) fn has_work(&self) -> bool {
        self.engine().is_some_and(|engine| engine.has_work())
    }

    fn engine(&self) -> Option<Arc<Engine>> {
        self.inner.running.lock().as_ref().map(|running| Arc::clone(&running.engine))
    }

    /// Returns the lag of a group's handlers here, in positions of the feed, and the age of the oldest event that they
    /// have not read, in milliseconds.
    async fn lag(&self, group: &Name) -> Option<(u64, Option<u64>)> {
        let (engine, bound) = (self.engine()?, self.inner.bound.get()?);
        let (store, read) = (bound.feed_head.store(), engine.read_through(group)?);
        let lag = store.head().await.ok()?.get().saturating_sub(read.get());
        let recorded = if lag > 0 { store.first_recorded_after(read).await.ok()? } else { None };
        let age = recorded.map_or(0, |recorded| (bound.feed_head.clock().now() - recorded).whole_milliseconds().max(0));
        Some((lag, u64::try_from(age).ok()))
    }

    fn new_engine(&self, bound: &Bound) -> Arc<Engine> {
        let subscribers = &self.inner.subscribers;
        let active = subscribers.groups().into_iter().flat_map(|group| subscribers.of_group(&group));
        let handlers = active.map(|subscriber| {
            let options = subscriber.options();
            let spec = HandlerSpec {
                name: subscriber.name().clone(),
                group: subscriber.group().clone(),
                events: subscriber.events(),
                shards: options.shards.unwrap_or(1),
                start: options.start.unwrap_or(HandlerStart::Oldest),
                crate_name: subscriber.crate_name().to_owned(),
                retry: RetryPolicy::default(),
                limits: Limits::default(),
                max_waiting: options.max_waiting.map_or(MAX_WAITING, |most| most as usize),
                holds_dead: options.holds_dead,
            };
            (spec, subscriber)
        });
        let counters = Arc::clone(&self.inner.counters);
        let engine =
            Engine::new(bound.feed_head.clone(), new_owner(), bound.settings.clone(), handlers.collect(), counters);
        for (group, report) in engine.reports() {
            subscribers.add_in_flight(&group, report);
        }
        engine
    }

    async fn run(&self, engine: &Engine, clock: &SharedClock, stop: CancellationToken) {
        let mut has_failed = false;
        let declared = async {
            loop {
                match engine.declare().await {
                    Ok(new_types) => return new_types,
                    Err(error) if !std::mem::replace(&mut has_failed, true) => {
                        tracing::warn!(error = %ErrorLine(&error), "the store cannot note the handlers, trying again");
                    }
                    Err(_) => {}
                }
                clock.sleep(DECLARE_INTERVAL).await;
            }
        };
        if let Some(new_types) = stop.run_until_cancelled(declared).await {
            engine.run(new_types, stop).await;
        }
    }
}

/// Ends a run of the engine, also if its future is dropped.
struct EndOnDrop<'a>(&'a StoreBusInner, Running);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        *self.0.running.lock() = None;
        self.1.engine.abort();
        self.1.ended.cancel();
    }
}

#[async_trait]
impl EventBus for StoreBus {
    fn destination(&self) -> &Name {
        &DESTINATION
    }

    fn describe(&self) -> String {
        "none, handlers read the store".into()
    }

    fn default_group(&self) -> &Name {
        &DEFAULT_GROUP
    }

    /// Refuses: the handlers read the store, where an event is saved.
    async fn publish(&self, _events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        Err(PublishError::OwnedByRelay { destination: DESTINATION.clone() })
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        self.inner.bound.get().map(|bound| &bound.dead_letters as &dyn DeadLetters)
    }

    fn add_subscriber(&self, group: Name, subscriber: Subscriber) -> Subscription {
        self.inner.subscribers.add(group, subscriber)
    }

    fn subscribers(&self) -> Vec<Arc<dyn SubscriberStatus>> {
        self.inner.subscribers.list()
    }

    fn report(&self, health: Health) -> Health {
        let mut health = self.inner.subscribers.report(health);
        if let Some(engine) = self.engine() {
            health.handlers.extend(engine.problems());
            health.paused.extend(engine.paused().map(Name::to_string));
        }
        health
    }

    fn in_flight(&self) -> BTreeMap<Name, InFlightCounts> {
        self.inner.subscribers.in_flight()
    }

    async fn start_consuming(&self) -> Result<(), ConsumeError> {
        let destination = || DESTINATION.clone();
        let Some(bound) = self.inner.bound.get().filter(|_| !self.inner.is_closed.is_cancelled()) else {
            return Err(ConsumeError::ShutDown { destination: destination() });
        };
        let running = {
            let mut running = self.inner.running.lock();
            if running.is_some() {
                return Err(ConsumeError::AlreadyConsuming { destination: destination() });
            }
            let (engine, stop) = (self.new_engine(bound), self.inner.is_closed.child_token());
            running.insert(Running { engine, stop, ended: CancellationToken::new() }).clone()
        };
        let (engine, stop) = (Arc::clone(&running.engine), running.stop.clone());
        let _end = EndOnDrop(&self.inner, running);
        self.run(&engine, bound.feed_head.clock(), stop).await;
        Ok(())
    }

    async fn stop_consuming(&self) {
        let running = self.inner.running.lock().clone();
        if let Some(running) = running {
            running.stop.cancel();
            running.ended.cancelled().await;
        }
    }

    fn is_consuming(&self) -> bool {
        self.inner.running.lock().is_some()
    }

    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.inner.is_closed.cancel();
        let Some(running) = self.inner.running.lock().clone() else { return Ok(()) };
        let Some(clock) = self.inner.bound.get().map(|bound| bound.feed_head.clock()) else { return Ok(()) };
        let stopped = clock.timeout(timeout, running.ended.cancelled()).await;
        if stopped.is_err() {
            for busy in self.inner.subscribers.list().iter().filter_map(|subscriber| subscriber.handling()) {
                tracing::warn!(busy, "aborted by shutdown; the event runs again at the next start");
            }
            running.engine.abort();
            // the aborted events are saved as ones that run again: the process has not ended because of them
            let _ = clock.timeout(SAVE_ABORTED_TIMEOUT, running.ended.cancelled()).await;
        }
        stopped.map_err(|_| ShutdownError::new("a handler", timeout))
    }

    fn stats(&self) -> BusStats {
        self.inner.counters.snapshot()
    }

    async fn stream_info(&self) -> StreamInfo {
        let mut info = StreamInfo { connected: !self.inner.is_closed.is_cancelled(), ..StreamInfo::default() };
        (info.stream.name, info.stats) = (DESTINATION.to_string(), self.stats());
        for group in self.inner.subscribers.groups() {
            let pending = self.engine().map_or(0, |engine| engine.pending_of(&group));
            let consumers = u64::from(self.is_consuming());
            info.active_consumers += consumers;
            info.pending_messages += pending;
            let mut described = GroupInfo::new(group.to_string(), consumers, pending);
            if let Some((lag, age)) = self.lag(&group).await {
                (described.lag, described.oldest_unread_age_ms) = (Some(lag), age);
            }
            info.consumer_groups.push(described);
        }
        let progress = self.inner.bound.get().and_then(|bound| bound.feed_head.store().handler_progress());
        match progress {
            Some(progress) => match progress.count_dead_rows(COUNTED_DEAD_LETTERS_MAX).await {
                Ok(count) => info.dlq_messages = count,
                Err(_) => info.is_dlq_unknown = true,
            },
            None => info.is_dlq_unknown = true,
        }
        info
    }

    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        let (Some(engine), Some(bound)) = (self.engine(), self.inner.bound.get()) else {
            return Ok(GroupProgress { unread: 1, ..GroupProgress::default() });
        };
        let unavailable = |source| ConsumeError::Unavailable { destination: DESTINATION.clone(), source };
        let head = bound.feed_head.store().head().await.map_err(|error| unavailable(error.into()))?;
        let unsettled = engine.unsettled(head, group).await.map_err(|error| unavailable(error.source))?;
        let pending = engine.pending_of(group);
        let unread = u64::from(unsettled && pending == 0);
        let (pending, is_paused) = (if unsettled { pending } else { 0 }, engine.is_paused(group));
        Ok(GroupProgress { unread, pending, exhausted: 0, is_paused })
    }
}
