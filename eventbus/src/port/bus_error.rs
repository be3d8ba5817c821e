//! The errors of buses.

use std::time::Duration;

use crate::domain::{error::BoxError, metadata::EventId, name::Name};

/// The error of connecting to a bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The bus could not be reached; a later try may succeed.
    #[error("event bus `{destination}` unavailable")]
    Unavailable {
        /// The bus.
        destination: Name,
        /// The error of the transport.
        source: BoxError,
    },
    /// The bus refuses the connection until its configuration changes: a password, a certificate, a newer
    /// format.
    #[error("event bus `{destination}` refuses the connection")]
    Refused {
        /// The bus.
        destination: Name,
        /// The reason.
        source: BoxError,
    },
}

/// The error of publishing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The bus could not be reached; no event was published.
    #[error("event bus `{destination}` unavailable")]
    Unavailable {
        /// The destination of the events.
        destination: Name,
        /// The error of the transport.
        source: BoxError,
    },
    /// The connection broke, or the server refused, after some events were sent: some, all or none may be published.
    #[error("outcome of publishing to `{destination}` unknown")]
    OutcomeUnknown {
        /// The destination of the events.
        destination: Name,
        /// The error of the transport.
        source: BoxError,
    },
    /// The bus refuses the events until they, or its configuration, change; no event was published.
    #[error("event bus `{destination}` refuses the events")]
    Refused {
        /// The destination of the events.
        destination: Name,
        /// The first event that the bus refuses; `None` if it accepts none at all.
        event_id: Option<EventId>,
        /// The reason.
        source: BoxError,
    },
    /// A relay publishes all events of this store; publishing them by hand too would repeat each.
    #[error("a relay publishes this store to `{destination}`; publishing by hand too would publish each event twice")]
    OwnedByRelay {
        /// The destination of the relay.
        destination: Name,
    },
    /// The bus is filled to its capacity and does not consume; no event was published.
    #[error("event bus `{destination}` is full and does not consume")]
    Full {
        /// The destination of the events.
        destination: Name,
    },
    /// The bus was shut down; no event was published.
    #[error("event bus `{destination}` is shut down")]
    ShutDown {
        /// The destination of the events.
        destination: Name,
    },
}

impl PublishError {
    /// Returns `true` if publishing again can succeed; after an unknown outcome it may repeat events.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::OutcomeUnknown { .. } | Self::Full { .. })
    }
}

/// The error of consuming, or of asking a bus about its groups.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The bus consumes already.
    #[error("event bus `{destination}` is consuming already")]
    AlreadyConsuming {
        /// The bus.
        destination: Name,
    },
    /// The bus was shut down.
    #[error("event bus `{destination}` is shut down")]
    ShutDown {
        /// The bus.
        destination: Name,
    },
    /// The bus could not be reached.
    #[error("event bus `{destination}` unavailable")]
    Unavailable {
        /// The bus.
        destination: Name,
        /// The error of the transport.
        source: BoxError,
    },
}

/// A shutdown that did not finish in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} was still busy after {timeout:?}; the events in flight are delivered again")]
#[non_exhaustive]
pub struct ShutdownError {
    /// The part that was still busy.
    pub what: String,
    /// The time that the caller allowed.
    pub timeout: Duration,
}

impl ShutdownError {
    /// Names the part that was still busy.
    pub fn new(what: impl Into<String>, timeout: Duration) -> Self {
        Self { what: what.into(), timeout }
    }
}
