//! Errors of configuring, connecting and sending commands. No message shows a password.

#![warn(missing_docs)]

use std::time::Duration;

use eventbus::BoxError;
use redis::RedisError;

use crate::{
    reply,
    url::asks_for_tls,
    validate::{FieldMistake, FieldProblem},
};

/// All mistakes of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid configuration of the Redis {of}: {}", list(.mistakes))]
#[non_exhaustive]
pub struct InvalidConfig {
    /// The subject of the configuration: the `bus`, the `streams` or the `event store`.
    pub of: &'static str,
    /// The mistakes, in the order of the fields.
    pub mistakes: Vec<ConfigMistake>,
}

impl InvalidConfig {
    #[doc(hidden)]
    #[must_use]
    pub fn new(of: &'static str, (field, problem): FieldMistake) -> Self {
        Self { of, mistakes: vec![ConfigMistake::new(field, problem)] }
    }

    /// Returns the value, unless there are mistakes.
    #[doc(hidden)]
    pub fn unless<T>(of: &'static str, mistakes: Vec<ConfigMistake>, value: T) -> Result<T, Self> {
        if mistakes.is_empty() { Ok(value) } else { Err(Self { of, mistakes }) }
    }

    #[doc(hidden)]
    pub fn check(of: &'static str, fields: impl IntoIterator<Item = FieldProblem>) -> Result<(), Self> {
        let mistake = |(field, problem): FieldProblem| Some(ConfigMistake::new(field, problem?));
        Self::unless(of, fields.into_iter().filter_map(mistake).collect(), ())
    }
}

/// One mistake in a configuration.
#[derive(Debug, derive_more::Display, Clone, PartialEq, Eq)]
#[display("`{field}` {problem}")]
#[non_exhaustive]
pub struct ConfigMistake {
    /// The field, or the environment variable.
    pub field: String,
    /// The problem: a verb phrase that follows the field.
    pub problem: String,
}

impl ConfigMistake {
    #[doc(hidden)]
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

fn list(mistakes: &[ConfigMistake]) -> String {
    let mistakes: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    mistakes.join("; ")
}

/// Errors of connecting to Redis.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisConnectError {
    /// The configuration has mistakes; no connection was attempted.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// No server listens at the address, or the connection broke.
    #[error("cannot connect to Redis at {address}")]
    Unavailable {
        /// The address, without the password.
        address: String,
        /// The transport's error.
        source: BoxError,
    },
    /// The server did not reply in time.
    #[error(
        "Redis at {address} did not answer within {timeout:?}{}",
        if asks_for_tls(.address) { "; does it speak TLS? the URL asks for it (`rediss://`)" } else { "" }
    )]
    TimedOut {
        /// The address, without the password.
        address: String,
        /// The timeout that passed.
        timeout: Duration,
    },
    /// The server at the address is not Redis (perhaps the port belongs to a different service), or requires TLS that
    /// the URL does not ask for.
    #[error("the server at {address} does not speak Redis")]
    NotRedis {
        /// The address, without the password.
        address: String,
        /// The reply that the client could not parse.
        source: BoxError,
    },
    /// The server does not speak TLS, but the URL asks for it (`rediss://`); perhaps it is the plaintext port. The
    /// client sent no command.
    #[error("the server at {address} does not speak TLS, which `rediss://` asks for")]
    NoTls {
        /// The address, without the password.
        address: String,
        /// The reply that the client could not parse.
        source: BoxError,
    },
    /// The client does not trust the server's certificate: its authority is neither trusted by the platform nor in
    /// `tls_ca_file`, it is for a different host, or it has expired. The client sent no command.
    #[error("the certificate of Redis at {address} is not trusted")]
    Untrusted {
        /// The address, without the password.
        address: String,
        /// The problem with the certificate.
        source: BoxError,
    },
    /// The server is a node of a cluster, and the keys share no hash tag: they would be on several nodes. Connecting
    /// wrote no key.
    #[error(
        "Redis at {address} is a node of a cluster, where the keys must share a hash tag: set `{field}` to \
         `{{{}}}` instead of `{prefix}`",
        if .prefix.is_empty() { "events" } else { .prefix }
    )]
    NeedsHashTag {
        /// The address, without the password.
        address: String,
        /// The configuration field that holds the prefix of all keys.
        field: &'static str,
        /// The field's value, which has no hash tag.
        prefix: String,
    },
    /// The server holds no such store or bus, and the caller asked for an existing one; connecting wrote no key.
    #[error("Redis at {address} holds no {of} with that prefix: there is no key `{key}`")]
    NotFound {
        /// The address, without the password.
        address: String,
        /// The subject: the `bus` or the `event store`.
        of: &'static str,
        /// The key that the store or bus would have.
        key: String,
    },
    /// A newer release wrote the keys in a format that this release does not know; connecting wrote no key.
    #[error(
        "`{key}` on Redis at {address} records format {format}, which takes a release that knows format {min_reader}; \
         this one knows format {known}: use a newer release"
    )]
    FormatTooNew {
        /// The address, without the password.
        address: String,
        /// The key that records the format.
        key: String,
        /// The recorded format.
        format: u32,
        /// The lowest format that a release must know to read and write beside it.
        min_reader: u32,
        /// The highest format that this release knows.
        known: u32,
    },
    /// The server refuses: the password is wrong, rights are missing, the database does not exist, a key has the
    /// wrong type, or a different node of the cluster holds it.
    #[error("Redis at {address} refuses")]
    Refused {
        /// The address, without the password.
        address: String,
        /// The server's error reply.
        source: BoxError,
    },
}

