//! The bus itself: what its clones share, and the port it implements.

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
        Subscribers,
    },
};
use tokio::sync::{Mutex, Notify, RwLock};

use crate::{
    History, RedisConnectError, RedisEventBusConfig,
    backlog::consume_error,
    command,
    config::consumer_name,
    connection::{SharedConnection, boxed},
    consumer::{self, Recovery, RecoveryStats},
    dead_letter_copies,
    error::{ConfigMistake, InvalidConfig},
    group::GroupCreation,
    keys,
};

/// A bus on Redis Streams. Cloning shares it.
///
/// Its consumers keep the order of an aggregate each; with [`partitions`](RedisEventBusConfig::partitions) all of a group
/// do together.
///
/// Events published by one process reach the handlers of all others. Each consumer group gets every event at least
/// once; the consumers of a group, one per bus object that consumes or [several](RedisEventBusConfig::consumers), share
/// its events. A delivery with a failed handler is tried again while other aggregates flow on, and becomes a dead letter
/// at last; what a consumer has in hand when it dies is handled by the next one of its
/// [name](RedisEventBusConfig::consumer_name), or by another one later.
///
/// # Connections
/// A bus holds one connection, which all that does not wait for entries shares, and one more for each consumer that it
/// is in a group, on which nothing but its reads waits; with
/// [`single_connection_client`](RedisEventBusConfig::single_connection_client) one in all. Each
/// [`follow`](History::follow) has its own besides.
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

/// What the clones of a bus, and its consumers, share. Each partition has its own, which differs by the stream.
#[derive(Clone)]
pub(crate) struct BusInner {
    pub(crate) config: RedisEventBusConfig,
    pub(crate) destination: Name,
    pub(crate) default_group: Name,
    pub(crate) consumer_name: String,
    /// Tells this bus object from another one of its name.
    pub(crate) instance: String,
    /// Whether the next start has another consumer name, so that nobody would look for what this one leaves.
    pub(crate) has_temporary_name: bool,
    /// The stream with the events: of a partition, if this is one's.
    pub(crate) stream: String,
    /// What the keys are named after that partitions have in common: the stream itself, where there are none.
    pub(crate) base_stream: String,
    /// The same, of the bus itself, where this is the backlog of a group.
    pub(crate) bus_stream: String,
    /// Those of the partitions, by number; none, where there is one stream.
    pub(crate) partitions: Vec<Arc<Self>>,
    /// That of the layout of the partitions, a decimal.
    pub(crate) layout_generation: Arc<OnceLock<String>>,
    /// Whether the layout was joined; held by the one who joins it.
    pub(crate) is_joined: Arc<Mutex<bool>>,
    pub(crate) connection: Arc<SharedConnection>,
    pub(crate) counters: Arc<BusCounters>,
    pub(crate) subscribers: Subscribers,
    pub(crate) consuming: Arc<Consuming>,
    /// Which deliveries run at once.
    pub(crate) run_lock: RunLock,
    /// Held by those who write a dead letter, until it is counted.
    pub(crate) dead_letter_lock: Arc<RwLock<()>>,
    /// Signals a new dead letter to the one who copies them.
    pub(crate) dead_letter_signal: Arc<Notify>,
    /// Held by a recovery by hand: all of them have one name, so nothing else tells whose an entry is.
    pub(crate) recovery_lock: Arc<Mutex<()>>,
}

impl RedisEventBus {
    /// Connects, and creates the stream and the consumer group of the configuration where they are missing. The group
    /// begins with the oldest event.
    ///
    /// # Errors
    /// [`RedisConnectError`] if the configuration has mistakes, or the server is not there, does not answer in time or
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

    /// Makes a bus that is not connected yet: the configuration is checked, and no server asked.
    ///
    /// An app connects it when it starts: a server that is away then is waited for in the background, while the app saves
    /// and says that the bus is away; one that refuses, as it was given a wrong password, another number of partitions or
    /// no certificate that it trusts, is an error of the start. Without an app
    /// [`ensure_connected`](EventBus::ensure_connected) connects; before that nothing is published or consumed.
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
        let is_passing = config.consumer_name.is_none();
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
            has_temporary_name: is_passing,
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
        bus.connection.block_commands("it is not connected yet");
        bus.create_partitions();
        Ok(Self { inner: Arc::new(bus) })
    }

    /// The configuration, with the name that this consumer has.
    #[must_use]
    pub fn config(&self) -> &RedisEventBusConfig {
        &self.inner.config
    }

    /// Whether the bus is connected as far as it knows; a lost connection is noticed with the next command.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.inner.consuming.is_closed() && self.inner.connection.is_up()
    }

    /// Takes over entries of the bus's own group that have been pending without a sign of life, whoever had them, and
    /// handles each once with the subscribers of this bus. A consumer does that by itself while it consumes; this is for
    /// a process that does not, or wants it now.
    ///
    /// Without subscribers nothing is taken over. A failed entry stays pending for the next recovery or consumer. Several
    /// calls on one bus follow each other, so a handler must not wait for one.
    ///
    /// # Errors
    /// [`ConsumeError::Unavailable`] if the server cannot be asked; what was not written down is delivered again.
    /// [`ConsumeError::ShutDown`] after a shutdown.
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

    /// Reads the stream by hand, from the oldest entry on: see [`History`].
    #[must_use]
    pub fn history(&self) -> History {
        History::new(Arc::clone(&self.inner))
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// What the transport said.
    pub async fn ping(&self) -> Result<(), BoxError> {
        let ping = command::ping();
        let reply = self.inner.connection.query::<redis::Value>(&ping).await;
        reply.map(drop).map_err(boxed)
    }

    /// Stops consuming after the deliveries in hand, and lets the connections go. The bus cannot be used any more.
    pub async fn disconnect(&self) {
        self.inner.consuming.close();
        self.inner.consuming.stop().await;
        self.inner.connection.close();
    }
}

impl BusInner {
    /// Makes what each partition has of its own.
    fn create_partitions(&mut self) {
        if self.config.partitions > 1 {
            let part = |number| Self { stream: keys::partition(&self.base_stream, number), ..self.clone() };
            self.partitions = (0..self.config.partitions).map(|number| Arc::new(part(number))).collect();
        }
    }

    /// That of the layout of the partitions, a decimal; `0` before it is known.
    pub(crate) fn layout_generation(&self) -> &str {
        self.layout_generation.get().map_or("0", |generation| generation)
    }

    /// Connects, joins the layout of the stream, and makes the default group; once.
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
            // it holds no trimming until somebody joins it
            let create = part.create_group_script(&self.default_group, "0-0", GroupCreation::Unjoined);
            self.connection
                .run_idempotent::<redis::Value>(&create)
                .await
                .map_err(|error| self.connection.setup_error(error))?;
        }
        Ok(())
    }
}

/// Makes a name that the validation of the configuration has let through.
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

    fn subscribers(&self) -> &Subscribers {
        &self.inner.subscribers
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
