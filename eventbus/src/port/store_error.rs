//! The errors of appending to a store and reading from it.

use crate::domain::{
    error::BoxError,
    metadata::EventId,
    name::Name,
    stream::{ExpectedVersion, Position, StreamId, Version},
};

const NO_STORE: &str = "this app only consumes: its builder has a bus and no `.store(..)`; in a test, add \
    `.store(InMemoryEventStore::new())`";

/// The error of an append.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A concurrent writer appended first; load the aggregate and decide again. No event was stored.
    #[error(
        "stream `{stream}` {}",
        match expected.matches(Version::NONE) {
            true => format!("exists already, at version {actual}"),
            false => format!("is at version {actual}, expected {expected}"),
        }
    )]
    Conflict {
        /// The stream of the append.
        stream: StreamId,
        /// The version that the caller expected.
        expected: ExpectedVersion,
        /// The version of the stream.
        actual: Version,
    },
    /// An event of the stream has this id already, or the append contains it twice. No event was stored.
    #[error("event id {event_id} is used by another event of stream `{stream}` already")]
    EventIdTaken {
        /// The id.
        event_id: EventId,
        /// The stream of the append.
        stream: StreamId,
    },
    /// Another stream holds a unique value that an event takes. No event was stored.
    #[error("`{name}` of `{stream}` is taken by another stream")]
    Taken {
        /// The stream of the append.
        stream: StreamId,
        /// The name of the value within the aggregate type: `email`.
        name: Name,
    },
    /// An event was added to the boundary that the append depends on; read that again and decide again. No event was
    /// stored.
    #[error("events were added to what the decision is about: {}", names.join(", "))]
    BoundaryMoved {
        /// The names of the tags of the boundary, each once.
        names: Vec<String>,
    },
    /// The store refuses these events, for example as [invalid](crate::event::InvalidEvent). No event was stored.
    #[error("event store refuses events for stream `{stream}`")]
    Refused {
        /// The stream of the append.
        stream: StreamId,
        /// The store's reason.
        source: BoxError,
    },
    /// The store could not be reached; no event was stored.
    #[error("event store unavailable")]
    Unavailable(#[source] BoxError),
    /// The app has no store: it only consumes. No event was stored.
    #[error("{NO_STORE}")]
    NoStore,
    /// The connection broke after sending; the events may or may not be stored.
    #[error("append outcome unknown")]
    OutcomeUnknown(#[source] BoxError),
}

impl AppendError {
    /// Returns `true` if a concurrent writer appended first.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::BoundaryMoved { .. })
    }

    /// Returns `true` if another stream holds the unique value of this name, which an event takes.
    #[must_use]
    pub fn is_taken(&self, name: &str) -> bool {
        matches!(self, Self::Taken { name: taken, .. } if taken.as_str() == name)
    }

    /// Returns `true` if appending again *with the same event ids* can succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_))
    }
}

/// The error of reading from a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The store could not be reached.
    #[error("event store unavailable")]
    Unavailable(#[source] BoxError),
    /// The app has no store: it only consumes.
    #[error("{NO_STORE}")]
    NoStore,
    /// The stored data cannot be decoded: other software wrote or damaged it.
    #[error("event store holds corrupt data at {place}")]
    Corrupt {
        /// The location of the data: a stream and version, or a position.
        place: String,
        /// The position of the event, if known.
        position: Option<Position>,
        /// The defect of the data.
        source: BoxError,
    },
}

impl ReadError {
    /// Returns a [`Corrupt`](Self::Corrupt) without a position: for data that is no event, or for an event whose
    /// position is not known.
    ///
    /// # Examples
    /// ```
    /// use eventbus::store::ReadError;
    /// let error = ReadError::corrupt("the store's id", "it has 3 bytes");
    /// assert_eq!(error.to_string(), "event store holds corrupt data at the store's id");
    /// ```
    #[must_use]
    pub fn corrupt(place: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Corrupt { place: place.into(), position: None, source: source.into() }
    }
}
