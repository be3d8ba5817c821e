//! Why there is no bus or store. No message shows a password.

use std::{fmt, time::Duration};

use eventbus::BoxError;
use redis::RedisError;

use crate::{
    command,
    connection::{CommandError, boxed},
    partition::PartitionCountMismatch,
    server::asks_for_tls,
};

/// A configuration with mistakes; all of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid configuration of the Redis {of}: {}", list(.mistakes))]
#[non_exhaustive]
pub struct InvalidConfig {
    /// What it is for: the `bus`, the `streams` or the `event store`.
    pub of: &'static str,
    /// The mistakes, in the order of the fields.
    pub mistakes: Vec<ConfigMistake>,
}

impl InvalidConfig {
    pub(crate) const fn for_bus(mistakes: Vec<ConfigMistake>) -> Self {
        Self { of: "bus", mistakes }
    }

    pub(crate) const fn for_streams(mistakes: Vec<ConfigMistake>) -> Self {
        Self { of: "streams", mistakes }
    }

    pub(crate) const fn for_store(mistakes: Vec<ConfigMistake>) -> Self {
        Self { of: "event store", mistakes }
    }
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigMistake {
    /// The field, or the environment variable.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl ConfigMistake {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.field, self.problem)
    }
}

fn list(mistakes: &[ConfigMistake]) -> String {
    let mistakes: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    mistakes.join("; ")
}

/// Why [`RedisEventBus::connect`](crate::RedisEventBus::connect) gave no bus, or
/// [`RedisEventStore::connect`](crate::RedisEventStore::connect) no store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisConnectError {
    /// The configuration has mistakes; nothing was tried.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// Nobody answers at the address, or the connection broke.
    #[error("cannot connect to Redis at {address}")]
    Unavailable {
        /// The address, without the password.
        address: String,
        /// What the transport said.
        source: BoxError,
    },
    /// There was no answer in time.
    #[error(
        "Redis at {address} did not answer within {timeout:?}{}",
        if asks_for_tls(.address) { "; does it speak TLS? the URL asks for it (`rediss://`)" } else { "" }
    )]
    TimedOut {
        /// The address, without the password.
        address: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// What answers there is no Redis, or wants TLS that the URL does not ask for. Perhaps the port is that of something
    /// else.
    #[error("what answers at {address} does not speak Redis")]
    NotRedis {
        /// The address, without the password.
        address: String,
        /// What could not be understood.
        source: BoxError,
    },
    /// What answers there does not speak TLS, which the URL asks for (`rediss://`). Perhaps the port is the plain one.
    /// Nothing was sent.
    #[error("what answers at {address} does not speak TLS, which `rediss://` asks for")]
    NoTls {
        /// The address, without the password.
        address: String,
        /// What could not be understood.
        source: BoxError,
    },
    /// The server shows a certificate that is not to be trusted: of an authority that neither the platform nor
    /// `tls_ca_file` knows, for another host, or expired. Nothing was sent.
    #[error("the certificate of Redis at {address} is not to be trusted")]
    Untrusted {
        /// The address, without the password.
        address: String,
        /// What is wrong with the certificate.
        source: BoxError,
    },
    /// The server is a node of a cluster, and nothing keeps the keys together there; nothing was written.
    #[error(
        "Redis at {address} is a node of a cluster, where the keys must share a hash tag: set `{field}` to \
         `{{{}}}` instead of `{prefix}`",
        if .prefix.is_empty() { "events" } else { .prefix }
    )]
    NeedsHashTag {
        /// The address, without the password.
        address: String,
        /// The field of the configuration that says what all keys begin with.
        field: &'static str,
        /// What it says, which has no hash tag.
        prefix: String,
    },
    /// The stream has another number of partitions; nothing was written.
    #[error(transparent)]
    PartitionCountMismatch(#[from] PartitionCountMismatch),
    /// The server answers and refuses: a wrong password, missing rights, a database that it has not, a key of another
    /// kind, or one that another node of its cluster has.
    #[error("Redis at {address} refuses")]
    Refused {
        /// The address, without the password.
        address: String,
        /// What the server said.
        source: BoxError,
    },
}

impl RedisConnectError {
    /// Whether connecting again can succeed without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::TimedOut { .. })
    }
}

/// Why the server did not do what the bus was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisCommandError {
    /// The bus was disconnected or shut down.
    #[error("the bus on `{stream}` is shut down")]
    ShutDown {
        /// The stream of the bus.
        stream: String,
    },
    /// The server could not be reached, or can do nothing now; nothing was done.
    #[error("the Redis of `{stream}` is unavailable")]
    Unavailable {
        /// The stream of the bus.
        stream: String,
        /// What the transport said.
        source: BoxError,
    },
    /// The connection broke after sending; it may be done or not.
    #[error("the connection to the Redis of `{stream}` broke, it may or may not have done what it was told")]
    OutcomeUnknown {
        /// The stream of the bus.
        stream: String,
        /// What the transport said.
        source: BoxError,
    },
    /// The server answers and refuses, until somebody changes something.
    #[error("the Redis of `{stream}` refuses")]
    Refused {
        /// The stream of the bus.
        stream: String,
        /// What the server said.
        source: BoxError,
    },
}

impl RedisCommandError {
    pub(crate) fn from_command_error(stream: &str, error: CommandError) -> Self {
        let stream = stream.to_owned();
        match error {
            CommandError::Sent(error) if is_refused(&error) => Self::Refused { stream, source: error.into() },
            CommandError::Sent(error) if !command::is_not_executed(&error) => {
                Self::OutcomeUnknown { stream, source: error.into() }
            }
            nothing_done => Self::Unavailable { stream, source: boxed(nothing_done) },
        }
    }

    /// Whether trying again can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::OutcomeUnknown { .. })
    }
}

/// Whether the server refuses for good, until somebody changes something.
fn is_refused(error: &RedisError) -> bool {
    command::is_refusal(error) || command::is_wrong_server(error) || matches!(error.code(), Some("ERR" | "CROSSSLOT"))
}
