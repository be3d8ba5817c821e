//! Where the store and the bus are.

use std::time::Duration;

use eventbus::support::redacted;
use eventbus_redis::RedisEventBusConfig;
use eventstore_postgres::PgEventStoreConfig;
use eventstore_redis::RedisEventStoreConfig;
use eventstore_sqlite::SqliteEventStoreConfig;

use crate::error::CommandError;

/// The most connections to PostgreSQL that a command has open, beside one for its set-up.
const CONNECTIONS_MAX: u32 = 2;

/// Where the store and the bus are, and how long a command waits for them.
#[derive(Clone, derive_more::Debug)]
pub struct ConnectionSettings {
    /// The URL of the store.
    #[debug("{:?}", store.as_deref().map(redacted))]
    pub store: Option<String>,
    /// The schema of a PostgreSQL store.
    pub schema: String,
    /// The key prefix of a Redis store.
    pub store_prefix: String,
    /// The URL of the bus.
    #[debug("{:?}", bus.as_deref().map(redacted))]
    pub bus: Option<String>,
    /// The stream prefix of the bus.
    pub prefix: String,
    /// The limit of connecting and of each reply.
    pub timeout: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            store: None,
            schema: PgEventStoreConfig::default().schema,
            store_prefix: String::new(),
            bus: None,
            prefix: RedisEventBusConfig::default().stream_prefix,
            timeout: Duration::from_secs(10),
        }
    }
}

/// The kind of a store, by the scheme of its URL.
#[derive(Clone, derive_more::Debug)]
pub enum StoreUrl {
    /// `postgres://…` or `postgresql://…`.
    #[debug("{:?}", redacted(_0))]
    Postgres(String),
    /// `sqlite:PATH`.
    Sqlite(String),
    /// `redis://…`, `rediss://…` or `redis+unix://…`.
    #[debug("{:?}", redacted(_0))]
    Redis(String),
}

impl StoreUrl {
    /// Parses the URL of a store.
    ///
    /// # Errors
    /// [`CommandError::Usage`] if no store has such URLs. It never shows the password.
    ///
    /// # Examples
    /// ```
    /// use eventbus_cli::connection::StoreUrl;
    /// assert!(matches!(StoreUrl::parse("sqlite:bank.db"), Ok(StoreUrl::Sqlite(_))));
    /// let error = StoreUrl::parse("mysql://app:secret@db/orders").unwrap_err().to_string();
    /// assert!(error.contains("mysql://app@db/orders") && !error.contains("secret"));
    /// ```
    pub fn parse(url: &str) -> Result<Self, CommandError> {
        let scheme = url.split(':').next().unwrap_or_default();
        match scheme {
            "postgres" | "postgresql" => Ok(Self::Postgres(url.to_owned())),
            "sqlite" => Ok(Self::Sqlite(url.to_owned())),
            "redis" | "rediss" | "redis+unix" | "rediss+unix" | "unix" => Ok(Self::Redis(url.to_owned())),
            _ => Err(CommandError::Usage(format!(
                "`{}` names no store; write `postgres://…`, `sqlite:PATH` or `redis://…`",
                redacted(url)
            ))),
        }
    }
}

impl ConnectionSettings {
    /// Returns `true` if there is a URL of a store or of a bus.
    pub(crate) const fn names_a_server(&self) -> bool {
        self.store.is_some() || self.bus.is_some()
    }

    /// Returns the kind and URL of the store.
    ///
    /// # Errors
    /// [`CommandError::Usage`] if there is none, or it is no URL of a store.
    pub fn store_url(&self) -> Result<StoreUrl, CommandError> {
        let missing = || CommandError::Usage("which store? pass `--store URL`, or set EVENTBUS_STORE".into());
        StoreUrl::parse(self.store.as_deref().ok_or_else(missing)?)
    }

    /// Returns the configuration of a PostgreSQL store that creates no tables.
    #[must_use]
    pub fn postgres_config(&self, url: String) -> PgEventStoreConfig {
        PgEventStoreConfig {
            database_url: url,
            schema: self.schema.clone(),
            migrate: false,
            notify: false,
            max_connections: CONNECTIONS_MAX,
            max_transactions: 1,
            connect_timeout: self.timeout,
            statement_timeout: self.timeout,
            ..PgEventStoreConfig::default()
        }
    }

    /// Returns the configuration of an SQLite store that makes neither a file nor tables.
    #[must_use]
    pub fn sqlite_config(&self) -> SqliteEventStoreConfig {
        SqliteEventStoreConfig {
            busy_timeout: self.timeout,
            create_if_missing: false,
            migrate: false,
            ..SqliteEventStoreConfig::default()
        }
    }

    /// Returns the configuration of a Redis store.
    #[must_use]
    pub fn redis_store_config(&self, url: String) -> RedisEventStoreConfig {
        RedisEventStoreConfig {
            redis_url: url,
            key_prefix: self.store_prefix.clone(),
            socket_timeout: self.timeout,
            socket_connect_timeout: self.timeout,
            check_durability: false,
            ..RedisEventStoreConfig::default()
        }
    }

    /// Returns the configuration of the bus; `None` without a URL of it.
    #[must_use]
    pub fn bus_config(&self) -> Option<RedisEventBusConfig> {
        Some(RedisEventBusConfig {
            redis_url: self.bus.clone()?,
            stream_prefix: self.prefix.clone(),
            socket_timeout: self.timeout,
            socket_connect_timeout: self.timeout,
            ..RedisEventBusConfig::default()
        })
    }
}
