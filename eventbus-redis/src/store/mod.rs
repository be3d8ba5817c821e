//! The event store on Redis Streams.
//!
//! A stream per aggregate holds its events, under ids that are their versions; one stream, the feed, holds a pointer to
//! each event, under ids that are the positions; a hash knows where the event of an id is.
//!
//! Keep: all three are written by one script and by nothing else. What is read is checked against the ids: a hole, or an
//! entry that somebody else added, is an error that names key and entry.

mod append;
mod checkpoint;
mod config;
mod durability;
mod entry;
mod error;
mod event_types;
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
pub(crate) use transaction::{Effect, Program, Undo, bytes};
pub use transaction::{RedisTransaction, RedisTransactionError};

use crate::{RedisConnectError, connection::Link, error::InvalidConfig, script};
use keys::Keys;

/// The format of keys and entries that this release writes.
const FORMAT: u32 = 1;

/// An event store on Redis Streams, and nothing else: for who has a Redis and no database. Clones share one store.
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
    shared: Arc<Shared>,
}

/// What the clones of a store share.
struct Shared {
    config: RedisEventStoreConfig,
    keys: Keys,
    link: Link,
    id: Uuid,
    appended: AppendSignal,
    listed: ListedEventTypes,
    /// The commands that are known to write to one key.
    commands: RwLock<HashSet<String>>,
    told: durability::Told,
}

impl RedisEventStore {
    /// Connects, and makes the store if there is none with this prefix yet.
    ///
    /// # Errors
    /// [`RedisConnectError`] if the configuration has mistakes, the server is not there, does not answer in time or
    /// refuses, is a node of a cluster and the prefix has no hash tag, or holds something else under the names of the
    /// store's keys. It names the address, never the password.
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
        let link = Link::new(config.server(), counters).map_err(|mistake| InvalidConfig::of_store(vec![mistake]))?;
        let keys = Keys::new(&config.key_prefix);
        let mut open = script::store::OPEN.prepare_invoke();
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
        let (appended, listed, commands, told) = Default::default();
        let store = Self { shared: Arc::new(Shared { config, keys, link, id, appended, listed, commands, told }) };
        if store.config().check_durability {
            store.warn().await;
        }
        Ok(store)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &RedisEventStoreConfig {
        &self.shared.config
    }

    fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    fn link(&self) -> &Link {
        &self.shared.link
    }

    fn id(&self) -> Uuid {
        self.shared.id
    }

    fn signal(&self) -> &AppendSignal {
        &self.shared.appended
    }

    fn told(&self) -> &durability::Told {
        &self.shared.told
    }

    /// The store ends at `found`; what it lost may have been the list of event types, which is then made anew.
    fn compare(&self, told: Position, found: Position) {
        if self.told().compare(told, found) {
            self.shared.listed.clear();
        }
    }

    fn knows_command(&self, name: &str) -> bool {
        self.shared.commands.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn learn_command(&self, name: &str) {
        self.shared.commands.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
}

impl EventStore for RedisEventStore {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        Some(Arc::new(self.clone()))
    }

    fn describe(&self) -> String {
        let config = &self.shared.config;
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
            .field("config", &self.shared.config)
            .field("id", &self.shared.id)
            .finish_non_exhaustive()
    }
}
