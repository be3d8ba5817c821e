//! The bus, and the port that it implements. Each method calls a function of the module for its subject.

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, RecordedEvent, Uuid,
    health::{BusStats, Health, InFlightCounts, StreamInfo},
    port::{
        ConnectError, ConsumeError, DeadLetters, EventBus, GroupProgress, MessageId, PublishError, RelayTarget,
        ShutdownError, Subscriber, SubscriberStatus, Subscription,
    },
    relay::PublishedPosition,
};

use crate::{
    GroupConsumer, GroupError, GroupStart, History, PendingDelivery, RedisCommandError, RedisConnectError,
    RedisEventBusConfig, RetiredGroup, Trim, TrimBlocker, Trimmed, command,
    consumer::{self, Recovery, RecoveryStats},
    error::{InvalidConfig, boxed},
    group, info,
    inner::BusInner,
    join, publish, relay, trim, unfinished,
    url::address,
};

/// A bus on Redis Streams. Cloning shares it.
///
/// Each consumer keeps the order of an aggregate's events; across the consumers of a group there is no order.
///
/// Events published by one process reach the handlers of all other processes. Each consumer group gets every event at
/// least once; the consumers of a group, one per bus object that consumes, share its events. The consumer retries a failed delivery while events of other aggregates go on, and finally moves
/// it to the dead letters. If a consumer dies, the next consumer of its [name](RedisEventBusConfig::consumer_name) gets
/// its in-flight entries, or later any other consumer.
///
/// # Connections
/// A bus has one connection for all commands except blocking reads, and one more for the reads of each consumer in each
/// group. With [`single_connection_client`](RedisEventBusConfig::single_connection_client) it has a single one. Each
/// [`follow`](History::follow) opens its own connection.
///
/// # Examples
/// ```no_run
/// use eventbus::bus::EventBus;
/// use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
///
/// # async fn run() -> eventbus::Result<()> {
/// let config = RedisEventBusConfig { stream_prefix: "orders".into(), ..Default::default() };
/// let bus = RedisEventBus::connect(config).await?;
/// let consumer = tokio::spawn({
///     let bus = bus.clone();
///     async move { bus.start_consuming().await }
/// });
/// // …
/// bus.stop_consuming().await;
/// consumer.await??;
/// # Ok(())
/// # }
/// ```
#[derive(derive_more::Debug, Clone)]
#[debug("RedisEventBus({:?})", inner.config())]
pub struct RedisEventBus {
    inner: Arc<BusInner>,
}

impl RedisEventBus {
    /// Connects, and records the format of the keys, unless one is recorded. The first consumer of a group creates it.
    ///
    /// # Errors
    /// [`RedisConnectError`] if the configuration has mistakes, or the server is unreachable, does not reply in time or
    /// refuses. The error names the address, never the password.
    ///
    /// # Examples
    /// ```
    /// use eventbus_redis::{RedisConnectError, RedisEventBus, RedisEventBusConfig};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let config = RedisEventBusConfig { batch_size: 0, ..Default::default() };
    /// let refused = RedisEventBus::connect(config).await;
    /// assert!(matches!(refused, Err(RedisConnectError::Config(_))));
    /// # });
    /// ```
    pub async fn connect(config: RedisEventBusConfig) -> Result<Self, RedisConnectError> {
        let bus = Self::lazy(config)?;
        join::join(&bus.inner).await?;
        Ok(bus)
    }

    /// Connects to a bus that exists, and writes no key: for tools that read.
    ///
    /// # Errors
    /// [`RedisConnectError::NotFound`] if the server holds no such bus; else as [`connect`](Self::connect).
    ///
    /// # Examples
    /// ```no_run
    /// use eventbus_redis::{RedisConnectError, RedisEventBus, RedisEventBusConfig};
    /// # async fn run() {
    /// let config = RedisEventBusConfig { stream_prefix: "no-such-bus".into(), ..Default::default() };
    /// assert!(matches!(RedisEventBus::attach(config).await, Err(RedisConnectError::NotFound { .. })));
    /// # }
    /// ```
    pub async fn attach(config: RedisEventBusConfig) -> Result<Self, RedisConnectError> {
        Ok(Self { inner: Arc::new(join::attach(config).await?) })
    }

    /// Creates a bus that is not connected yet: checks the configuration, and sends no command.
    ///
    /// An app connects the bus when it starts. While the server is away, the app retries in the background, still
    /// saves, and reports that the bus is away. The start fails if the server refuses, for example because of a wrong
    /// password or an untrusted certificate. Without an app
    /// [`ensure_connected`](EventBus::ensure_connected) connects; before that the bus publishes and consumes no event.
    ///
    /// # Errors
    /// [`InvalidConfig`] with all mistakes.
    ///
    /// # Examples
    /// ```no_run
    /// use eventbus::prelude::*;
    /// use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
    /// # async fn run(store: eventbus::InMemoryEventStore) -> eventbus::Result<()> {
    /// let bus = RedisEventBus::lazy(RedisEventBusConfig::default())?;
    /// let app = App::builder().store(store).bus(bus).discover().start().await?; // also while Redis is away
    /// # Ok(())
    /// # }
    /// ```
    pub fn lazy(config: RedisEventBusConfig) -> Result<Self, InvalidConfig> {
        Ok(Self { inner: Arc::new(BusInner::new(config)?) })
    }

