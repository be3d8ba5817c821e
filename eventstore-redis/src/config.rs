//! The configuration of a Redis event store.

use std::{path::PathBuf, time::Duration};

use eventbus::{StreamId, clock::SharedClock};
use eventbus_redis_core::{
    env_vars::{EnvVars, NotUtf8, process_variable, warn_unknown_variables},
    error::InvalidConfig,
    server::ServerConfig,
    server_config,
    url::address,
    validate::{prefix_problem, seconds},
};
use serde::Deserialize;

/// The configuration of a Redis event store: a plain struct with defaults.
///
/// It deserializes from any format; absent fields take their defaults, unknown ones are refused, times are numbers of
/// seconds. [`from_env`](Self::from_env) reads it from the environment. TLS and secrets work as in
/// `RedisEventBusConfig` of `eventbus-redis`.
///
/// # Redis Cluster
/// The store has one order of all events, so all its keys are on one node: give it a prefix with a hash tag, such as
/// `{shop}`. On a cluster, [`connect`](crate::RedisEventStore::connect) refuses a prefix without one. The URL names the
/// master that has the slot (`CLUSTER KEYSLOT {shop}`); a store does not grow beyond that one node.
///
/// # Examples
/// ```
/// use eventbus::StreamId;
/// use eventstore_redis::RedisEventStoreConfig;
/// let config = RedisEventStoreConfig { key_prefix: "shop".into(), ..Default::default() };
/// assert_eq!(config.stream_key(&StreamId::parse("Order", "12345")?), "shop:aggregate:Order:12345");
/// # Ok::<(), eventbus::event::InvalidName>(())
/// ```
#[derive(derive_more::Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisEventStoreConfig {
    /// The server: `redis://[user:password@]host[:port][/database]`, the same with `rediss://` for TLS, or
    /// `redis+unix:///path`; user and password percent-encoded. Default `redis://localhost:6379`.
    #[debug("{:?}", address(redis_url))]
    pub redis_url: String,
    /// Time limit of a reply of the server. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub socket_timeout: Duration,
    /// Time limit of connecting. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub socket_connect_timeout: Duration,
    /// A PEM file with the certificates of the authorities that may sign the server's certificate, instead of those
    /// that the platform trusts. Default: none.
    pub tls_ca_file: Option<PathBuf>,
    /// A PEM file with this client's certificate, for a server that asks for one; needs
    /// [`tls_key_file`](Self::tls_key_file). Default: none.
    pub tls_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of [`tls_cert_file`](Self::tls_cert_file). Default: none.
    pub tls_key_file: Option<PathBuf>,
    /// Prefix of all keys; the store adds a colon after it. On a cluster it needs a hash tag, such as `{shop}`. Default:
    /// empty.
    pub key_prefix: String,
    /// Set if connecting checks how the server persists its data, and logs a warning for each way to lose events.
    /// Default true.
    pub check_durability: bool,
    /// Clock for the recording times of events and for the store's own ids; leases use the server's clock. Default: the
    /// machine's.
    #[serde(skip)]
    pub clock: SharedClock,
}

