//! The state that the clones of a bus and its consumers share.
//!
//! Invariant: the connection sends no command before the bus has joined.

use std::sync::Arc;

use eventbus::{
    BoxError, Name,
    delivery::{BusCounters, Consuming, Subscribers, SuspectLock},
    port::ConsumeError,
};
use redis::{Cmd, FromRedisValue, ScriptInvocation};
use tokio::sync::Mutex;

use crate::{
    RedisCommandError, RedisEventBusConfig,
    config::consumer_name,
    connection::SharedConnection,
    error::{CommandError, InvalidConfig},
};

/// The state that the clones of a bus and its consumers share.
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
    stream: String,
    /// Set once the bus has joined. The lock admits one join at a time.
    joined: Arc<Mutex<bool>>,
    connection: Arc<SharedConnection>,
    counters: Arc<BusCounters>,
    subscribers: Subscribers,
    consuming: Arc<Consuming>,
    /// Lets one suspect run at a time.
    suspect_lock: SuspectLock,
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
        let bus = Self {
            config,
            destination,
            default_group,
            consumer_name: consumer,
            instance: clock.new_id().simple().to_string(),
            has_temporary_name,
            stream,
            joined: Arc::default(),
            connection: Arc::new(link),
            counters,
            subscribers: Subscribers::default(),
            consuming: Arc::new(Consuming::with_clock(clock)),
            suspect_lock: SuspectLock::default(),
            recovery_lock: Arc::default(),
        };
        bus.connection.block_commands("the bus is not connected yet");
        Ok(bus)
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

    pub(crate) fn joined(&self) -> &Mutex<bool> {
        &self.joined
    }

    pub(crate) fn connection(&self) -> &Arc<SharedConnection> {
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

    pub(crate) fn suspect_lock(&self) -> &SuspectLock {
        &self.suspect_lock
    }

    pub(crate) fn recovery_lock(&self) -> &Mutex<()> {
        &self.recovery_lock
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
        RedisCommandError::from_command_error(&self.stream, error)
    }
}

/// Parses a name that has passed the validation of the configuration.
fn parse_name(field: &'static str, value: &str) -> Result<Name, InvalidConfig> {
    Name::new(field, value).map_err(|error| InvalidConfig::new("bus", (field, error.reason.to_string())))
}