    /// Returns the configuration, with the consumer name that this bus uses.
    #[must_use]
    pub fn config(&self) -> &RedisEventBusConfig {
        self.inner.config()
    }

    /// Returns `true` if no error has shown the connection to be lost; the next command notices a loss.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.inner.consuming().is_closed() && self.inner.connection().is_up()
    }

    /// Claims entries of the bus's own group that have been pending, on any consumer, for long without a sign of life,
    /// and handles each once with the subscribers of this bus. A consumer does so by itself while it consumes; call
    /// this in a process that does not consume, or to do it at once.
    ///
    /// Without subscribers it claims no entry. A failed entry stays pending for the next recovery or consumer. Several
    /// calls on one bus run one after the other, so a handler must not wait for one.
    ///
    /// # Errors
    /// [`ConsumeError::Unavailable`] if the server cannot be reached; entries whose outcome was not written are
    /// redelivered. [`ConsumeError::ShutDown`] after a shutdown.
    ///
    /// # Examples
    /// ```no_run
    /// use eventbus_redis::{Recovery, RedisEventBus};
    /// # async fn run(bus: RedisEventBus) -> eventbus::Result<()> {
    /// let stats = bus.recover_pending_messages(Recovery::default()).await?;
    /// println!("{} reprocessed, {} to the dead letters", stats.reprocessed, stats.dlq);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recover_pending_messages(&self, recovery: Recovery) -> Result<RecoveryStats, ConsumeError> {
        consumer::recover(&self.inner, recovery).await
    }

    /// Returns a reader of the stream without a group, from the oldest entry on: see [`History`].
    #[must_use]
    pub fn history(&self) -> History {
        History::new(Arc::clone(&self.inner))
    }

    /// Creates a consumer group that begins at `start`, and returns `true`; an existing group stays where it is, and
    /// the result is `false`. From then on [`trim`](Self::trim) keeps the entries that the group has yet to handle.
    ///
    /// # Errors
    /// [`GroupError::Command`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// use eventbus::Name;
    /// use eventbus_redis::GroupStart;
    /// // a new service that is not interested in what was before
    /// bus.create_group(&Name::new("group", "newsletter")?, GroupStart::Now).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_group(&self, group: &Name, start: GroupStart) -> Result<bool, GroupError> {
        group::create_group(&self.inner, group, start).await
    }

    /// Removes a consumer group for good, with all its records, so that it no longer blocks [trimming](Self::trim).
    /// Returns the numbers of its unfinished entries. A consumer that joins a group of that name later begins with the
    /// oldest entry.
    ///
    /// # Errors
    /// [`GroupError::NotFound`]; [`GroupError::InUse`] while the group has live consumers; [`GroupError::Command`].
    pub async fn retire_group(&self, group: &Name) -> Result<RetiredGroup, GroupError> {
        group::retire_group(&self.inner, group).await
    }

    /// Loads the state of the stream and its groups, like [`stream_info`](EventBus::stream_info), but returns errors.
    ///
    /// # Errors
    /// [`RedisCommandError`] if the server cannot be reached, or refuses: the user may lack a right.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// println!("{} entries are pending", bus.load_stream_info().await?.pending_messages);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn load_stream_info(&self) -> Result<StreamInfo, RedisCommandError> {
        info::load_stream_info(&self.inner).await.map_err(|error| self.inner.command_error(error))
    }

    /// Returns the consumers of a group, by name, including ended ones with pending entries; none if there is no such
    /// group.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// for consumer in bus.group_consumers(bus.default_group()).await? {
    ///     println!("{} has {} entries, idle for {} ms", consumer.name, consumer.pending, consumer.idle_ms);
    /// }
    /// # Ok(())
    /// # }
    /// # use eventbus::bus::EventBus;
    /// ```
    pub async fn group_consumers(&self, group: &Name) -> Result<Vec<GroupConsumer>, RedisCommandError> {
        unfinished::group_consumers(&self.inner, group).await
    }

    /// Returns the entries that a group has read and not finished, with the attempts of its handlers: the oldest
    /// `limit`; none if there is no such group. The entries stay with
    /// their consumers.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// for delivery in bus.pending_deliveries(bus.default_group(), 10).await? {
    ///     println!("{} waits with {}, failed runs: {}", delivery.id, delivery.consumer, delivery.attempts.attempts);
    /// }
    /// # Ok(())
    /// # }
    /// # use eventbus::bus::EventBus;
    /// ```
    pub async fn pending_deliveries(
        &self,
        group: &Name,
        limit: usize,
    ) -> Result<Vec<PendingDelivery>, RedisCommandError> {
        unfinished::pending_deliveries(&self.inner, group, limit).await
    }

    /// Removes the oldest entries that are beyond the limits and that every consumer group has finished.
    ///
    /// Every group of the stream counts until it is [retired](Self::retire_group), also a group of another program that
    /// has never read. A group without consumers holds its entries for ever; [`held_by`](Trimmed::held_by) names it. Each
    /// step keeps the server busy for about a millisecond. Several callers may trim at once.
    ///
    /// # Errors
    /// [`RedisCommandError`]; entries that were already removed stay removed, and a further call goes on with the rest.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// use eventbus_redis::Trim;
    /// let trimmed = bus.trim(Trim { max_length: Some(100_000), ..Default::default() }).await?;
    /// if let Some(held) = trimmed.held_by {
    ///     println!("group {} is {:?} behind", held.group, held.age);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn trim(&self, limits: Trim) -> Result<Trimmed, RedisCommandError> {
        trim::trim(&self.inner, limits).await
    }

    /// Returns the position up to which the relay of each store has published its events.
    ///
    /// # Errors
    /// [`PublishError`] if the server gave no answer, or a record cannot be read.
    pub async fn published_positions(&self) -> Result<Vec<(Uuid, PublishedPosition)>, PublishError> {
        relay::published_positions(&self.inner).await
    }

    /// Returns the group, or the projection, at which [`trim`](Self::trim) would stop: the one with unfinished entries
    /// that is furthest behind. Removes no entry, and writes no key.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// if let Some(blocker) = bus.trim_blocker().await? {
    ///     println!("group {} is {:?} behind", blocker.group, blocker.age);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn trim_blocker(&self) -> Result<Option<TrimBlocker>, RedisCommandError> {
        trim::find_blocker(&self.inner).await
    }

    /// Removes the oldest entries beyond `max_length`, though some dozens of these may stay, **also entries that groups
    /// have not read**: those groups lose them. Returns the number of removed entries. With [`trim`](Self::trim),
    /// groups lose no entries.
    ///
    /// # Errors
    /// [`RedisCommandError`]; entries that were already removed stay removed.
    pub async fn trim_may_lose(&self, max_length: u64) -> Result<u64, RedisCommandError> {
        trim::trim_may_lose(&self.inner, max_length).await
    }

    pub(crate) const fn inner(&self) -> &Arc<BusInner> {
        &self.inner
    }

    /// Checks that the server answers.
    ///
    /// # Errors
    /// The transport's error, or the server's.
    pub async fn ping(&self) -> Result<(), BoxError> {
        let ping = command::ping();
        let reply = self.inner.connection().query_idempotent::<redis::Value>(&ping).await;
        reply.map(drop).map_err(boxed)
    }

    /// Stops consuming once the running deliveries have ended, and closes the connections. The bus cannot be used
    /// afterwards.
    pub async fn disconnect(&self) {
        self.inner.consuming().close();
        self.inner.consuming().stop().await;
        self.inner.connection().close();
    }
}