/// The server asks for a password that the configuration lacks.
#[derive(Debug, thiserror::Error)]
#[error("the server asks for a password, and the URL has none")]
pub(crate) struct PasswordMissing {
    pub(crate) source: RedisError,
}

impl RedisConnectError {
    /// Returns `true` if a later attempt can succeed with the same configuration and server.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::TimedOut { .. })
    }
}

/// Errors of a command that the bus sent to the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisCommandError {
    /// The application disconnected the bus or shut it down.
    #[error("the bus on `{stream}` is shut down")]
    ShutDown {
        /// The stream of the bus.
        stream: String,
    },
    /// The client could not reach the server, or the server cannot execute commands now; it did not execute this one.
    #[error("the Redis of `{stream}` is unavailable")]
    Unavailable {
        /// The stream of the bus.
        stream: String,
        /// The transport's error.
        source: BoxError,
    },
    /// The connection broke after the client sent the command; the server may or may not have executed it.
    #[error("the connection to the Redis of `{stream}` broke, the server may or may not have executed the command")]
    OutcomeUnknown {
        /// The stream of the bus.
        stream: String,
        /// The transport's error.
        source: BoxError,
    },
    /// The server refuses; retries fail until an operator changes the server or the configuration.
    #[error("the Redis of `{stream}` refuses")]
    Refused {
        /// The stream of the bus.
        stream: String,
        /// The server's error reply.
        source: BoxError,
    },
}

impl RedisCommandError {
    #[doc(hidden)]
    #[must_use]
    pub fn from_command_error(stream: &str, error: CommandError) -> Self {
        let stream = stream.to_owned();
        match error {
            CommandError::Sent(error) if is_refused(&error) => Self::Refused { stream, source: error.into() },
            CommandError::Sent(error) if !reply::is_not_executed(&error) => {
                Self::OutcomeUnknown { stream, source: error.into() }
            }
            nothing_done => Self::Unavailable { stream, source: boxed(nothing_done) },
        }
    }

    /// Returns `true` if a retry of the same command can succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::OutcomeUnknown { .. })
    }
}

/// Returns `true` if a retry would be refused too.
fn is_refused(error: &RedisError) -> bool {
    reply::is_refusal(error) || matches!(error.code(), Some("ERR" | "CROSSSLOT"))
}

/// The reason why a command has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommandError {
    /// No connection was open; the command was not sent.
    #[error("{0}")]
    NotSent(String),
    /// The command was sent, or may have been.
    #[error(transparent)]
    Sent(#[from] RedisError),
}

/// Converts a command error to the error that users of the bus see.
pub fn boxed(error: CommandError) -> BoxError {
    match error {
        not_sent @ CommandError::NotSent(_) => not_sent.into(),
        CommandError::Sent(error) => error.into(),
    }
}
