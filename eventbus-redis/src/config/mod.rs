//! What a Redis bus is told.

mod env;
pub(crate) mod env_vars;
pub(crate) mod validate;

pub(crate) use validate::MAX_PARTITIONS;

use std::{fmt, path::PathBuf, time::Duration};

use eventbus::{
    SharedClock,
    port::{DEFAULT_IN_FLIGHT_BYTES, DEFAULT_MAX_WAITING, DELIVER_SKIPPED_WITHIN},
};
use serde::{Deserialize, Deserializer, de};

use crate::{keys, partition::partition_of, server::Server};

/// What a Redis bus is told: a plain struct with defaults.
///
/// It deserializes from any format; absent fields take their defaults, unknown ones are refused, timeouts are numbers
/// of seconds. [`from_env`](Self::from_env) reads it from the environment.
///
/// # TLS
/// `rediss://` needs the cargo feature `tls`. The server's certificate must be for the host of the URL and signed by an
/// authority that the platform trusts, or by one of [`tls_ca_file`](Self::tls_ca_file). TLS is rustls with the
/// cryptography provider that the application has installed, else ring, which connecting installs for the process.
///
/// # Secrets
/// The password is shown by nothing: not by `Debug`, not in errors, not in the log. Nor is a user without a password,
/// which mostly is a password that lacks its colon.
///
/// # Redis Cluster
/// The bus uses several keys together, so on a cluster they must be on one node: give it a prefix with a hash tag, as
/// `{orders}`. [`connect`](crate::RedisEventBus::connect) refuses another one there, because `orders:stream` and
/// `orders:stream_dlq` would be on different nodes. The URL names the master that has the slot
/// (`CLUSTER KEYSLOT {orders}`); the bus does not follow a slot that moves to another node.
///
/// # Examples
/// ```
/// use eventbus_redis::RedisEventBusConfig;
/// let config = RedisEventBusConfig { stream_prefix: "orders".into(), ..Default::default() };
/// assert_eq!(config.stream_name(), "orders:stream");
/// assert_eq!(config.dlq_stream_name(), "orders:stream_dlq");
/// ```
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisEventBusConfig {
    /// The server: `redis://[user:password@]host[:port][/database]`, the same with `rediss://` for TLS, or
    /// `redis+unix:///path[?db=1&user=…&pass=…]` for a socket; user and password percent-encoded. Default
    /// `redis://localhost:6379`.
    pub redis_url: String,
    /// What the names of all keys begin with; on a cluster with a hash tag, as `{orders}`. Default `events`.
    pub stream_prefix: String,
    /// The group of subscribers that name none. It is made on connecting, also where all name another one or nobody
    /// subscribes: then it stays unread, and holds no trimming. Default `default`.
    pub consumer_group: String,
    /// The name of this consumer within its groups; unique among those that run. With one that is the same after a
    /// restart the consumer recovers what it had in hand at once, in order within each aggregate. What a consumer leaves that died for
    /// good is claimed by others after [`pending_idle_ms`](Self::pending_idle_ms). Default: the host's name and eight
    /// random hex digits, so a name that never comes back.
    pub consumer_name: Option<String>,
    /// How many consumers this bus is in each of its groups, at most 1024. Several are called `<consumer_name>-0`, `-1`
    /// and so on, and each reads, holds and handles as much as this configuration and the handlers say. They share the
    /// events of a group as consumers in several processes do: the order of an aggregate holds across them with
    /// [`partitions`](Self::partitions) only. More at once in order is [`concurrency`](Self::concurrency). Default 1.
    pub consumers: usize,
    /// How many entries are read at once, at most 1,000,000. Default 100.
    pub batch_size: usize,
    /// How long a read waits for entries, in milliseconds, at most; reads are cut into slices of a second.
    /// Default 5000.
    pub block_ms: u64,
    /// For how many seconds a failed delivery is tried again before it becomes a dead letter. Default 14400, four hours.
    pub retry_for_seconds: u64,
    /// How often a failed delivery is tried again at most, within that time: with 3 it runs four times. Default: as often
    /// as there is time for.
    pub max_retries: Option<u32>,
    /// How long a consumer may show no sign of life before others claim its entries, in milliseconds. One that is slow
    /// and alive keeps what it holds. Default 60000.
    pub pending_idle_ms: u64,
    /// Whether deliveries that used up their attempts become dead letters. Otherwise they stay pending and are not
    /// handled again; they are counted as exhausted, and trimming stops before them. Default true.
    pub enable_dlq: bool,
    /// What the name of the dead letters' stream ends with, after that of the stream. Default `_dlq`.
    pub dlq_stream_suffix: String,
    /// How long the server may take to answer. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub socket_timeout: Duration,
    /// How long connecting may take. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub socket_connect_timeout: Duration,
    /// Whether entries carry the trace that an event is part of; with the cargo feature `opentelemetry` also whether
    /// publishing and handling are spans in the words of OpenTelemetry. Default true.
    pub enable_tracing: bool,
    /// Part of the name of the key that remembers the attempts of a group, `{<stream>}:<retry_key_prefix>:<group>`.
    /// Default `retry`.
    pub retry_key_prefix: String,
    /// After how many seconds attempts are forgotten that nobody touched and whose entries are pending no more.
    /// Default 86400.
    pub retry_key_expiry_seconds: u64,
    /// Whether everything goes over one connection, with short reads that do not wait. Default false.
    pub single_connection_client: bool,
    /// How many events a consumer handles at once; those of one aggregate always follow each other. One that awaits
    /// for 10 s lets another begin beside it, unless its handler has a `concurrency` of its own. At most
    /// [`max_in_flight`](Self::max_in_flight), and 10,000. Default 1.
    pub concurrency: usize,
    /// How many entries a consumer holds at most; then it reads no more. Those that wait for a retry, or are parked behind
    /// one that does, do not count, but are [bounded](Self::max_waiting) too. It reads ahead what its workers finish in about
    /// a tenth of a second, at the pace that it measures, so that the other consumers of the group get their share. Entries
    /// that it takes over meanwhile from a consumer that died may exceed that by one batch. Default: ten times
    /// [`batch_size`](Self::batch_size).
    #[serde(alias = "max_in_hand")]
    pub max_in_flight: Option<usize>,
    /// How many entries of a consumer may wait for a retry, or be parked behind one that does: then it reads no more until
    /// a tenth of them is gone, and health has an alert. It keeps their ids. Default 100000.
    pub max_waiting: usize,
    /// How many bytes of events a consumer holds at most, as for [`max_in_flight`](Self::max_in_flight); one event may be
    /// larger. The size of what is read next is taken from what was read before. Default 16 MiB.
    #[serde(alias = "max_in_hand_bytes")]
    pub max_in_flight_bytes: usize,
    /// How long the first retry waits, in milliseconds; each further one waits twice as long. Each is shortened at
    /// random, by half at most. Default 100.
    pub retry_delay_ms: u64,
    /// How long a retry waits at most, in milliseconds. Default 300000.
    pub retry_max_delay_ms: u64,
    /// Since when events of a type that a group skipped are delivered when a member announces the type for the first time.
    /// What was skipped earlier is delivered or not as the handler's `start` says. Default 24 hours.
    #[serde(deserialize_with = "seconds")]
    pub deliver_skipped_within: Duration,
    /// From how many milliseconds on a handler is called slow in the log. Default 1000.
    pub slow_handler_ms: u64,
    /// How many entries the stream keeps of those that every group has finished; older ones are removed within about a
    /// second while this bus consumes, see [`trim`](crate::RedisEventBus::trim). Default: all of them.
    pub trim_max_length: Option<u64>,
    /// For how many seconds the stream keeps entries that every group has finished, as for
    /// [`trim_max_length`](Self::trim_max_length). Default: for ever.
    pub trim_max_age_seconds: Option<u64>,
    /// A PEM file with the certificates of the authorities that may sign the server's certificate, instead of those
    /// that the platform trusts. Default: none.
    pub tls_ca_file: Option<PathBuf>,
    /// A PEM file with this client's certificate, for a server that asks for one; needs
    /// [`tls_key_file`](Self::tls_key_file). Default: none.
    pub tls_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of [`tls_cert_file`](Self::tls_cert_file). Default: none.
    pub tls_key_file: Option<PathBuf>,
    /// Whether events are refused that the Python library eventsource-py does not read: those of aggregates whose ids are
    /// no UUIDs (lower case, with hyphens), or whose types have other characters than letters, digits, `_`, `.` and `-`,
    /// and those of version 0. Set it where its services read the stream. It cannot refuse fields that a Python service
    /// does not know: from release 0.9 on the library refuses those, so a new field comes to Python first. Default false.
    pub readable_by_python: bool,
    /// Into how many streams the events are split by aggregate, at most 1024; with more than one each is consumed by one
    /// consumer of a group at a time, so that the order within an aggregate holds across consumers. The number is
    /// recorded with the first connection, and changed by [`repartition`](crate::RedisEventBus::repartition) only. The
    /// Python library reads no such streams. Default 1: one stream.
    pub partitions: u32,
    /// How long a consumer may show no sign of life before others take its partitions over, in milliseconds. Default
    /// 10000.
    pub partition_lease_ms: u64,
    /// By which clock delays and times go that are this process's own; the server's judges claims and leases. Default: the
    /// machine's.
    #[serde(skip)]
    pub clock: SharedClock,
}

