//! Why waiting for an app was in vain.

use std::time::Duration;

use crate::{
    domain::{name::Name, stream::Position},
    port::{ConsumeError, ReadError},
    runtime::{projection::ProjectionError, relay::RelayError},
};

/// Why a position is not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishedError {
    /// Nobody relays: the app only consumes, or its bus lives in the process and the builder says `.without_relay()`.
    #[error("the app has no relay: it only consumes, or its builder says `.without_relay()`")]
    NoRelay,
    /// The relay publishes nothing until somebody decides.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The relay ended before it got that far.
    #[error("the relay stopped at position {position}, before {wanted}: {reason}")]
    Stopped {
        /// Where it stopped.
        position: Position,
        /// Where it should have been.
        wanted: Position,
        /// Why.
        reason: String,
    },
    /// The relay did not get that far in time.
    #[error("the relay is at position {position}, {wanted} was not reached within {timeout:?}: {problem}")]
    TimedOut {
        /// Where the relay is.
        position: Position,
        /// Where it should have been.
        wanted: Position,
        /// How long it was waited for at most.
        timeout: Duration,
        /// What keeps it.
        problem: String,
    },
}

/// Why an app does not settle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// Handlers failed deliveries as often as they may, or an entry was no event, and those became dead letters since this
    /// was last said. The log has each of them; this names the last of each handler, and the last without one.
    #[error("{dead} deliver{} given up: {}", if *dead == 1 { "y was" } else { "ies were" }, last.join("; "))]
    DeadLetters {
        /// How many deliveries.
        dead: u64,
        /// Each handler that failed, with the last event it failed and why; then the last entry that no handler got.
        last: Vec<String>,
    },
    /// Handlers failed deliveries as often as they may; as the bus keeps no dead letters, they stay pending. The log has
    /// each of them; this names the last of each handler.
    #[error(
        "{exhausted} event{} of group `{group}` failed and stay{} pending: {}",
        if *exhausted == 1 { "" } else { "s" }, if *exhausted == 1 { "s" } else { "" }, last.join("; ")
    )]
    Exhausted {
        /// The consumer group.
        group: Name,
        /// How many deliveries.
        exhausted: u64,
        /// Each handler that failed, with the last event it failed and why.
        last: Vec<String>,
    },
    /// Something was still busy.
    #[error("still waiting for {waiting_for} after {timeout:?}")]
    TimedOut {
        /// What was still busy.
        waiting_for: String,
        /// How long it was waited for.
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
    /// The bus could not be asked.
    #[error(transparent)]
    Bus(#[from] ConsumeError),
}
