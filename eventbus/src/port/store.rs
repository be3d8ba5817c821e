//! The contract of an event store.
//!
//! Guarantees: an append is all or nothing; versions of a stream are contiguous from 1; positions grow in version
//! order within a stream; the feed neither skips nor repeats nor reorders, whatever writers do meanwhile. Not
//! guaranteed: that positions are contiguous, or that two streams are ordered as their callers returned.

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use futures_core::Stream;
use futures_util::TryFutureExt as _;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    AppendSignal, Checkpoints, EventTypes, FeedFilter, Floors, Leases, Notes, Transactions, UnfinishedDeliveries,
    address::type_name,
};
use crate::domain::{
    error::BoxError,
    metadata::EventId,
    record::{NewEvent, RecordedEvent},
    stream::{ExpectedVersion, Position, StreamId, Version},
};

/// Recorded events, read page by page while they are consumed.
pub type RecordStream<'a> = Pin<Box<dyn Stream<Item = Result<RecordedEvent, ReadError>> + Send + 'a>>;

/// One append among several, see [`AppendEvents::append_many`].
#[derive(Debug, Clone)]
pub struct Append {
    /// The stream.
    pub stream: StreamId,
    /// Where the stream has to be.
    pub expected: ExpectedVersion,
    /// What is appended, in order.
    pub events: Vec<NewEvent>,
}

/// Appends events to streams, all or nothing each.
///
/// Implementations are shared between tasks and must pass the event-store suite of `eventbus::testkit`.
#[async_trait]
pub trait AppendEvents: Send + Sync {
    /// Appends `events` to `stream` if its version matches `expected`, and returns them as recorded.
    ///
    /// Appending event ids that are already in the stream returns their existing records and writes nothing, so an
    /// unknown outcome is resolved by appending again. No events: nothing happens.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] if the stream is at another version; see [`AppendError::is_retryable`] for the rest.
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError>;

    /// Appends to many streams at once and returns a result for each, in order; one that fails harms no other.
    ///
    /// Appends to the same stream are made in the order given. There is no promise that they become visible together.
    /// The provided body makes one after the other; a store on a server sends them in one round trip.
    ///
    /// # Errors
    /// Each result by itself is that of [`append`](Self::append).
    ///
    /// # Examples
    /// ```
    /// use eventbus::{ExpectedVersion, InMemoryEventStore, NewEvent, StreamId, port::{Append, AppendEvents}, prelude::*};
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate_type = "Account")]
    /// struct Opened { owner: String }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let store = InMemoryEventStore::new();
    /// let mut appends = Vec::new();
    /// for owner in ["ada", "bob"] {
    ///     let event = NewEvent::from_event(&Opened { owner: owner.into() })?;
    ///     let stream = StreamId::parse("Account", owner)?;
    ///     appends.push(Append { stream, expected: ExpectedVersion::NoStream, events: vec![event] });
    /// }
    /// for result in store.append_many(appends).await {
    ///     assert_eq!(result?.len(), 1); // each by itself: one may be a conflict, the others are stored all the same
    /// }
    /// # Ok(())
    /// # }
    /// ```
    async fn append_many(&self, appends: Vec<Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
        let mut results = Vec::with_capacity(appends.len());
        for Append { stream, expected, events } in appends {
            results.push(self.append(&stream, expected, events).await);
        }
        results
    }
}

/// Which way a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From older to newer.
    Forward,
    /// From newer to older.
    Backward,
}

/// Reads the events of one stream.
#[async_trait]
pub trait ReadStream: Send + Sync {
    /// The events of `stream` from version `from` on, itself included, in the given direction.
    ///
    /// `Version::FIRST` forward is everything; `Version::MAX` backward is everything from the end. A stream without
    /// events is empty, not an error. Pages are read as they are consumed: events appended meanwhile may be seen.
    ///
    /// # Errors
    /// Each item may be a [`ReadError`]; the stream ends after it.
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_>;

    /// The number of events in `stream`; 0 if there are none.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError>;
}

/// Reads all events of a store in one total order.
#[async_trait]
pub trait ReadFeed: Send + Sync {
    /// The events after `after`, up to and with `through`, that `filter` asks for, in position order. They are filtered
    /// where they are kept.
    ///
    /// `through` is a [`head`](Self::head) that was told before, or a position at or before one: up to there the feed
    /// holds everything it will ever hold. Beyond it, an event may appear before one that was read.
    ///
    /// # Errors
    /// Each item may be a [`ReadError`]; the stream ends after it.
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_>;

