//! The buses of an app as one: the handlers on its store, the bus on which its relay publishes, and the foreign streams that
//! handlers consume.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::merged_dead_letters::MergedDeadLetters;
use crate::{
    domain::{clock::SharedClock, error::ErrorLine, name::Name, record::RecordedEvent},
    port::{
        ConsumeError, DeadLetters, EventBus, GroupProgress, MessageId, PublishError, ShutdownError, Subscriber,
        SubscriberStatus, Subscription,
        backoff::{Backoff, BackoffTimer},
        health::Health,
        stats::{BusStats, InFlightCounts, StreamInfo},
    },
};

/// The delays before a foreign stream is consumed again that cannot be.
const CONSUME_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// The buses of an app.
pub(super) struct AppBus {
    /// Runs the handlers that name no stream: on the app's store, or else on the bus that the app was given.
    own: Arc<dyn EventBus>,
    /// The bus on which the relay publishes the events of the store.
    relayed: Option<Arc<dyn EventBus>>,
    /// The foreign streams, by the names that handlers give them.
    consumed: BTreeMap<Name, Arc<dyn EventBus>>,
    dead_letters: MergedDeadLetters,
    clock: SharedClock,
    /// Held for moments, never across a wait.
    stop: Mutex<CancellationToken>,
    /// Set once an event was published by hand beside the store.
    has_warned: AtomicBool,
}

impl AppBus {
    pub(super) fn new(
        own: Arc<dyn EventBus>,
        relayed: Option<Arc<dyn EventBus>>,
        consumed: BTreeMap<Name, Arc<dyn EventBus>>,
        clock: SharedClock,
    ) -> Self {
        let dead_letters = MergedDeadLetters::new([&own].into_iter().chain(consumed.values()).cloned());
        Self { own, relayed, consumed, dead_letters, clock, stop: Mutex::default(), has_warned: AtomicBool::new(false) }
    }

    fn transport(&self) -> &Arc<dyn EventBus> {
        self.relayed.as_ref().unwrap_or(&self.own)
    }

    /// Returns the buses that have handlers of the app.
    fn handling(&self) -> impl Iterator<Item = &Arc<dyn EventBus>> {
        std::iter::once(&self.own).chain(self.consumed.values())
    }

    /// Returns the buses, each destination once: an app may consume its own stream.
    fn all(&self) -> impl Iterator<Item = &Arc<dyn EventBus>> {
        let is_consumed =
            |bus: &&Arc<dyn EventBus>| self.handling().any(|other| other.destination() == bus.destination());
        self.handling().chain(self.relayed.iter().filter(move |bus| !is_consumed(bus)))
    }

    /// Consumes a foreign stream until `stop`, and again whenever that ends by itself.
    async fn consume_foreign(&self, stream: &Name, bus: &Arc<dyn EventBus>, stop: &CancellationToken) {
        let (mut backoff, mut is_failing) = (BackoffTimer::new(CONSUME_BACKOFF), false);
        loop {
            let consuming = async {
                bus.ensure_connected().await.map_err(|error| ErrorLine(&error).to_string())?;
                bus.start_consuming().await.map_err(|error| ErrorLine(&error).to_string())
            };
            let ended = consuming.await;
            if stop.is_cancelled() {
                return;
            }
            if let Err(error) = ended
                && !std::mem::replace(&mut is_failing, true)
            {
                tracing::warn!(%stream, %error, "the stream cannot be consumed, trying again");
            }
            if stop.run_until_cancelled(self.clock.sleep(backoff.next_jittered())).await.is_none() {
                return;
            }
        }
    }
}

#[async_trait]
impl EventBus for AppBus {
    fn destination(&self) -> &Name {
        self.transport().destination()
    }

    fn describe(&self) -> String {
        let consumed = self.consumed.iter().map(|(stream, bus)| format!(", `{stream}` from {}", bus.describe()));
        self.transport().describe() + &consumed.collect::<String>()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        self.transport().as_any()
    }

