//! The state that the clones of a bus and its consumers share.
//!
//! Invariant: each partition, each group's backlog and each of several consumers has a state of its own, derived here;
//! all of them share one connection, and the subscribers, counters and locks of the bus.

use std::sync::Arc;

use eventbus::{
    BoxError, Name, StreamId,
    delivery::{BusCounters, Consuming, RunLock, Subscribers},
    port::ConsumeError,
};
use redis::{Cmd, FromRedisValue, RedisError, ScriptInvocation};
use tokio::sync::Mutex;

use crate::{
    RedisCommandError, RedisEventBusConfig,
    config::consumer_name,
    connection::SharedConnection,
    dead_letter_gate::DeadLetterGate,
    error::{CommandError, InvalidConfig, PartitionCountMismatch},
    keys,
    layout_state::LayoutState,
    partition_hash::partition_of,
};

/// The state that the clones of a bus and its consumers share. Each partition has its own, with its stream.
#[derive(Clone)]
pub(crate) struct BusInner {
    config: RedisEventBusConfig,
    destination: Name,
    default_group: Name,
    consumer_name: String,
    /// A random id: distinguishes this bus object from others with the same consumer name.
    instance: String,
    /// Set if the consumer name is random: then no later start recovers the entries that this bus leaves pending.
    has_temporary_name: bool,
    /// The stream with the events; in the state of a partition that partition's stream.
    stream: String,
    /// The base name of the keys that partitions share: the stream itself, if there are no partitions.
    base_stream: String,
    /// The base stream of the bus; differs from `base_stream` in the state of a group's backlog.
    bus_stream: String,
    /// The states of the partitions, by number; empty if there is one stream.
    partitions: Vec<Arc<Self>>,
    layout: Arc<LayoutState>,
    connection: Arc<SharedConnection>,
    counters: Arc<BusCounters>,
    subscribers: Subscribers,
    consuming: Arc<Consuming>,
    /// Lets deliveries run side by side, or one suspected poison message alone.
    run_lock: RunLock,
    dead_letter_gate: Arc<DeadLetterGate>,
    /// Admits one manual recovery at a time: all use the same consumer name, so entries of two could not be told apart.
    recovery_lock: Arc<Mutex<()>>,
}

impl BusInner {
    /// Checks the configuration and prepares the state; sends no command.
    pub(crate) fn new(mut config: RedisEventBusConfig) -> Result<Self, InvalidConfig> {
        let counters = Arc::new(BusCounters::default());
        config.validate()?;
        let counted = Arc::clone(&counters);
        let link = SharedConnection::new(config.server(), move || counted.reconnections(1))?;
        let has_temporary_name = config.consumer_name.is_none();
        let consumer = config.consumer_name.take().unwrap_or_else(|| consumer_name(&config.clock));
        config.consumer_name = Some(consumer.clone());
        let stream = config.stream_name();
        let destination = parse_name("stream_prefix", &format!("redis:{stream}"))?;
        let default_group = parse_name("consumer_group", &config.consumer_group)?;
        let clock = config.clock.clone();
        let mut bus = Self {
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
            layout: Arc::default(),
            connection: Arc::new(link),
            counters,
            subscribers: Subscribers::default(),
            consuming: Arc::new(Consuming::with_clock(clock)),
            run_lock: RunLock::default(),
            dead_letter_gate: Arc::default(),
            recovery_lock: Arc::default(),
        };
        bus.connection.block_commands("the bus is not connected yet");
        bus.create_partitions();
        Ok(bus)
    }

    /// Creates the state of each partition.
    fn create_partitions(&mut self) {
        if self.config.partitions > 1 {
            let part = |number| Self { stream: keys::partition(&self.base_stream, number), ..self.clone() };
            self.partitions = (0..self.config.partitions).map(|number| Arc::new(part(number))).collect();
        }
    }

    pub(crate) fn config(&self) -> &RedisEventBusConfig {
        &self.config
    }

    pub(crate) fn destination(&self) -> &Name {
        &self.destination
    }

    pub(crate) fn default_group(&self) -> &Name {
        &self.default_group
    }

    pub(crate) fn consumer_name(&self) -> &str {
        &self.consumer_name
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    pub(crate) fn has_temporary_name(&self) -> bool {
        self.has_temporary_name
    }

    pub(crate) fn stream(&self) -> &str {
        &self.stream
    }

    pub(crate) fn base_stream(&self) -> &str {
        &self.base_stream
    }

    pub(crate) fn bus_stream(&self) -> &str {
        &self.bus_stream
    }

    pub(crate) fn partitions(&self) -> &[Arc<Self>] {
        &self.partitions
    }

    pub(crate) fn layout(&self) -> &LayoutState {
        &self.layout
    }

    pub(crate) fn connection(&self) -> &SharedConnection {
        &self.connection
    }

    pub(crate) fn counters(&self) -> &Arc<BusCounters> {
        &self.counters
    }

    pub(crate) fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }

    pub(crate) fn consuming(&self) -> &Consuming {
        &self.consuming
    }

    pub(crate) fn run_lock(&self) -> &RunLock {
        &self.run_lock
    }

