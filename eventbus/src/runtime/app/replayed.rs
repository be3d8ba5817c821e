//! The progress and the errors of a replay of stored events to one handler.

use serde::Serialize;

use crate::{
    domain::{metadata::EventId, stream::Position},
    port::ReadError,
};

/// Progress or result of a replay of stored events to one handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Replayed {
    /// Events handled so far.
    pub events: u64,
    /// Events that the handler has handled before, by its notes in the store. A handler that takes the store's
    /// connection leaves a note for each event; one that takes repositories, for each event for which it saved events.
    pub skipped: u64,
    /// All events up to this position are handled.
    pub position: Position,
    /// The last position of the replay.
    pub through: Position,
}

/// The error of a replay of stored events to one handler.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The handler failed at an event; the events before it are handled.
    #[error(
        "`{handler}` failed with the event {event_id} at position {position}: {reason}; the events up to position {after} are handled"
    )]
    Failed {
        /// The handler.
        handler: &'static str,
        /// The position of the event.
        position: Position,
        /// The id of the event.
        event_id: EventId,
        /// The position after which the next replay begins.
        after: Position,
        /// The error of the handler.
        reason: String,
    },
    /// The store could not be read.
    #[error("the events to replay could not be read")]
    Store(#[source] ReadError),
}
