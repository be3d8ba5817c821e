//! The bus: the state that its clones share, and the port that it implements.

use std::{
    error::Error as _,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, RecordedEvent,
    port::{
        Announced, Backlogs, BusCounters, BusStats, ConnectError, ConsumeError, Consuming, EventBus, EventStore,
        GroupProgress, Health, MessageId, PublishError, RelayTarget, RunLock, ShutdownError, SkippedBefore, StreamInfo,
        Subscriber, SubscriberStatus, Subscribers, Subscription,
    },
};
use tokio::sync::{Mutex, Notify, RwLock};

use crate::{
    History, RedisConnectError, RedisEventBusConfig,
    backlog::consume_error,
    command,
    config::consumer_name,
    connection::SharedConnection,
    consumer::{self, Recovery, RecoveryStats},
    dead_letter_copies,
    error::{ConfigMistake, InvalidConfig, boxed},
    group::GroupCreation,
    keys,
};

/// A bus on Redis Streams. Cloning shares it.
///
/// Each consumer keeps the order of an aggregate; with [`partitions`](RedisEventBusConfig::partitions) all consumers of
/// a group together keep it.
///
/// Events published by one process reach the handlers of all other processes. Each consumer group gets every event at
/// least once; the consumers of a group, one per bus object that consumes or [several](RedisEventBusConfig::consumers),
/// share its events. The consumer retries a delivery with a failed handler while other aggregates flow on, and finally
/// moves it to the dead letters. The in-flight entries of a consumer that dies go to the next one of its
/// [name](RedisEventBusConfig::consumer_name), or later to any other consumer.
///
/// # Connections
/// A bus holds one connection, which all commands but blocking reads share, and for each group one more per consumer,
/// which only its reads use; with [`single_connection_client`](RedisEventBusConfig::single_connection_client) one in
/// all. Each [`follow`](History::follow) has its own besides.
///
/// # Examples
/// ```no_run
/// use eventbus::port::EventBus;
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
#[derive(Clone)]
pub struct RedisEventBus {
    pub(crate) inner: Arc<BusInner>,
}

/// The state that the clones of a bus and its consumers share. Each partition has its own, with its stream.
#[derive(Clone)]
pub(crate) struct BusInner {
    pub(crate) config: RedisEventBusConfig,
    pub(crate) destination: Name,
    pub(crate) default_group: Name,
    pub(crate) consumer_name: String,
    /// A random id: tells this bus object from those of the same consumer name.
    pub(crate) instance: String,
    /// Set if the consumer name is random: then no later start recovers the entries that this bus leaves pending.
    pub(crate) has_temporary_name: bool,
    /// The stream with the events; in the state of a partition that partition's stream.
    pub(crate) stream: String,
    /// The base name of the keys that partitions share: the stream itself, if there are no partitions.
    pub(crate) base_stream: String,
    /// The base stream of the bus; differs from `base_stream` in the state of a group's backlog.
    pub(crate) bus_stream: String,
    /// The states of the partitions, by number; empty if there is one stream.
    pub(crate) partitions: Vec<Arc<Self>>,
    /// The generation of the partition layout, a decimal.
    pub(crate) layout_generation: Arc<OnceLock<String>>,
    /// Set once the bus has joined the layout. The lock admits one join at a time.
    pub(crate) is_joined: Arc<Mutex<bool>>,
    pub(crate) connection: Arc<SharedConnection>,
    pub(crate) counters: Arc<BusCounters>,
    pub(crate) subscribers: Subscribers,
    pub(crate) consuming: Arc<Consuming>,
    /// Lets deliveries run side by side, or one suspected poison message alone.
    pub(crate) run_lock: RunLock,
    /// Writers of dead letters hold it shared until the dead letter is counted; `progress` waits for them.
    pub(crate) dead_letter_lock: Arc<RwLock<()>>,
    /// Wakes the task that copies dead letters to the store.
    pub(crate) dead_letter_signal: Arc<Notify>,
    /// Admits one manual recovery at a time: all have one consumer name, so it does not tell whose an entry is.
    pub(crate) recovery_lock: Arc<Mutex<()>>,
}