    /// Every event after position `after`, up to where the head is when the first one is asked for.
    ///
    /// Never skips: an event that becomes visible later has a higher position than everything returned before.
    ///
    /// # Errors
    /// Each item may be a [`ReadError`]; the stream ends after it.
    fn read_all(&self, after: Position) -> RecordStream<'_> {
        let read = async move {
            let head = self.head().await?;
            Ok(self.read_feed(after, head, &FeedFilter::all()))
        };
        Box::pin(read.try_flatten_stream())
    }

    /// The position of the last event that is safe to read, [`Position::START`] if there is none. Nothing will appear at
    /// or before it any more, also after a crash of the store.
    ///
    /// It may be told lower than before, while a slow append is under way; what was told holds nevertheless.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn head(&self) -> Result<Position, ReadError>;

    /// How many events after `after`, up to and with `through`, `filter` asks for. It may take as long as reading them.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError>;

    /// When the first event after position `after` was recorded, `None` if there is none: what waits there has waited
    /// since then. Reads one event's time and no payloads, on Redis one event.
    ///
    /// For an event without a [recorded time](crate::Metadata::recorded_at) it is the time when it happened.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached, [`ReadError::Corrupt`] if the time cannot be read.
    async fn first_recorded_after(&self, after: Position) -> Result<Option<OffsetDateTime>, ReadError>;

    /// What tells this store from all others; made with it. One restored from a copy has the id of the original.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn store_id(&self) -> Result<Uuid, ReadError>;

    /// Signals every append made through this store in this process; others are found by polling [`head`](Self::head).
    fn appended(&self) -> &AppendSignal;
}

/// A place where events are kept: the durable truth.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event store",
    label = "not an event store",
    note = "stores are `InMemoryEventStore`, `SqliteEventStore`, `PgEventStore`, `RedisEventStore`, or an `Arc` of one; did you forget to `.await?` its constructor?"
)]
pub trait EventStore:
    AppendEvents + ReadStream + ReadFeed + Checkpoints + Leases + Floors + UnfinishedDeliveries + 'static
{
    /// The store's own transactions, if handlers and projections can take part in them.
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        None
    }

    /// What it is and where, without credentials, as the log shows it: its type, and the address of its server.
    fn describe(&self) -> String {
        type_name::<Self>()
    }

    /// A place for notes beside checkpoints; without it nobody notices what a projection was not fed with.
    fn notes(&self) -> Option<&dyn Notes> {
        None
    }

    /// The list of stored event types; without it an app does not notice that no code knows some of them.
    fn event_types(&self) -> Option<&dyn EventTypes> {
        None
    }
}

/// Why an append did not, or may not have, happened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Another writer appended first; load the aggregate and decide again. Nothing was stored.
    #[error("stream `{stream}` is at version {actual}, expected {expected}")]
    Conflict {
        /// The stream that was to be appended to.
        stream: StreamId,
        /// What the caller expected.
        expected: ExpectedVersion,
        /// Where the stream is.
        actual: Version,
    },
    /// An event id is used by another event already, or twice in one append. Nothing was stored.
    #[error("event id {event_id} is used by another event already (append to stream `{stream}`)")]
    EventIdTaken {
        /// The id.
        event_id: EventId,
        /// The stream that was to be appended to.
        stream: StreamId,
    },
    /// The store refuses these events, for example as [invalid](crate::InvalidEvent). Nothing was stored.
    #[error("event store refuses events for stream `{stream}`")]
    Refused {
        /// The stream that was to be appended to.
        stream: StreamId,
        /// What the store said.
        source: BoxError,
    },
    /// The store could not be reached; nothing was stored.
    #[error("event store unavailable")]
    Unavailable(#[source] BoxError),
    /// The app has no store: it only consumes. Nothing was stored.
    #[error("this app only consumes: its builder has a bus and no `.store(..)`")]
    NoStore,
    /// The connection broke after sending; the events may or may not be stored.
    #[error("append outcome unknown")]
    OutcomeUnknown(#[source] BoxError),
}

impl AppendError {
    /// Whether another writer was first.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether appending again *with the same event ids* can succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_))
    }
}

/// Why events could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The store could not be reached.
    #[error("event store unavailable")]
    Unavailable(#[source] BoxError),
    /// The app has no store: it only consumes.
    #[error("this app only consumes: its builder has a bus and no `.store(..)`")]
    NoStore,
    /// What the store holds is not an event: someone else wrote or damaged it.
    #[error("event store holds corrupt data at {place}")]
    Corrupt {
        /// Where: a stream and version, or a position.
        place: String,
        /// The position of the event, where it is known.
        position: Option<Position>,
        /// What is wrong with it.
        source: BoxError,
    },
}

impl ReadError {
    /// Returns a [`Corrupt`](Self::Corrupt) without a position: of data that is no event, or of an event whose position is not
    /// known.
    ///
    /// # Examples
    /// ```
    /// use eventbus::port::ReadError;
    /// let error = ReadError::corrupt("the store's id", "it has 3 bytes");
    /// assert_eq!(error.to_string(), "event store holds corrupt data at the store's id");
    /// ```
    #[must_use]
    pub fn corrupt(place: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Corrupt { place: place.into(), position: None, source: source.into() }
    }
}

__delegate!(<S> Arc<S>, self => (**self); AppendEvents);
__delegate!(<S> Arc<S>, self => (**self); ReadStream);
__delegate!(<S> Arc<S>, self => (**self); ReadFeed);
__delegate!(<S> Arc<S>, self => (**self); EventStore);
