//! Streams of plain events, each with a type, a time and data: publishing, consuming, projecting.
//!
//! Invariant: these types add little to the commands of the server. A script replaces commands only if two of them
//! could leave a state half done; one script makes all writes of a projection.

mod config;
mod consumer;
mod entry;
mod maintenance;
mod projection;
mod publisher;
mod reader;

use std::{sync::Arc, time::Duration};

use eventbus::port::MessageId;
use eventbus_redis_core::script::CHECK_SCRIPTING;
use redis::{Cmd, FromRedisValue};

pub use self::{
    config::RedisStreamsConfig,
    consumer::{Claim, Claimed, Consume, EventConsumer},
    entry::{EntryError, StreamEntry},
    maintenance::{GroupHealth, StreamHealth},
    projection::{Applied, Effects, EventProjection, ProjectionProgress, StreamProjectionError},
    publisher::{EventPublishError, EventPublisher},
    reader::StreamReader,
};
use crate::{
    RedisCommandError, RedisConnectError, Trim, Trimmed, blocking_read::READ_BLOCK_MAX, connection::SharedConnection,
    reply,
};

/// Streams of plain events on a Redis server. Cloning shares the connection.
///
/// An entry has the fields `type`, `timestamp` (milliseconds since 1970) and `data` (JSON), so programs in any language
/// can write it. Streams need no store. For aggregates with versions, use `RedisEventStore` of `eventstore-redis`; for
/// handlers with retries and dead letters, use [`RedisEventBus`](crate::RedisEventBus).
///
/// # Examples
/// ```no_run
/// use eventbus_redis::streams::{Consume, RedisStreams, RedisStreamsConfig};
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
#[derive(Debug, Clone)]
pub struct RedisStreams {
    inner: Arc<StreamsInner>,
}

#[derive(Debug)]
struct StreamsInner {
    config: RedisStreamsConfig,
    connection: Arc<SharedConnection>,
    /// Set if keys of one step must share a slot.
    is_cluster: bool,
}

impl RedisStreams {
    /// Connects.
    ///
    /// # Errors
    /// [`RedisConnectError`] if the configuration has mistakes, the server cannot be reached, does not answer in time
    /// or refuses, or is a node of a cluster and the prefix has no hash tag. The error names the address, never the
    /// password.
    pub async fn connect(config: RedisStreamsConfig) -> Result<Self, RedisConnectError> {
        config.validate()?;
        let link = SharedConnection::new(config.server(), || {})?;
        let _: u64 = link.connect(&CHECK_SCRIPTING.prepare_invoke()).await?;
        // a user may lack the right to `INFO`: the server then counts as no cluster
        let info: String = link.query_idempotent(&reply::cluster_info()).await.unwrap_or_default();
        let is_cluster = reply::is_cluster_node(&info);
        Ok(Self { inner: Arc::new(StreamsInner { config, connection: Arc::new(link), is_cluster }) })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &RedisStreamsConfig {
        &self.inner.config
    }

    /// Returns a publisher, which names streams without the prefix.
    #[must_use]
    pub fn publisher(&self) -> EventPublisher {
        EventPublisher::new(self)
    }

    /// Joins a consumer group of the stream of a key, such as `events:orders`. Creates the stream if it is missing, and
    /// the group too, which then begins with the oldest entry.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    pub async fn consumer(&self, key: &str, group: &str, consumer: &str) -> Result<EventConsumer, RedisCommandError> {
        EventConsumer::join(self, key, group, consumer).await
    }

    /// Returns a reader of the stream of a key without a group, from the oldest entry on: see [`StreamReader`].
    #[must_use]
    pub fn reader(&self, key: &str) -> StreamReader {
        StreamReader::new(self, key)
    }

    /// Returns a projection without handlers over the stream of a key, such as `events:orders`.
    #[must_use]
    pub fn projection(&self, name: &str, key: &str) -> EventProjection {
        EventProjection::new(self, name, key)
    }