impl RedisEventBus {
    /// Connects, and creates the stream and the consumer group of the configuration where they are missing. The group
    /// begins with the oldest event.
    ///
    /// # Errors
    /// [`RedisConnectError`] if the configuration has mistakes, or the server is unreachable, does not reply in time or
    /// refuses. It names the address, never the password.
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
        bus.inner.join().await?;
        Ok(bus)
    }

    /// Creates a bus that is not connected yet: checks the configuration, and asks no server.
    ///
    /// An app connects the bus when it starts. While the server is away, the app retries in the background, saves, and
    /// reports that the bus is away; if the server refuses, as with a wrong password, a different number of partitions
    /// or a certificate that the client does not trust, the start fails. Without an app
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
    pub fn lazy(mut config: RedisEventBusConfig) -> Result<Self, InvalidConfig> {
        let counters = Arc::new(BusCounters::default());
        config.validate()?;
        let link = SharedConnection::new(config.server(), Arc::clone(&counters))
            .map_err(|mistake| InvalidConfig::for_bus(vec![mistake]))?;
        let has_temporary_name = config.consumer_name.is_none();
        let consumer = config.consumer_name.take().unwrap_or_else(|| consumer_name(&config.clock));
        config.consumer_name = Some(consumer.clone());
        let stream = config.stream_name();
        let destination = parse_name("stream_prefix", &format!("redis:{stream}"))?;
        let default_group = parse_name("consumer_group", &config.consumer_group)?;
        let clock = config.clock.clone();
        let mut bus = BusInner {
            config,
            destination,
            default_group,
            consumer_name: consumer,
            instance: clock.new_id().simple().to_string(),
            has_temporary_name,
            bus_stream: stream.clone(),
            base_stream: stream.clone(),
            stream,
            partitions: Vec::new(),
            layout_generation: Arc::default(),
            is_joined: Arc::default(),
            connection: Arc::new(link),
            counters,
            subscribers: Subscribers::default(),
            consuming: Arc::new(Consuming::with_clock(clock)),
            run_lock: RunLock::default(),
            dead_letter_lock: Arc::default(),
            dead_letter_signal: Arc::default(),
            recovery_lock: Arc::default(),
        };
        bus.connection.block_commands("the bus is not connected yet");
        bus.create_partitions();
        Ok(Self { inner: Arc::new(bus) })
    }

    /// Returns the configuration, with the consumer name that this bus uses.
    #[must_use]
    pub fn config(&self) -> &RedisEventBusConfig {
        &self.inner.config
    }

    /// Returns `true` if no error has shown the connection to be lost; the next command notices a loss.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.inner.consuming.is_closed() && self.inner.connection.is_up()
    }

    /// Takes over entries of the bus's own group that have been pending without a sign of life, whichever consumer had
    /// them, and handles each once with the subscribers of this bus. A consumer does that by itself while it consumes;
    /// call this in a process that does not consume, or to do it now.
    ///
    /// Without subscribers it takes over no entry. A failed entry stays pending for the next recovery or consumer.
    /// Several calls on one bus run one after the other, so a handler must not wait for one.
    ///
    /// # Errors
    /// [`ConsumeError::Unavailable`] if the server cannot be reached; entries whose outcome was not written are
    /// delivered again. [`ConsumeError::ShutDown`] after a shutdown.
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
        self.inner.recover(recovery).await
    }

    /// Returns a reader of the stream without a group, from the oldest entry on: see [`History`].
    #[must_use]
    pub fn history(&self) -> History {
        History::new(Arc::clone(&self.inner))
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// The transport's error, or the server's.
    pub async fn ping(&self) -> Result<(), BoxError> {
        let ping = command::ping();
        let reply = self.inner.connection.query::<redis::Value>(&ping).await;
        reply.map(drop).map_err(boxed)
    }

    /// Stops consuming after the running deliveries, and closes the connections. The bus cannot be used any more.
    pub async fn disconnect(&self) {
        self.inner.consuming.close();
        self.inner.consuming.stop().await;
        self.inner.connection.close();
    }
}

impl BusInner {
    /// Creates the state of each partition.
    fn create_partitions(&mut self) {
        if self.config.partitions > 1 {
            let part = |number| Self { stream: keys::partition(&self.base_stream, number), ..self.clone() };
            self.partitions = (0..self.config.partitions).map(|number| Arc::new(part(number))).collect();
        }
    }

    /// Returns the generation of the partition layout, a decimal; `0` before the bus has joined.
    pub(crate) fn layout_generation(&self) -> &str {
        self.layout_generation.get().map_or("0", |generation| generation)
    }

