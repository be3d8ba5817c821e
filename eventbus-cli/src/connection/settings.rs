//! The settings for reaching the store and the bus.

use std::{path::PathBuf, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};
use eventbus::support::redacted;
use eventbus_redis::{RedisEventBusConfig, redis::Client};
use eventstore_postgres::PgEventStoreConfig;
use eventstore_redis::RedisEventStoreConfig;
use eventstore_sqlite::SqliteEventStoreConfig;

use crate::error::CommandError;

/// The most connections to PostgreSQL that a command has open, beside one for its set-up.
const CONNECTIONS_MAX: u32 = 2;

/// The settings for reaching the store and the bus, and the time limit.
#[derive(Clone, derive_more::Debug, Args)]
pub struct ConnectionSettings {
    /// The store: postgres://…, sqlite:PATH or redis://…
    // hidden, as a URL may hold a password; refused if empty, as without it the store of an application would be meant
    #[arg(long, global = true, value_name = "URL", env = "EVENTBUS_STORE", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    #[debug("{:?}", store.as_deref().map(redacted))]
    pub store: Option<String>,
    /// The schema of a PostgreSQL store
    #[arg(long, global = true, value_name = "NAME", env = "EVENTBUS_SCHEMA", default_value = "eventbus")]
    pub schema: String,
    /// The key prefix of a Redis store
    #[arg(long, global = true, value_name = "PREFIX", env = "EVENTBUS_KEY_PREFIX", default_value = "")]
    pub store_prefix: String,
    /// The Redis of the bus; without it, the handlers that read the store
    #[arg(long, global = true, value_name = "URL", env = "EVENTBUS_BUS", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    #[debug("{:?}", bus.as_deref().map(redacted))]
    pub bus: Option<String>,
    /// The stream prefix of the bus
    #[arg(long, global = true, value_name = "PREFIX", env = "EVENTBUS_STREAM_PREFIX", default_value = "events")]
    pub prefix: String,
    /// The suffix of the bus's stream of dead letters
    #[arg(long, global = true, value_name = "SUFFIX", env = "EVENTBUS_DLQ_STREAM_SUFFIX", default_value = "_dlq")]
    pub dlq_suffix: String,
    /// The prefix of the bus's keys of attempts
    #[arg(long, global = true, value_name = "PREFIX", env = "EVENTBUS_RETRY_KEY_PREFIX", default_value = "retry")]
    pub retry_prefix: String,
    /// A PEM file with the authorities that sign the certificate of a Redis; without it those of the platform
    #[arg(long, global = true, value_name = "FILE", env = "EVENTBUS_TLS_CA_FILE")]
    pub tls_ca_file: Option<PathBuf>,
    /// A PEM file with the certificate for a Redis that asks for one
    #[arg(long, global = true, value_name = "FILE", env = "EVENTBUS_TLS_CERT_FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of that certificate
    #[arg(long, global = true, value_name = "FILE", env = "EVENTBUS_TLS_KEY_FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// The limit of connecting and of each reply
    #[arg(skip)]
    pub timeout: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        let bus = RedisEventBusConfig::default();
        Self {
            store: None,
            schema: PgEventStoreConfig::default().schema,
            store_prefix: String::new(),
            bus: None,
            prefix: bus.stream_prefix,
            dlq_suffix: bus.dlq_stream_suffix,
            retry_prefix: bus.retry_key_prefix,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
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
    /// [`CommandError::Usage`] if no kind of store has such URLs. The error never shows the password.
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
    /// Returns `true` if the settings have a URL of a store or of a bus.
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

    /// Returns the configuration of an SQLite store that creates neither a file nor tables.
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
            tls_ca_file: self.tls_ca_file.clone(),
            tls_cert_file: self.tls_cert_file.clone(),
            tls_key_file: self.tls_key_file.clone(),
            check_durability: false,
            ..RedisEventStoreConfig::default()
        }
    }

    /// Returns the configuration of the bus; `None` if the settings have no URL of a bus.
    #[must_use]
    pub fn bus_config(&self) -> Option<RedisEventBusConfig> {
        Some(self.bus_config_at(self.bus.clone()?))
    }

    /// Returns a client of the driver for a Redis.
    ///
    /// # Errors
    /// [`CommandError::Usage`] if the URL is not for Redis, or a TLS file cannot be read.
    pub(crate) fn redis_client(&self, url: &str) -> Result<Client, CommandError> {
        let client = self.bus_config_at(url.to_owned()).client();
        client.map_err(|error| {
            let mistakes: Vec<_> = error.mistakes.iter().map(ToString::to_string).collect();
            CommandError::Usage(format!("{}: {}", redacted(url), mistakes.join("; ")))
        })
    }

    fn bus_config_at(&self, redis_url: String) -> RedisEventBusConfig {
        RedisEventBusConfig {
            redis_url,
            stream_prefix: self.prefix.clone(),
            dlq_stream_suffix: self.dlq_suffix.clone(),
            retry_key_prefix: self.retry_prefix.clone(),
            socket_timeout: self.timeout,
            socket_connect_timeout: self.timeout,
            tls_ca_file: self.tls_ca_file.clone(),
            tls_cert_file: self.tls_cert_file.clone(),
            tls_key_file: self.tls_key_file.clone(),
            ..RedisEventBusConfig::default()
        }
    }
}