    /// Adds an entry with fields of any names to the stream of a key, and returns its id.
    ///
    /// # Errors
    /// [`RedisCommandError`]; after [`OutcomeUnknown`](RedisCommandError::OutcomeUnknown) the entry may be there.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(streams: eventbus_redis::streams::RedisStreams) -> eventbus::Result<()> {
    /// streams.add("orders:events", &[("type", "created"), ("order_id", "123"), ("total", "99.99")]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn add<V: AsRef<[u8]>>(&self, key: &str, fields: &[(&str, V)]) -> Result<MessageId, RedisCommandError> {
        publisher::add_entry(self, key, fields, None).await
    }

    /// Adds an entry like [`add`](Self::add), and makes the server keep only about `max_length` entries. **This also
    /// removes entries that groups and projections have not read.**
    ///
    /// # Errors
    /// [`RedisCommandError`], as [`add`](Self::add).
    pub async fn add_capped<V: AsRef<[u8]>>(
        &self,
        key: &str,
        fields: &[(&str, V)],
        max_length: u64,
    ) -> Result<MessageId, RedisCommandError> {
        publisher::add_entry(self, key, fields, Some(max_length)).await
    }

    /// Removes the oldest entries of the stream of a key that are beyond the limits, as far as every consumer group and
    /// every [projection](EventProjection) over it has finished them. [`held_by`](Trimmed::held_by) names the group or
    /// projection that holds the rest.
    ///
    /// Groups count as they do for [`RedisEventBus::trim`](crate::RedisEventBus::trim), until they are
    /// [retired](Self::retire_group); a projection counts from its first run until it is
    /// [retired](EventProjection::retire). A later rebuild begins with the entries that remain.
    ///
    /// # Errors
    /// [`RedisCommandError`]; entries that were already removed stay removed, and a further call goes on with the rest.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(streams: eventbus_redis::streams::RedisStreams) -> eventbus::Result<()> {
    /// use eventbus_redis::Trim;
    /// use std::time::Duration;
    /// let limits = Trim { max_length: Some(100_000), max_age: Some(Duration::from_secs(24 * 3_600)) };
    /// let trimmed = streams.trim("events:orders", limits).await?;
    /// println!("{} removed, the rest is held by {:?}", trimmed.removed, trimmed.held_by);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn trim(&self, key: &str, limits: Trim) -> Result<Trimmed, RedisCommandError> {
        maintenance::trim(self, key, limits, false).await
    }

    /// Removes the oldest entries that are beyond the limits, **also those that groups and projections have not read**:
    /// groups lose them, and a projection [stops](StreamProjectionError::Missing) at its next run.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    pub async fn trim_may_lose(&self, key: &str, limits: Trim) -> Result<Trimmed, RedisCommandError> {
        maintenance::trim(self, key, limits, true).await
    }

    /// Removes a consumer group of the stream of a key for good, with its pending entries, so that it no longer holds up
    /// [trimming](Self::trim). Returns `true` if there was such a group.
    ///
    /// Stop its consumers first: a consumer that reads on creates the group again, which begins with the oldest entry.
    /// For a group of a bus, call [`RedisEventBus::retire_group`](crate::RedisEventBus::retire_group), which also
    /// removes its further keys.
    ///
    /// # Errors
    /// [`RedisCommandError`]; calling again is safe.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(streams: eventbus_redis::streams::RedisStreams) -> eventbus::Result<()> {
    /// use eventbus_redis::TrimBlockReason;
    /// let trimmed = streams.trim("events:orders", Default::default()).await?;
    /// if let Some(held_by) = trimmed.held_by.filter(|held_by| held_by.group == "old-reports") {
    ///     println!("`old-reports` holds entries since {:?}", held_by.age);
    ///     streams.retire_group("events:orders", "old-reports").await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "xgroup destroy")]
    pub async fn retire_group(&self, key: &str, group: &str) -> Result<bool, RedisCommandError> {
        maintenance::retire_group(self, key, group).await
    }

    /// Returns the state of the stream of a key. A missing stream is empty.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(streams: eventbus_redis::streams::RedisStreams) -> eventbus::Result<()> {
    /// let health = streams.health("events:orders").await?;
    /// println!("stream length: {}", health.length);
    /// for group in health.consumer_groups {
    ///     println!("group {}: {} pending", group.name, group.pending);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "xinfo")]
    pub async fn health(&self, key: &str) -> Result<StreamHealth, RedisCommandError> {
        maintenance::health(self, key).await
    }

    fn connection(&self) -> &Arc<SharedConnection> {
        &self.inner.connection
    }

    /// Returns `true` if keys of one step must share a slot.
    fn is_cluster(&self) -> bool {
        self.inner.is_cluster
    }

    /// Returns the time limit of the reply of a read that blocks for [`READ_BLOCK_MAX`].
    fn read_timeout(&self) -> Duration {
        self.config().socket_timeout.saturating_add(READ_BLOCK_MAX)
    }

    /// Sends a command about a key; it may be sent twice.
    async fn query_idempotent<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, RedisCommandError> {
        self.connection()
            .query_idempotent(command)
            .await
            .map_err(|error| RedisCommandError::from_command_error(key, error))
    }
}
