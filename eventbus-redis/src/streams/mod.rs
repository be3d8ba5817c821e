//! Streams of plain events, of which each says its type, its time and its data: publishing, consuming, projecting.
//!
//! Keep: what is given here is a door to what the server can do. Scripts are where two commands would leave something
//! half done; there is one for all that a projection writes.

mod config;
mod consumer;
mod entry;
mod maintenance;
mod projection;
mod publisher;
mod reader;

use std::{fmt, sync::Arc, time::Duration};

use eventbus::port::BusCounters;
use redis::{Cmd, FromRedisValue};

pub use self::{
    config::RedisStreamsConfig,
    consumer::{Claim, Claimed, ClaimedEntry, Consume, EventConsumer},
    entry::{EntryError, StreamEntry},
    maintenance::{GroupHealth, StreamHealth},
    projection::{Applied, Effects, EventProjection, ProjectionProgress, StreamProjectionError},
    publisher::{EventPublishError, EventPublisher},
    reader::StreamReader,
};
use crate::{
    RedisCommandError, RedisConnectError, blocking_read::READ_BLOCK_MAX, command, connection::SharedConnection,
    error::InvalidConfig, script,
};

/// Streams of plain events on a Redis server. Cloning shares the connection.
///
/// An entry has the fields `type`, `timestamp` (milliseconds since 1970) and `data` (JSON), whatever program wrote it.
/// Nothing here needs a store: for aggregates with versions there is [`RedisEventStore`](crate::RedisEventStore), for
/// handlers that are tried again and dead letters [`RedisEventBus`](crate::RedisEventBus).
///
/// # Examples
/// ```no_run
/// use eventbus_redis::{Consume, RedisStreams, RedisStreamsConfig};
/// use serde_json::json;
///
/// # async fn run() -> eventbus::Result<()> {
/// let streams = RedisStreams::connect(RedisStreamsConfig::default()).await?; // redis://localhost:6379
/// let publisher = streams.publisher();
/// publisher.publish("orders", "order.created", &json!({ "order_id": "12345", "total": 49.99 })).await?;
///
/// let mut consumer = streams.consumer("events:orders", "billing-service", "billing-1").await?;
/// for entry in consumer.consume(Consume::default()).await? {
///     println!("{} {}", entry.id, entry.event_type()?);
///     consumer.acknowledge([&entry.id]).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStreams {
    inner: Arc<StreamsInner>,
}

struct StreamsInner {
    config: RedisStreamsConfig,
    connection: SharedConnection,
    /// Whether keys that are used together must share a slot.
    is_cluster: bool,
}

impl RedisStreams {
    /// Connects.
    ///
    /// # Errors
    /// [`RedisConnectError`] if the configuration has mistakes, the server is not there, does not answer in time or
    /// refuses, or is a node of a cluster and the prefix has no hash tag. It names the address, never the password.
    pub async fn connect(config: RedisStreamsConfig) -> Result<Self, RedisConnectError> {
        config.validate()?;
        let mistaken = |mistake| InvalidConfig::for_streams(vec![mistake]);
        let link = SharedConnection::new(config.server(), Arc::new(BusCounters::default())).map_err(mistaken)?;
        let _: u64 = link.connect(&script::CHECK_SCRIPTING.prepare_invoke()).await?;
        // not everybody may ask
        let info: String = link.query(&command::cluster_info()).await.unwrap_or_default();
        let is_cluster = command::is_cluster_node(&info);
        Ok(Self { inner: Arc::new(StreamsInner { config, connection: link, is_cluster }) })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &RedisStreamsConfig {
        &self.inner.config
    }

    /// Publishes to streams, each called without its prefix.
    #[must_use]
    pub fn publisher(&self) -> EventPublisher {
        EventPublisher::new(self)
    }

    /// Joins a consumer group of the stream of a key, as `events:orders`. A group that is missing is made, and begins
    /// with the oldest entry; so is a stream that is missing.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    pub async fn consumer(&self, key: &str, group: &str, consumer: &str) -> Result<EventConsumer, RedisCommandError> {
        EventConsumer::join(self, key, group, consumer).await
    }

    /// Reads the stream of a key by hand, from the oldest entry on: see [`StreamReader`].
    #[must_use]
    pub fn reader(&self, key: &str) -> StreamReader {
        StreamReader::new(self, key)
    }

    fn connection(&self) -> &SharedConnection {
        &self.inner.connection
    }

    /// How long the reply of a read may take that waits for a slice of time.
    fn read_timeout(&self) -> Duration {
        self.config().socket_timeout.saturating_add(READ_BLOCK_MAX)
    }

    /// Sends a command about a key that may be sent twice.
    async fn query<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, RedisCommandError> {
        self.connection().query(command).await.map_err(|error| RedisCommandError::from_command_error(key, error))
    }
}

impl fmt::Debug for RedisStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStreams").field("config", self.config()).finish_non_exhaustive()
    }
}