#[async_trait]
impl EventBus for RedisEventBus {
    fn destination(&self) -> &Name {
        self.inner.destination()
    }

    fn describe(&self) -> String {
        let bus = &self.inner;
        format!("RedisEventBus {} stream {}", address(&bus.config().redis_url), bus.config().stream_name())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn default_group(&self) -> &Name {
        self.inner.default_group()
    }

    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        publish::publish(&self.inner, events).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        Some(self)
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    async fn ensure_connected(&self) -> Result<(), ConnectError> {
        let destination = || self.inner.destination().clone();
        join::join(&self.inner).await.map_err(|error| match error.is_retryable() {
            true => ConnectError::Unavailable { destination: destination(), source: error.into() },
            false => ConnectError::Refused { destination: destination(), source: error.into() },
        })
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

    /// Creates the groups that are missing; they begin with the oldest entry.
    async fn start_consuming(&self) -> Result<(), ConsumeError> {
        let bus = &self.inner;
        join::join(bus).await.map_err(|error| bus.unavailable(error))?;
        let consume = |group, stop| consumer::consume(Arc::clone(bus), group, stop);
        bus.consuming().run(bus.destination(), bus.subscribers(), consume).await
    }

    async fn stop_consuming(&self) {
        self.inner.consuming().stop().await;
    }

    fn is_consuming(&self) -> bool {
        self.inner.consuming().is_running()
    }

    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        let what = self.inner.destination();
        let ended = self.inner.consuming().shutdown(self.inner.subscribers(), what, timeout).await;
        self.inner.connection().close();
        ended
    }

    fn stats(&self) -> BusStats {
        self.inner.counters().snapshot()
    }

    async fn stream_info(&self) -> StreamInfo {
        info::stream_info(&self.inner).await
    }

    async fn health(&self) -> Health {
        info::health(&self.inner).await
    }

    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        info::progress(&self.inner, group).await
    }
}
