//! What a Redis event store is told.

use std::{fmt, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::{
    config::{
        seconds,
        validate::{prefix_problem, time_problem},
    },
    error::{ConfigMistake, InvalidConfig},
    server::{Server, url_problem},
};

/// What a Redis event store is told: a plain struct with defaults.
///
/// It deserializes from any format; absent fields take their defaults, unknown ones are refused, times are numbers of
/// seconds. For TLS and for secrets the same holds as for [`RedisEventBusConfig`](crate::RedisEventBusConfig).
///
/// # Redis Cluster
/// The store has one order of all events, so all its keys are on one node: give it a prefix with a hash tag, as
/// `{shop}`. [`connect`](crate::RedisEventStore::connect) refuses another one there. The URL names the master that has
/// the slot (`CLUSTER KEYSLOT {shop}`); a store does not grow beyond that one node.
///
/// # Examples
/// ```
/// use eventbus_redis::RedisEventStoreConfig;
/// let config = RedisEventStoreConfig { key_prefix: "shop".into(), ..Default::default() };
/// assert_eq!(config.stream_key("Order", "12345"), "shop:aggregate:Order:12345");
/// ```
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisEventStoreConfig {
    /// The server: `redis://[user:password@]host[:port][/database]`, the same with `rediss://` for TLS, or
    /// `redis+unix:///path`; user and password percent-encoded. Default `redis://localhost:6379`.
    pub redis_url: String,
    /// What all keys begin with, a colon behind it; on a cluster with a hash tag, as `{shop}`. Also the keys that
    /// handlers and projections write in the store's transactions. Default: nothing.
    pub key_prefix: String,
    /// How long the server may take to answer. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub socket_timeout: Duration,
    /// How long connecting may take. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub socket_connect_timeout: Duration,
    /// How long a transaction may take, from the first thing that others wait for to its commit. Then the others go on,
    /// and it commits nothing. For one whose process died they wait a second at most. Default 30 s.
    #[serde(deserialize_with = "seconds")]
    pub transaction_timeout: Duration,
    /// Whether connecting asks the server how it keeps its data, and warns in the log of what may be lost. Default true.
    pub check_durability: bool,
    /// A PEM file with the certificates of the authorities that may sign the server's certificate, instead of those
    /// that the platform trusts. Default: none.
    pub tls_ca_file: Option<PathBuf>,
}

impl Default for RedisEventStoreConfig {
    fn default() -> Self {
        Self {
            redis_url: "redis://localhost:6379".into(),
            key_prefix: String::new(),
            socket_timeout: Duration::from_secs(5),
            socket_connect_timeout: Duration::from_secs(5),
            transaction_timeout: Duration::from_secs(30),
            check_durability: true,
            tls_ca_file: None,
        }
    }
}

impl RedisEventStoreConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`InvalidConfig`] with all mistakes. It never shows the password.
    ///
    /// # Examples
    /// ```
    /// use eventbus_redis::RedisEventStoreConfig;
    /// let config = RedisEventStoreConfig { redis_url: "localhost".into(), key_prefix: "a\n".into(), ..Default::default() };
    /// assert_eq!(config.validate().unwrap_err().mistakes.len(), 2);
    /// ```
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let mut mistakes = Vec::new();
        let mut found_in = |field: &str, problem: Option<String>| {
            mistakes.extend(problem.map(|problem| ConfigMistake::new(field, problem)));
        };
        found_in("redis_url", url_problem(&self.redis_url, cfg!(feature = "tls")));
        let prefix = Some(&*self.key_prefix).filter(|prefix| !prefix.is_empty());
        found_in("key_prefix", prefix.and_then(prefix_problem));
        found_in("socket_timeout", time_problem(self.socket_timeout));
        found_in("socket_connect_timeout", time_problem(self.socket_connect_timeout));
        found_in("transaction_timeout", time_problem(self.transaction_timeout));
        found_in("tls_ca_file", self.server().ca_problem());
        if mistakes.is_empty() { Ok(()) } else { Err(InvalidConfig::of_store(mistakes)) }
    }

    /// The name of the key that holds the events of an aggregate: `aggregate:{type}:{id}` behind the prefix. In the type
    /// `:` and `%` are written as `%3A` and `%25`, so that two aggregates never have one key.
    #[must_use]
    pub fn stream_key(&self, aggregate_type: &str, aggregate_id: &str) -> String {
        super::keys::Keys::new(&self.key_prefix).stream(aggregate_type, aggregate_id)
    }

    pub(crate) fn server(&self) -> Server<'_> {
        Server {
            url: &self.redis_url,
            tls_ca_file: self.tls_ca_file.as_deref(),
            timeout: self.socket_timeout,
            connect_timeout: self.socket_connect_timeout,
            prefix: ("key_prefix", &self.key_prefix),
        }
    }
}

impl fmt::Debug for RedisEventStoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEventStoreConfig")
            .field("redis_url", &self.server().address())
            .field("key_prefix", &self.key_prefix)
            .field("socket_timeout", &self.socket_timeout)
            .field("socket_connect_timeout", &self.socket_connect_timeout)
            .field("transaction_timeout", &self.transaction_timeout)
            .field("check_durability", &self.check_durability)
            .field("tls_ca_file", &self.tls_ca_file)
            .finish()
    }
}