    fn default_group(&self) -> &Name {
        self.own.default_group()
    }

    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        if self.relayed.is_some() && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                destination = %self.destination(),
                "an event was published by hand: it is not in the store, so the app's own handlers and projections do not \
                 get it"
            );
        }
        self.transport().publish(events).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(&self.dead_letters)
    }

    fn add_subscriber(&self, group: Name, subscriber: Subscriber) -> Subscription {
        let stream = subscriber.options().stream.and_then(|stream| self.consumed.get(stream));
        stream.unwrap_or(&self.own).add_subscriber(group, subscriber)
    }

    fn subscribers(&self) -> Vec<Arc<dyn SubscriberStatus>> {
        self.handling().flat_map(|bus| bus.subscribers()).collect()
    }

    fn report(&self, health: Health) -> Health {
        self.all().fold(health, |health, bus| bus.report(health))
    }

    fn in_flight(&self) -> BTreeMap<Name, InFlightCounts> {
        let mut groups: BTreeMap<Name, InFlightCounts> = BTreeMap::new();
        // handlers of the store and of a stream may have one group
        for (group, counts) in self.handling().flat_map(|bus| bus.in_flight()) {
            *groups.entry(group).or_default() += counts;
        }
        groups
    }

    async fn start_consuming(&self) -> Result<(), ConsumeError> {
        let stop = CancellationToken::new();
        *self.stop.lock() = stop.clone();
        let foreign = self.consumed.iter().map(|(stream, bus)| self.consume_foreign(stream, bus, &stop));
        let own = async {
            match self.own.subscribers().is_empty() {
                true => Ok(()),
                false => self.own.start_consuming().await,
            }
        };
        let (own, _) = tokio::join!(own, join_all(foreign));
        own
    }

    async fn stop_consuming(&self) {
        self.stop.lock().cancel();
        join_all(self.handling().map(|bus| bus.stop_consuming())).await;
    }

    fn is_consuming(&self) -> bool {
        self.handling().any(|bus| bus.is_consuming())
    }

    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.stop.lock().cancel();
        let buses = self.handling().chain(&self.relayed);
        join_all(buses.map(|bus| bus.shutdown(timeout))).await.into_iter().collect()
    }

    fn stats(&self) -> BusStats {
        let mut stats = BusStats::default();
        self.all().for_each(|bus| stats.add_growth(&BusStats::default(), &bus.stats()));
        stats
    }

    async fn stream_info(&self) -> StreamInfo {
        let transport = self.transport();
        let others =
            self.handling().filter(|bus| bus.destination() != transport.destination()).map(|bus| bus.stream_info());
        let (mut info, others) = tokio::join!(transport.stream_info(), join_all(others));
        for other in others {
            info.connected &= other.connected;
            info.consumer_groups.extend(other.consumer_groups);
            info.pending_messages += other.pending_messages;
            info.dlq_messages += other.dlq_messages;
            info.is_dlq_unknown |= other.is_dlq_unknown;
            info.active_consumers += other.active_consumers;
        }
        info.consumer_groups.sort_by(|one, other| one.name.cmp(&other.name));
        info.stats = self.stats();
        info
    }

    async fn health(&self) -> Health {
        let transport = self.transport();
        // a bus that the app consumes knows of its handlers, too
        let is_transport = |bus: &&Arc<dyn EventBus>| bus.destination() == transport.destination();
        let mut health = self.handling().find(is_transport).unwrap_or(transport).health().await;
        for bus in self.handling().filter(|bus| !is_transport(bus)) {
            let info = bus.stream_info().await;
            health.pending_messages += info.pending_messages;
            health.dlq_messages += info.dlq_messages;
            health = bus.report(health);
        }
        health.consuming = self.is_consuming();
        health
    }

    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        let mut progress = GroupProgress::default();
        let handles = |bus: &&Arc<dyn EventBus>| bus.subscribers().iter().any(|subscriber| subscriber.group() == group);
        for bus in self.handling().filter(handles) {
            let of_bus = bus.progress(group).await?;
            progress.unread += of_bus.unread;
            progress.pending += of_bus.pending;
            progress.exhausted += of_bus.exhausted;
            progress.is_paused |= of_bus.is_paused;
        }
        Ok(progress)
    }
}
