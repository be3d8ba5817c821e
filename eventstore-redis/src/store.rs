//! The event store on Redis Streams.
//!
//! A stream per aggregate holds its events, under ids that are their versions; one stream, the feed, holds a pointer to
//! each event, under ids that are the positions; a hash maps the id of each event to its position.
//!
//! Invariant: one script writes all of them, and no other code does. Reads check entries against the ids: a gap, or an
//! entry of another client, is an error that names key and entry.

use std::{error::Error, sync::Arc};

use eventbus::{
    port::{
        EventStore, EventTypes, HandlerProgress, MultiStreamAppends, Notes, ReadError, ServerFault, Snapshots,
        listings::Listings,
    },
    store::UniqueValues,
};
use eventbus_redis_core::{error::RedisConnectError, reply::request, url::address};

use crate::{
    Durability, RedisEventStoreConfig, durability,
    error::{corrupt_key, read_error},
    fault,
    inner::StoreInner,
};

/// An event store on Redis Streams alone, for applications that have Redis and no database. Clones share one store.
///
/// It has no transactions for handlers and projections, and no tags: an app on it refuses to start with a handler or
/// projection that takes a transaction, and a save of an event with tags is refused. A handler saves by a
/// [`Repository`](eventbus::Repository), exactly once.
///
/// # Examples
/// ```no_run
/// use eventbus::prelude::*;
/// use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
///
/// # async fn run() -> eventbus::Result<()> {
/// let store = RedisEventStore::connect(RedisEventStoreConfig::default()).await?; // redis://localhost:6379
/// App::builder().store(store).discover().start().await?.run_until_signal().await
/// # }
/// ```
#[derive(derive_more::Debug, Clone)]
#[debug("{inner:?}")]
pub struct RedisEventStore {
    inner: Arc<StoreInner>,
}

impl RedisEventStore {
    /// Connects, and creates the store if there is none with this prefix yet.
    ///
    /// # Errors
    /// [`RedisConnectError`] if the configuration has mistakes, the server cannot be reached, does not answer in time
    /// or refuses, is a node of a cluster and the prefix has no hash tag, or holds keys of other types under the names
    /// of the store's keys. The error names the address, never the password.
    ///
    /// # Examples
    /// ```
    /// use eventstore_redis::{RedisConnectError, RedisEventStore, RedisEventStoreConfig};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let config = RedisEventStoreConfig { redis_url: "localhost".into(), ..Default::default() };
    /// let refused = RedisEventStore::connect(config).await;
    /// assert!(matches!(refused, Err(RedisConnectError::Config(_))));
    /// # });
    /// ```
    pub async fn connect(config: RedisEventStoreConfig) -> Result<Self, RedisConnectError> {
        let store = Self { inner: Arc::new(StoreInner::connect(config).await?) };
        store.log_durability().await;
        Ok(store)
    }

    /// Connects to the store with this prefix if there is one, and creates none: for tools that read.
    ///
    /// # Errors
    /// [`RedisConnectError::NotFound`] if there is no such store; else as [`connect`](Self::connect).
    ///
    /// # Examples
    /// ```no_run
    /// use eventstore_redis::{RedisConnectError, RedisEventStore, RedisEventStoreConfig};
    /// # async fn run() {
    /// let config = RedisEventStoreConfig { key_prefix: "no-such-store".into(), ..Default::default() };
    /// assert!(matches!(RedisEventStore::attach(config).await, Err(RedisConnectError::NotFound { .. })));
    /// # }
    /// ```
    pub async fn attach(config: RedisEventStoreConfig) -> Result<Self, RedisConnectError> {
        let store = Self { inner: Arc::new(StoreInner::attach(config).await?) };
        store.log_durability().await;
        Ok(store)
    }

    /// Logs how the server may lose events, if the configuration says so.
    async fn log_durability(&self) {
        let inner = &self.inner;
        if inner.config().check_durability {
            let address = address(&inner.config().redis_url);
            durability::log_warnings(&address, inner.connection(), inner.acknowledged()).await;
        }
    }

    pub(crate) fn inner(&self) -> &Arc<StoreInner> {
        &self.inner
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &RedisEventStoreConfig {
        self.inner.config()
    }

    /// Asks the server how it persists its data, and returns how it may lose events. Connecting does so too, and logs
    /// each warning, unless [`check_durability`](crate::RedisEventStoreConfig::check_durability) is off.
    ///
    /// Without warnings, events can still be lost: replication is asynchronous, and a failover may lose the last
    /// acknowledged events.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the server cannot be asked.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(store: eventstore_redis::RedisEventStore) -> eventbus::Result<()> {
    /// for warning in store.durability().await?.warnings {
    ///     println!("{warning}; {}", warning.repair().unwrap_or("no command repairs it"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn durability(&self) -> Result<Durability, ReadError> {
        durability::load(self.inner.connection(), self.inner.acknowledged()).await
    }

    /// Returns the number of the newest format that a release has written here, and the lowest format that a release
    /// must know to read it.
    ///
    /// # Errors
    /// [`ReadError`] if the server cannot be asked, or the numbers cannot be read.
    pub async fn recorded_format(&self) -> Result<(u32, u32), ReadError> {
        let key = self.inner.keys().meta();
        let format = request("HMGET", (&key, "format", "min_reader"));
        let found = self.inner.connection().query_idempotent::<(Option<u32>, Option<u32>)>(&format).await;
        match found.map_err(|error| read_error(&key, error))? {
            (Some(format), min_reader) => Ok((format, min_reader.unwrap_or(format))),
            (None, _) => Err(corrupt_key(&key, "it records no format")),
        }
    }
}

impl EventStore for RedisEventStore {
    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault> {
        fault::server_fault(error)
    }

    fn describe(&self) -> String {
        let config = self.inner.config();
        format!("RedisEventStore {} prefix {}", address(&config.redis_url), config.key_prefix)
    }

    fn handler_progress(&self) -> Option<&dyn HandlerProgress> {
        Some(self)
    }

    fn notes(&self) -> Option<&dyn Notes> {
        Some(self)
    }

    fn event_types(&self) -> Option<&dyn EventTypes> {
        Some(self)
    }

    fn listings(&self) -> Option<&dyn Listings> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        Some(self)
    }

    fn unique_values(&self) -> Option<&dyn UniqueValues> {
        Some(self)
    }
}