    pub(crate) fn dead_letter_gate(&self) -> &DeadLetterGate {
        &self.dead_letter_gate
    }

    pub(crate) fn recovery_lock(&self) -> &Mutex<()> {
        &self.recovery_lock
    }

    /// Returns the buses of the partitions, or this one if there is one stream.
    pub(crate) fn partitions_or_self(&self) -> Vec<&Self> {
        match self.partitions.is_empty() {
            true => vec![self],
            false => self.partitions.iter().map(|part| &**part).collect(),
        }
    }

    /// Returns `true` if this is one of several partitions.
    pub(crate) fn is_partition(&self) -> bool {
        self.stream != self.base_stream
    }

    /// Returns the partition that carries the events of an aggregate; this bus if there is one stream.
    pub(crate) fn partition_for(&self, aggregate: &StreamId) -> &Self {
        self.partition(partition_of(aggregate, self.config.partitions))
    }

    /// Returns the partition with a number; this bus if there is one stream.
    pub(crate) fn partition(&self, number: u32) -> &Self {
        self.partitions.get(number as usize).map_or(self, |part| part)
    }

    /// Returns the bus state for reading the backlog of a group. With partitions one consumer at a time owns the whole
    /// backlog, so that its order holds; else the consumers of the group share it.
    pub(crate) fn for_backlog(&self, group: &Name) -> Self {
        let stream = keys::backlog(&self.base_stream, group);
        let mut backlog = Self {
            bus_stream: self.base_stream.clone(),
            base_stream: stream.clone(),
            stream,
            partitions: Vec::new(),
            layout: Arc::default(), // a backlog joins no layout
            ..self.clone()
        };
        (backlog.config.trim_max_length, backlog.config.trim_max_age_seconds) = (None, None);
        if !self.partitions.is_empty() {
            backlog.partitions = vec![Arc::new(backlog.clone())];
        }
        backlog
    }

    /// Returns `true` if this is the backlog of a group.
    pub(crate) fn is_backlog(&self) -> bool {
        self.base_stream != self.bus_stream
    }

    /// Returns the bus of one of several consumers.
    pub(crate) fn for_consumer(&self, number: usize) -> Self {
        Self {
            consumer_name: format!("{}-{number}", self.consumer_name),
            instance: format!("{}-{number}", self.instance),
            partitions: self.partitions.iter().map(|part| Arc::new(part.for_consumer(number))).collect(),
            ..self.clone()
        }
    }

    /// Converts an error of the server to an error of consuming.
    pub(crate) fn unavailable(&self, source: impl Into<BoxError>) -> ConsumeError {
        ConsumeError::Unavailable { destination: self.destination.clone(), source: source.into() }
    }

    /// Fails if the bus is disconnected or shut down.
    pub(crate) fn ensure_consuming(&self) -> Result<(), ConsumeError> {
        match self.consuming.is_closed() {
            true => Err(ConsumeError::ShutDown { destination: self.destination.clone() }),
            false => Ok(()),
        }
    }

    /// Runs a script once.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisCommandError> {
        self.ensure_open()?;
        self.connection.run(script).await.map_err(|error| self.command_error(error))
    }

    /// Runs a script that may run twice.
    pub(crate) async fn run_idempotent<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisCommandError> {
        self.ensure_open()?;
        self.connection.run_idempotent(script).await.map_err(|error| self.command_error(error))
    }

    /// Sends a command that may be sent twice.
    pub(crate) async fn query_idempotent<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisCommandError> {
        self.ensure_open()?;
        self.connection.query_idempotent(command).await.map_err(|error| self.command_error(error))
    }

    /// Sends a command that must not be sent twice.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisCommandError> {
        self.ensure_open()?;
        self.connection.query(command).await.map_err(|error| self.command_error(error))
    }

    pub(crate) fn ensure_open(&self) -> Result<(), RedisCommandError> {
        match self.consuming.is_closed() {
            true => Err(RedisCommandError::ShutDown { stream: self.stream.clone() }),
            false => Ok(()),
        }
    }

    pub(crate) fn command_error(&self, error: CommandError) -> RedisCommandError {
        let stream = self.stream.clone();
        if let CommandError::Sent(error) = &error
            && let Some(layout) = self.find_partition_count_mismatch(error)
        {
            return RedisCommandError::Refused { stream, source: layout.into() };
        }
        RedisCommandError::from_command_error(&stream, error)
    }

    /// Returns the number of partitions that an error reports, if it reports one.
    pub(crate) fn find_partition_count_mismatch(&self, error: &RedisError) -> Option<PartitionCountMismatch> {
        if error.code() != Some("LAYOUT") {
            return None;
        }
        Some(self.partition_count_mismatch(error.detail()?.split(' ').next()?.parse().ok()?))
    }

    pub(crate) fn partition_count_mismatch(&self, recorded: u32) -> PartitionCountMismatch {
        PartitionCountMismatch::new(self.base_stream.clone(), recorded, self.config.partitions)
    }
}

/// Parses a name that has passed the validation of the configuration.
fn parse_name(field: &'static str, value: &str) -> Result<Name, InvalidConfig> {
    Name::new(field, value).map_err(|error| InvalidConfig::new("bus", (field, error.reason.to_string())))
}