impl Default for RedisEventBusConfig {
    fn default() -> Self {
        Self {
            redis_url: "redis://localhost:6379".into(),
            stream_prefix: "events".into(),
            consumer_group: "default".into(),
            consumer_name: None,
            consumers: 1,
            batch_size: 100,
            block_ms: 5_000,
            retry_for_seconds: 4 * 3_600,
            max_retries: None,
            pending_idle_ms: 60_000,
            enable_dlq: true,
            dlq_stream_suffix: "_dlq".into(),
            socket_timeout: Duration::from_secs(5),
            socket_connect_timeout: Duration::from_secs(5),
            enable_tracing: true,
            retry_key_prefix: "retry".into(),
            retry_key_expiry_seconds: 86_400,
            single_connection_client: false,
            concurrency: 1,
            max_in_flight: None,
            max_waiting: DEFAULT_MAX_WAITING,
            max_in_flight_bytes: DEFAULT_IN_FLIGHT_BYTES,
            retry_delay_ms: 100,
            retry_max_delay_ms: 300_000,
            deliver_skipped_within: DELIVER_SKIPPED_WITHIN,
            slow_handler_ms: 1_000,
            trim_max_length: None,
            trim_max_age_seconds: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            readable_by_python: false,
            partitions: 1,
            partition_lease_ms: 10_000,
            clock: SharedClock::SYSTEM,
        }
    }
}

