//! The errors of waiting for an app.

use std::time::Duration;

use crate::{
    domain::{name::Name, stream::Position},
    port::{ConsumeError, ReadError},
    runtime::{projection::ProjectionError, relay::RelayError},
};

/// A wait for a published position that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishedError {
    /// No process relays: the app only consumes, or its bus lives in the process and the builder says
    /// `.without_relay()`.
    #[error("the app has no relay: it only consumes, or its builder says `.without_relay()`")]
    NoRelay,
    /// The relay has stopped until an operator decides.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The relay ended before it reached the position.
    #[error("the relay stopped at position {position}, before {wanted}: {reason}")]
    Stopped {
        /// The position where it stopped.
        position: Position,
        /// The wanted position.
        wanted: Position,
        /// The reason.
        reason: String,
    },
    /// The relay did not reach the position in time.
    #[error("the relay is at position {position}, {wanted} was not reached within {timeout:?}: {problem}")]
    TimedOut {
        /// The position of the relay.
        position: Position,
        /// The wanted position.
        wanted: Position,
        /// The builder's timeout.
        timeout: Duration,
        /// The problem that delays it.
        problem: String,
    },
}

/// A wait for an idle app that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// Deliveries became dead letters since the last report: their handlers used up all attempts, or the entry was no
    /// event. The log has each of them; this names the last one of each handler, and the last one without a handler.
    #[error("{dead} deliver{} given up: {}", if *dead == 1 { "y was" } else { "ies were" }, last.join("; "))]
    DeadLetters {
        /// The number of deliveries.
        dead: u64,
        /// Each handler that failed, with its last failed event and the error; then the last entry without a handler.
        last: Vec<String>,
    },
    /// Handlers used up all attempts of deliveries, which stay pending, as the bus keeps no dead letters. The log has
    /// each of them; this names the last one of each handler.
    #[error(
        "{exhausted} event{} of group `{group}` failed and stay{} pending: {}",
        if *exhausted == 1 { "" } else { "s" }, if *exhausted == 1 { "s" } else { "" }, last.join("; ")
    )]
    Exhausted {
        /// The consumer group.
        group: Name,
        /// The number of deliveries.
        exhausted: u64,
        /// Each handler that failed, with its last failed event and the error.
        last: Vec<String>,
    },
    /// The relay, a projection or a group was still busy at the timeout.
    #[error("still waiting for {waiting_for} after {timeout:?}")]
    TimedOut {
        /// The busy part, and its problem if it has one.
        waiting_for: String,
        /// The builder's timeout.
        timeout: Duration,
    },
    /// The relay does not publish.
    #[error(transparent)]
    Relay(#[from] PublishedError),
    /// A projection stopped.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] ReadError),
    /// The bus did not answer.
    #[error(transparent)]
    Bus(#[from] ConsumeError),
}