impl Default for RedisEventStoreConfig {
    fn default() -> Self {
        Self {
            redis_url: "redis://localhost:6379".into(),
            socket_timeout: Duration::from_secs(5),
            socket_connect_timeout: Duration::from_secs(5),
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            key_prefix: String::new(),
            check_durability: true,
            clock: SharedClock::SYSTEM,
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
    /// use eventstore_redis::RedisEventStoreConfig;
    /// let (redis_url, key_prefix) = ("localhost".into(), "a\n".into());
    /// let config = RedisEventStoreConfig { redis_url, key_prefix, ..Default::default() };
    /// assert_eq!(config.validate().unwrap_err().mistakes.len(), 2);
    /// ```
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let prefix = Some(&*self.key_prefix).filter(|prefix| !prefix.is_empty());
        let of_store = [("key_prefix", prefix.and_then(prefix_problem))];
        InvalidConfig::check("event store", self.server().problems().chain(of_store))
    }

    /// Reads the configuration from the environment: `REDIS_URL`, and for every other field `EVENTBUS_` and
    /// its name (`EVENTBUS_KEY_PREFIX`). Fields that the configuration of a bus also has share its variables, see
    /// `RedisEventBusConfig::from_env` of `eventbus-redis`.
    ///
    /// # Errors
    /// [`InvalidConfig`] with all mistakes of reading; connecting or [`validate`](Self::validate) finds the rest.
    ///
    /// # Examples
    /// ```
    /// use eventstore_redis::RedisEventStoreConfig;
    /// let config = RedisEventStoreConfig::from_env()?;
    /// # Ok::<(), eventstore_redis::InvalidConfig>(())
    /// ```
    pub fn from_env() -> Result<Self, InvalidConfig> {
        warn_unknown_variables();
        Self::from_vars(process_variable)
    }

    /// Reads every field.
    fn from_vars(get: impl Fn(&str) -> Option<Result<String, NotUtf8>>) -> Result<Self, InvalidConfig> {
        let mut vars = EnvVars::new(get);
        let mut config = Self::default();
        vars.redis_url(&mut config.redis_url);
        vars.text("EVENTBUS_KEY_PREFIX", &mut config.key_prefix);
        vars.seconds("EVENTBUS_SOCKET_TIMEOUT", &mut config.socket_timeout);
        vars.seconds("EVENTBUS_SOCKET_CONNECT_TIMEOUT", &mut config.socket_connect_timeout);
        vars.flag("EVENTBUS_CHECK_DURABILITY", &mut config.check_durability);
        config.tls_ca_file = vars.value("EVENTBUS_TLS_CA_FILE").map(PathBuf::from);
        config.tls_cert_file = vars.value("EVENTBUS_TLS_CERT_FILE").map(PathBuf::from);
        config.tls_key_file = vars.value("EVENTBUS_TLS_KEY_FILE").map(PathBuf::from);
        vars.finish("event store", config)
    }

    /// Returns the key of the stream that holds the events of an aggregate: after the prefix `aggregate:{type}:{id}`,
    /// or for an aggregate of a tenant `tenant:{tenant}:aggregate:{type}:{id}`. In the type `:` and `%` are written as
    /// `%3A` and `%25`, so that two aggregates never share a key.
    #[must_use]
    pub fn stream_key(&self, stream: &StreamId) -> String {
        crate::keys::StoreKeys::new(&self.key_prefix).stream(stream)
    }

    pub(crate) fn server(&self) -> ServerConfig<'_> {
        server_config!(self, of: "event store", prefix: key_prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashMap};

    use super::*;
    use eventbus_redis_core::env_vars::STORE_VARIABLES;

    fn read(vars: &[(&str, &str)]) -> Result<RedisEventStoreConfig, InvalidConfig> {
        let vars: HashMap<_, _> = vars.iter().copied().collect();
        RedisEventStoreConfig::from_vars(|name| vars.get(name).map(|value| Ok((*value).to_owned())))
    }

    #[test]
    fn every_field_has_a_variable() {
        assert_eq!(read(&[]).unwrap(), RedisEventStoreConfig::default());
        let config = read(&[
            ("REDIS_URL", "rediss://db:7000/2"),
            ("EVENTBUS_KEY_PREFIX", "{shop}"),
            ("EVENTBUS_SOCKET_TIMEOUT", "1.5"),
            ("EVENTBUS_SOCKET_CONNECT_TIMEOUT", "2"),
            ("EVENTBUS_CHECK_DURABILITY", "false"),
            ("EVENTBUS_TLS_CA_FILE", "certificates/ca.pem"),
            ("EVENTBUS_TLS_CERT_FILE", "certificates/client.pem"),
            ("EVENTBUS_TLS_KEY_FILE", "certificates/client.key"),
        ]);
        let expected = RedisEventStoreConfig {
            redis_url: "rediss://db:7000/2".into(),
            key_prefix: "{shop}".into(),
            socket_timeout: Duration::from_millis(1_500),
            socket_connect_timeout: Duration::from_secs(2),
            check_durability: false,
            tls_ca_file: Some("certificates/ca.pem".into()),
            tls_cert_file: Some("certificates/client.pem".into()),
            tls_key_file: Some("certificates/client.key".into()),
            clock: SharedClock::SYSTEM,
        };
        assert_eq!(config.unwrap(), expected);
    }

    #[test]
    fn all_mistakes_are_named_and_no_password_is_shown() {
        let vars = [
            ("REDIS_URL", "rredis://user:secret@host"),
            ("EVENTBUS_REDIS_URL", "redis://db"),
            ("EVENTBUS_CHECK_DURABILITY", "yes"),
        ];
        let error = read(&vars).unwrap_err();
        let fields: Vec<_> = error.mistakes.iter().map(|mistake| mistake.field.as_str()).collect();
        assert_eq!(fields, ["EVENTBUS_REDIS_URL", "EVENTBUS_CHECK_DURABILITY"]);
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn the_list_of_known_variables_is_complete() {
        let requested = RefCell::new(Vec::new());
        let read = |name: &str| {
            requested.borrow_mut().push(name.to_owned());
            None
        };
        RedisEventStoreConfig::from_vars(read).unwrap();
        assert_eq!(requested.into_inner(), STORE_VARIABLES.split_whitespace().collect::<Vec<_>>());
    }
}