impl RedisEventBusConfig {
    /// The name of the stream that carries all events; with several partitions what the names of theirs begin with.
    #[must_use]
    pub fn stream_name(&self) -> String {
        keys::stream(&self.stream_prefix)
    }

    /// The name of the stream that carries the events of an aggregate: with several partitions the number that follows
    /// is the XXH3 hash (64 bits, seed 0) of the id's text, modulo their number.
    ///
    /// # Examples
    /// ```
    /// use eventbus_redis::RedisEventBusConfig;
    /// let config = RedisEventBusConfig { stream_prefix: "orders".into(), partitions: 16, ..Default::default() };
    /// assert_eq!(config.stream_of("order-1"), "orders:stream:6");
    /// ```
    #[must_use]
    pub fn stream_of(&self, aggregate_id: &str) -> String {
        let stream = self.stream_name();
        match self.partitions {
            0 | 1 => stream,
            partitions => keys::partition(&stream, partition_of(aggregate_id, partitions)),
        }
    }

    /// The name of the stream that keeps the dead letters.
    #[must_use]
    pub fn dlq_stream_name(&self) -> String {
        keys::dead_letters(&self.stream_prefix, &self.dlq_stream_suffix)
    }

    /// How many entries a consumer holds at most.
    pub(crate) fn in_flight_limit(&self) -> usize {
        self.max_in_flight.unwrap_or_else(|| self.batch_size.saturating_mul(10))
    }

    /// How the server is reached.
    pub(crate) fn server(&self) -> Server<'_> {
        Server {
            url: &self.redis_url,
            tls_ca_file: self.tls_ca_file.as_deref(),
            tls_cert_file: self.tls_cert_file.as_deref(),
            tls_key_file: self.tls_key_file.as_deref(),
            timeout: self.socket_timeout,
            connect_timeout: self.socket_connect_timeout,
            prefix: ("stream_prefix", &self.stream_prefix),
        }
    }
}

pub(crate) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| de::Error::custom(format_args!("{seconds} is no number of seconds")))
}

impl fmt::Debug for RedisEventBusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEventBusConfig")
            .field("redis_url", &self.server().address())
            .field("stream_prefix", &self.stream_prefix)
            .field("consumer_group", &self.consumer_group)
            .field("consumer_name", &self.consumer_name)
            .field("consumers", &self.consumers)
            .field("batch_size", &self.batch_size)
            .field("block_ms", &self.block_ms)
            .field("retry_for_seconds", &self.retry_for_seconds)
            .field("max_retries", &self.max_retries)
            .field("pending_idle_ms", &self.pending_idle_ms)
            .field("enable_dlq", &self.enable_dlq)
            .field("dlq_stream_suffix", &self.dlq_stream_suffix)
            .field("socket_timeout", &self.socket_timeout)
            .field("socket_connect_timeout", &self.socket_connect_timeout)
            .field("enable_tracing", &self.enable_tracing)
            .field("retry_key_prefix", &self.retry_key_prefix)
            .field("retry_key_expiry_seconds", &self.retry_key_expiry_seconds)
            .field("single_connection_client", &self.single_connection_client)
            .field("concurrency", &self.concurrency)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_waiting", &self.max_waiting)
            .field("max_in_flight_bytes", &self.max_in_flight_bytes)
            .field("retry_delay_ms", &self.retry_delay_ms)
            .field("retry_max_delay_ms", &self.retry_max_delay_ms)
            .field("deliver_skipped_within", &self.deliver_skipped_within)
            .field("slow_handler_ms", &self.slow_handler_ms)
            .field("trim_max_length", &self.trim_max_length)
            .field("trim_max_age_seconds", &self.trim_max_age_seconds)
            .field("tls_ca_file", &self.tls_ca_file)
            .field("tls_cert_file", &self.tls_cert_file)
            .field("tls_key_file", &self.tls_key_file)
            .field("readable_by_python", &self.readable_by_python)
            .field("partitions", &self.partitions)
            .field("partition_lease_ms", &self.partition_lease_ms)
            .field("clock", &self.clock)
            .finish()
    }
}

/// A name for a consumer that was given none: the host's and eight hex digits.
pub(crate) fn consumer_name(clock: &SharedClock) -> String {
    let host = ["HOSTNAME", "COMPUTERNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let host = host.unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| !c.is_control()).take(60).collect();
    let host = if host.is_empty() { "consumer" } else { &host };
    // the last digits of such an id are random
    let id = clock.new_id().simple().to_string();
    format!("{host}-{}", &id[24..])
}
