//! The event store on Redis Streams.
//!
//! A stream per aggregate holds its events, under ids that are their versions; one stream, the feed, holds a pointer to
//! each event, under ids that are the positions; a hash maps the id of each event to its position.
//!
//! Invariant: one script writes all three, and no other code does. Reads check entries against the ids: a gap, or an
//! entry of a foreign client, is an error that names key and entry.

mod append;
mod checkpoint;
mod config;
mod durability;
mod entry;
mod error;
mod event_types;
mod fault;
mod feed;
mod keys;
mod lease;
mod read;
mod shadow;
mod transaction;
mod unfinished;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use eventbus::{
    Position,
    port::{AppendSignal, BusCounters, EventStore, EventTypes, ListedEventTypes, Notes, Transactions},
};
use uuid::Uuid;

pub use config::RedisEventStoreConfig;
pub use durability::{Durability, DurabilityWarning};
pub(crate) use transaction::{Effect, Program, Undo, to_bytes};
pub use transaction::{RedisTransaction, RedisTransactionError};

use crate::{RedisConnectError, connection::SharedConnection, error::InvalidConfig, script};
use keys::StoreKeys;

/// The format of keys and entries that this release writes.
const FORMAT: u32 = 1;

/// An event store on Redis Streams alone, for applications with a Redis and no database. Clones share one store.
///
/// # Examples
/// ```no_run
/// use eventbus::prelude::*;
/// use eventbus_redis::{RedisEventStore, RedisEventStoreConfig};
///
/// # async fn run() -> eventbus::Result<()> {
/// let store = RedisEventStore::connect(RedisEventStoreConfig::default()).await?; // redis://localhost:6379
/// App::builder().store(store).discover().start().await?.run_until_signal().await
/// # }
/// ```
#[derive(Clone)]
pub struct RedisEventStore {
    inner: Arc<StoreInner>,
}

/// State that the clones of a store share.
struct StoreInner {
    config: RedisEventStoreConfig,
    keys: StoreKeys,
    connection: SharedConnection,
    id: Uuid,
    append_signal: AppendSignal,
    known_event_types: ListedEventTypes,
    /// Commands of which the server has confirmed that they write to one key.
    checked_commands: RwLock<HashSet<String>>,
    acknowledged: durability::AcknowledgedPosition,
}

impl RedisEventStore {
    /// Connects, and creates the store if there is none with this prefix yet.
    ///
    /// # Errors
    /// [`RedisConnectError`] if the configuration has mistakes, the server is not there, does not answer in time or
    /// refuses, is a node of a cluster and the prefix has no hash tag, or holds keys of other types under the names of
    /// the store's keys. It names the address, never the password.
    ///
    /// # Examples
    /// ```
    /// use eventbus_redis::{RedisConnectError, RedisEventStore, RedisEventStoreConfig};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let config = RedisEventStoreConfig { redis_url: "localhost".into(), ..Default::default() };
    /// let refused = RedisEventStore::connect(config).await;
    /// assert!(matches!(refused, Err(RedisConnectError::Config(_))));
    /// # });
    /// ```
    pub async fn connect(config: RedisEventStoreConfig) -> Result<Self, RedisConnectError> {
        config.validate()?;
        let counters = Arc::new(BusCounters::default());
        let link = SharedConnection::new(config.server(), counters)
            .map_err(|mistake| InvalidConfig::for_store(vec![mistake]))?;
        let keys = StoreKeys::new(&config.key_prefix);
        let mut open = script::store::OPEN_STORE.prepare_invoke();
        open.key(keys.meta()).key(keys.feed()).key(keys.ids()).key(keys.event_types());
        open.arg(config.clock.new_id().to_string()).arg(FORMAT);
        let (id, format): (Option<String>, Option<String>) = link.connect(&open).await?;
        let refused = |reason: String| RedisConnectError::Refused {
            address: config.server().address(),
            source: format!("key `{}` {reason}", keys.meta()).into(),
        };
        if format.as_deref() != Some(&FORMAT.to_string()) {
            let found = format.unwrap_or_else(|| "none".into());
            return Err(refused(format!("names format {found}, this release knows {FORMAT}")));
        }
        let id = id.and_then(|id| Uuid::try_parse(&id).ok());
        let id = id.ok_or_else(|| refused("holds no id of a store".into()))?;
        let (append_signal, known_event_types, checked_commands, acknowledged) = Default::default();
        let store = Self {
            inner: Arc::new(StoreInner {
                config,
                keys,
                connection: link,
                id,
                append_signal,
                known_event_types,
                checked_commands,
                acknowledged,
            }),
        };
        if store.config().check_durability {
            store.log_durability_warnings().await;
        }
        Ok(store)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &RedisEventStoreConfig {
        &self.inner.config
    }

    fn keys(&self) -> &StoreKeys {
        &self.inner.keys
    }

    fn connection(&self) -> &SharedConnection {
        &self.inner.connection
    }

    fn id(&self) -> Uuid {
        self.inner.id
    }

    fn append_signal(&self) -> &AppendSignal {
        &self.inner.append_signal
    }

    fn acknowledged(&self) -> &durability::AcknowledgedPosition {
        &self.inner.acknowledged
    }

    /// Compares the end of the store with `acknowledged`. A loss may include the listed event types: appends then list
    /// them again.
    fn check_head(&self, acknowledged: Position, found: Position) {
        if self.acknowledged().check_head(acknowledged, found) {
            self.inner.known_event_types.clear();
        }
    }

    fn is_command_checked(&self, name: &str) -> bool {
        self.inner.checked_commands.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn remember_command(&self, name: &str) {
        self.inner.checked_commands.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
}

impl EventStore for RedisEventStore {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        Some(Arc::new(self.clone()))
    }

    fn describe(&self) -> String {
        let config = &self.inner.config;
        format!("RedisEventStore {} prefix {}", config.server().address(), config.key_prefix)
    }

    fn notes(&self) -> Option<&dyn Notes> {
        Some(self)
    }

    fn event_types(&self) -> Option<&dyn EventTypes> {
        Some(self)
    }
}

impl fmt::Debug for RedisEventStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEventStore")
            .field("config", &self.inner.config)
            .field("id", &self.inner.id)
            .finish_non_exhaustive()
    }
}