    /// Connects, joins the layout of the stream, and creates the default group; does so once.
    async fn join(&self) -> Result<(), RedisConnectError> {
        let mut joined = self.is_joined.lock().await;
        if *joined {
            return Ok(());
        }
        let result = self.try_join().await;
        match &result {
            Ok(()) => *joined = true,
            Err(error) => {
                let why = error.source().map_or_else(String::new, |source| format!(": {source}"));
                // an unjoined bus may not match the layout, so it must not send other commands
                self.connection.block_commands(&format!("{error}{why}"));
            }
        }
        result
    }

    async fn try_join(&self) -> Result<(), RedisConnectError> {
        let (recorded, generation): (u32, String) = self.connection.connect(&self.join_layout_script()).await?;
        if recorded != self.config.partitions {
            return Err(self.partition_count_mismatch(recorded).into());
        }
        let _ = self.layout_generation.set(generation);
        self.connection.allow_commands();
        for part in self.partitions_or_self() {
            // the group holds no trimming until a consumer joins it
            let create = part.create_group_script(&self.default_group, "0-0", GroupCreation::Unjoined);
            self.connection
                .run_idempotent::<redis::Value>(&create)
                .await
                .map_err(|error| self.connection.setup_error(error))?;
        }
        Ok(())
    }
}

/// Parses a name that has passed the validation of the configuration.
fn parse_name(field: &'static str, value: &str) -> Result<Name, InvalidConfig> {
    Name::new(field, value)
        .map_err(|error| InvalidConfig::for_bus(vec![ConfigMistake::new(field, error.reason.to_string())]))
}

impl fmt::Debug for RedisEventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEventBus")
            .field("config", &self.inner.config)
            .field("is_connected", &self.is_connected())
            .field("is_consuming", &self.is_consuming())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl EventBus for RedisEventBus {
    fn destination(&self) -> &Name {
        &self.inner.destination
    }

    fn describe(&self) -> String {
        let bus = &self.inner;
        format!("RedisEventBus {} stream {}", bus.config.server().address(), bus.config.stream_name())
    }

    fn default_group(&self) -> &Name {
        &self.inner.default_group
    }

    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.inner.publish(events).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        Some(self)
    }

    fn backlogs(&self) -> Option<&dyn Backlogs> {
        Some(self)
    }

    async fn announce(
        &self,
        announced: &[Announced],
        _store: Option<&dyn EventStore>,
    ) -> Result<Vec<SkippedBefore>, ConsumeError> {
        self.inner.announce(announced).await.map_err(|error| consume_error(&self.inner, error))
    }

    async fn copy_dead_letters(&self, store: Arc<dyn EventStore>) {
        if self.inner.config.enable_dlq && store.notes().is_some() {
            dead_letter_copies::run_copier(Arc::clone(&self.inner), store).await;
        }
    }

    async fn ensure_connected(&self) -> Result<(), ConnectError> {
        let destination = || self.inner.destination.clone();
        self.inner.join().await.map_err(|error| match error.is_retryable() {
            true => ConnectError::Unavailable { destination: destination(), source: error.into() },
            false => ConnectError::Refused { destination: destination(), source: error.into() },
        })
    }

    fn add_subscriber(&self, group: Name, subscriber: Subscriber) -> Subscription {
        self.inner.subscribers.add(group, subscriber)
    }

    fn subscribers(&self) -> Vec<Arc<dyn SubscriberStatus>> {
        self.inner.subscribers.list()
    }

    fn report(&self, health: Health) -> Health {
        self.inner.subscribers.report(health)
    }

    /// Creates the groups that are missing; they begin with the oldest event.
    async fn start_consuming(&self) -> Result<(), ConsumeError> {
        let bus = &self.inner;
        let unavailable = |error: RedisConnectError| ConsumeError::Unavailable {
            destination: bus.destination.clone(),
            source: error.into(),
        };
        bus.join().await.map_err(unavailable)?;
        let consume = |group, stop| consumer::consume_all(Arc::clone(bus), group, stop);
        bus.consuming.run(&bus.destination, &bus.subscribers, consume).await
    }

    async fn stop_consuming(&self) {
        self.inner.consuming.stop().await;
    }

    fn is_consuming(&self) -> bool {
        self.inner.consuming.is_running()
    }

    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        let what = &self.inner.destination;
        let ended = self.inner.consuming.shutdown(what, timeout).await;
        self.inner.connection.close();
        ended
    }

    fn stats(&self) -> BusStats {
        self.inner.counters.snapshot()
    }

    async fn stream_info(&self) -> StreamInfo {
        self.inner.stream_info().await
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        self.inner.progress(group).await
    }
}
