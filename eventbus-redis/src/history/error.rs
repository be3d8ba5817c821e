//! Errors of reading a stream without a group.

use eventbus::{BoxError, Name, port::MessageId};

use crate::{
    error::{CommandError, boxed},
    reply,
};

/// An entry of the stream that is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {id} is no event: {reason}")]
#[non_exhaustive]
pub struct NotAnEvent {
    /// The id of the entry in Redis.
    pub id: MessageId,
    /// The reason.
    pub reason: String,
}

/// Reasons why the stream could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The id after which to read is not an id of an entry: `<milliseconds>-<number>`.
    #[error("`{id}` is no id of an entry of a stream")]
    InvalidId {
        /// The id.
        id: MessageId,
    },
    /// The bus was shut down.
    #[error("event bus `{destination}` is shut down")]
    ShutDown {
        /// The bus.
        destination: Name,
    },
    /// The server refused the command: rights are missing, or the key has a different type.
    #[error("event bus `{destination}` refuses to be read")]
    Refused {
        /// The bus.
        destination: Name,
        /// The server's error.
        source: BoxError,
    },
    /// The server could not be reached, or is not ready.
    #[error("event bus `{destination}` unavailable")]
    Unavailable {
        /// The bus.
        destination: Name,
        /// The error of the transport.
        source: BoxError,
    },
}

impl HistoryError {
    /// Returns `true` if reading again can succeed without a change of configuration or rights.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(super) fn from_command_error(destination: &Name, error: CommandError) -> Self {
        let destination = destination.clone();
        match error {
            CommandError::Sent(error) if reply::is_refusal(&error) => {
                Self::Refused { destination, source: error.into() }
            }
            error => Self::Unavailable { destination, source: boxed(error) },
        }
    }
}
