//! The configuration of a Redis bus.

mod env;
mod validate;

use std::{path::PathBuf, time::Duration};

use eventbus::clock::SharedClock;
use eventbus_redis_core::{connection::client, server_config};
use redis::Client;
use serde::Deserialize;

use crate::{
    env_vars::{process_variable, warn_unknown_variables},
    error::InvalidConfig,
    keys,
    server::ServerConfig,
    url::address,
    validate::seconds,
};

/// The configuration of a Redis bus: a plain struct with defaults.
///
/// The struct deserializes from any format; absent fields take their defaults, unknown ones are refused, timeouts are
/// numbers of seconds. [`from_env`](Self::from_env) reads the environment.
///
/// # Settings
/// Sixteen are those of eventsource-py, with its names. The others are decisions that only an operator can make: TLS
/// files; how long ([`retry_for_seconds`](Self::retry_for_seconds)) and how quickly
/// ([`retry_delay_ms`](Self::retry_delay_ms), [`retry_max_delay_ms`](Self::retry_max_delay_ms)) failures are retried,
/// which depends on the services that handlers call; how many events run ([`concurrency`](Self::concurrency)) and are in
/// flight ([`max_in_flight`](Self::max_in_flight)) at once; what the stream keeps; and whether Python services read it.
///
/// # TLS
/// `rediss://` needs the cargo feature `tls`. The server's certificate must be for the host of the URL and signed by an
/// authority that the platform trusts, or by one of [`tls_ca_file`](Self::tls_ca_file). TLS uses rustls with the
/// cryptography provider that the application has installed; if there is none, connecting installs ring for the
/// process.
///
/// # Secrets
/// Neither `Debug`, nor errors, nor the log show the password. They also hide a user without a password: mostly it is a
/// password without its colon.
///
/// # Redis Cluster
/// The bus uses several keys in one step, so on a cluster they must be on one node: use a prefix with a hash tag, such
/// as `{orders}`. [`connect`](crate::RedisEventBus::connect) refuses any other prefix there, because `orders:stream`
/// and `orders:stream_dlq` would be on different nodes. The URL names the master that has the slot
/// (`CLUSTER KEYSLOT {orders}`); the bus does not follow a slot that moves to a different node.
///
/// # Examples
/// ```
/// use eventbus_redis::RedisEventBusConfig;
/// let config = RedisEventBusConfig { stream_prefix: "orders".into(), ..Default::default() };
/// assert_eq!(config.stream_name(), "orders:stream");
/// assert_eq!(config.dlq_stream_name(), "orders:stream_dlq");
/// ```
#[derive(derive_more::Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisEventBusConfig {
    /// The server: `redis://[user:password@]host[:port][/database]`, the same with `rediss://` for TLS, or
    /// `redis+unix:///path[?db=1&user=…&pass=…]` for a socket; user and password percent-encoded. Default
    /// `redis://localhost:6379`.
    #[debug("{:?}", address(redis_url))]
    pub redis_url: String,
    /// The reply timeout. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub socket_timeout: Duration,
    /// The connect timeout. Default 5 s.
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
    /// The prefix of all keys; on a cluster it needs a hash tag, such as `{orders}`. Default `events`.
    pub stream_prefix: String,
    /// The group of subscribers that do not name one. Default `default`.
    pub consumer_group: String,
    /// The name of this consumer within its groups; unique among running consumers. If it is the same after a restart,
    /// the consumer recovers its in-flight entries at once, in order within each aggregate. If a consumer does not come
    /// back, other consumers claim its entries after [`pending_idle_ms`](Self::pending_idle_ms). Default: the host's
    /// name and eight random hex digits, a new name at each start. Names that end with `-recovery` are
    /// the bus's own.
    pub consumer_name: Option<String>,
    /// The maximum number of entries that one read returns, at most 1,000,000. Default 100.
    pub batch_size: usize,
    /// The maximum time that a read waits for entries, in milliseconds; the client cuts it into slices of a second.
    /// Default 5000.
    pub block_ms: u64,
    /// The number of seconds for which a consumer retries a failed delivery before it becomes a dead letter. Default
    /// 14400, four hours.
    pub retry_for_seconds: u64,
    /// The maximum number of retries of a failed delivery within that time: with 3 it runs four times. Default: as many
    /// as there is time for.
    pub max_retries: Option<u32>,
    /// The time without a sign of life after which other consumers claim a consumer's entries, in milliseconds. A
    /// consumer that is slow but alive keeps its entries: if its own time is longer, that time counts.
    /// Default 60000.
    pub pending_idle_ms: u64,
    /// Set if deliveries that used up their attempts become dead letters. Otherwise they stay pending and are not
    /// handled again; they count as exhausted, and trimming stops before them. Default true.
    pub enable_dlq: bool,
    /// The suffix that makes the name of the dead letters' stream from the stream's. Default `_dlq`.
    pub dlq_stream_suffix: String,
    /// Set if entries carry the trace context of their events; with the cargo feature `opentelemetry`, publishing and
    /// handling are then also spans that follow OpenTelemetry's conventions. Default true.
    pub enable_tracing: bool,
    /// A part of the name of the key with the attempts of a group, `{<stream>}:<retry_key_prefix>:<group>`. Default
    /// `retry`.
    pub retry_key_prefix: String,
    /// The number of seconds after which a consumer deletes records of attempts that no consumer has updated meanwhile,
    /// and whose entries are no longer pending. Default 86400.
    pub retry_key_expiry_seconds: u64,
    /// Set to use one connection for all commands, with short reads that do not block. Default false.
    pub single_connection_client: bool,
    /// The number of events that a consumer handles at once; events of one aggregate always run one after the other.
    /// After a handler has awaited for 10 s, a further event may begin beside it, unless the handler has its own
    /// `concurrency`. At most [`max_in_flight`](Self::max_in_flight), and 10,000. Default 1.
    pub concurrency: usize,
    /// The maximum number of in-flight entries of a consumer; at this number, or at 16 MiB of events, it reads no more.
    /// Lower it if the server must know sooner which entries no consumer has begun. Entries that wait for a retry, or
    /// behind one that does, do not count here: of these a consumer keeps 100,000, or 256 MiB, then it reads no more until
    /// a tenth of them is gone, and health has an alert. The consumer reads ahead only what its workers finish in about a
    /// tenth of a second, as it measures, so that the other
    /// consumers of the group get their share. Entries that it claims from a dead consumer may exceed the limit by one
    /// batch. Default: ten times [`batch_size`](Self::batch_size).
    pub max_in_flight: Option<usize>,
    /// The delay of the first retry, in milliseconds; each further retry waits twice as long. Each delay is shortened
    /// at random, by half at most. Default 100.
    pub retry_delay_ms: u64,
    /// The maximum delay of a retry, in milliseconds. Default 300000.
    pub retry_max_delay_ms: u64,
    /// The number of entries that the stream keeps. While this bus consumes, it removes older ones within about a
    /// second, once every group has finished them; see [`trim`](crate::RedisEventBus::trim). Default: all of them.
    pub trim_max_length: Option<u64>,
    /// The number of seconds for which the stream keeps entries that every group has finished, as for
    /// [`trim_max_length`](Self::trim_max_length). Default: for ever.
    pub trim_max_age_seconds: Option<u64>,
    /// Set to refuse events that the Python library eventsource-py cannot read: events of version 0, and events of
    /// aggregates whose ids are no UUIDs (lower case, with hyphens), or whose types have other characters than letters,
    /// digits, `_`, `.` and `-`. Set it if Python services read the stream. It cannot refuse fields that a Python
    /// service does not know: from release 0.9 on the library refuses these, so release a new field to the Python
    /// services first. Default false.
    pub readable_by_python: bool,
    /// The clock for this process's delays and times; claims and leases use the server's clock. Default: the machine's.
    #[serde(skip)]
    pub clock: SharedClock,
}

impl Default for RedisEventBusConfig {
    fn default() -> Self {
        Self {
            redis_url: "redis://localhost:6379".into(),
            socket_timeout: Duration::from_secs(5),
            socket_connect_timeout: Duration::from_secs(5),
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            stream_prefix: "events".into(),
            consumer_group: "default".into(),
            consumer_name: None,
            batch_size: 100,
            block_ms: 5_000,
            retry_for_seconds: 4 * 3_600,
            max_retries: None,
            pending_idle_ms: 60_000,
            enable_dlq: true,
            dlq_stream_suffix: "_dlq".into(),
            enable_tracing: true,
            retry_key_prefix: "retry".into(),
            retry_key_expiry_seconds: 86_400,
            single_connection_client: false,
            concurrency: 1,
            max_in_flight: None,
            retry_delay_ms: 100,
            retry_max_delay_ms: 300_000,
            trim_max_length: None,
            trim_max_age_seconds: None,
            readable_by_python: false,
            clock: SharedClock::SYSTEM,
        }
    }
}

impl RedisEventBusConfig {
    /// Reads the configuration from the environment: `REDIS_URL`, and for every other field `EVENTBUS_` and its name
    /// (`EVENTBUS_STREAM_PREFIX`). Absent and empty variables leave the default. If a variable begins with `EVENTBUS_`
    /// and neither this function nor `RedisEventStoreConfig` of `eventstore-redis` reads it, a warning is logged once,
    /// with the nearest known name.
    ///
    /// Timeouts are numbers of seconds, switches are `true` or `false`.
    ///
    /// # Errors
    /// [`InvalidConfig`] with all mistakes of reading, for example a word where a number is expected. Connecting, or
    /// [`validate`](Self::validate), checks whether the values fit together, because some fields may be set afterwards.
    ///
    /// # Examples
    /// ```
    /// use eventbus_redis::RedisEventBusConfig;
    /// let config = RedisEventBusConfig::from_env()?;
    /// # Ok::<(), eventbus_redis::InvalidConfig>(())
    /// ```
    pub fn from_env() -> Result<Self, InvalidConfig> {
        warn_unknown_variables();
        env::from_vars(process_variable)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`InvalidConfig`] with all mistakes. It never shows the password.
    ///
    /// # Examples
    /// ```
    /// use eventbus_redis::RedisEventBusConfig;
    /// let config = RedisEventBusConfig { batch_size: 0, consumer_group: String::new(), ..Default::default() };
    /// let error = config.validate().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "invalid configuration of the Redis bus: `consumer_group` is empty; `batch_size` is 0"
    /// );
    /// ```
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        InvalidConfig::check("bus", validate::problems(self))
    }

    /// Returns the name of the stream that carries all events.
    #[must_use]
    pub fn stream_name(&self) -> String {
        keys::stream(&self.stream_prefix)
    }

    /// Returns the name of the stream that keeps the dead letters.
    #[must_use]
    pub fn dlq_stream_name(&self) -> String {
        keys::dead_letters(&self.stream_prefix, &self.dlq_stream_suffix)
    }

    /// Returns a client of the driver for this server, with its TLS files; connects nowhere.
    ///
    /// # Errors
    /// [`InvalidConfig`] with the field that is at fault: the URL, or a TLS file that cannot be read.
    ///
    /// # Examples
    /// ```
    /// use eventbus_redis::RedisEventBusConfig;
    /// let client = RedisEventBusConfig { redis_url: "redis://cache:6380".into(), ..Default::default() }.client()?;
    /// assert_eq!(client.get_connection_info().addr().to_string(), "cache:6380");
    /// # Ok::<(), eventbus_redis::InvalidConfig>(())
    /// ```
    pub fn client(&self) -> Result<Client, InvalidConfig> {
        InvalidConfig::check("bus", self.server().problems())?;
        client(&self.server().server).map_err(|mistake| InvalidConfig::new("bus", mistake))
    }

    /// Returns the maximum number of in-flight entries of a consumer.
    pub(crate) fn in_flight_limit(&self) -> usize {
        self.max_in_flight.unwrap_or_else(|| self.batch_size.saturating_mul(10))
    }

    /// Returns the settings for reaching the server.
    pub(crate) fn server(&self) -> ServerConfig<'_> {
        server_config!(self, of: "bus", prefix: stream_prefix)
    }
}

/// Returns a default consumer name: the host's name and eight hex digits.
pub(crate) fn consumer_name(clock: &SharedClock) -> String {
    let host = ["HOSTNAME", "COMPUTERNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let host = host.unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| !c.is_control()).take(60).collect();
    let host = if host.is_empty() { "consumer" } else { &host };
    // the last digits of a generated id are random
    let id = clock.new_id().simple().to_string();
    format!("{host}-{}", &id[24..])
}
