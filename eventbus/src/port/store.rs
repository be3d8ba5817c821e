//! The contract of an event store.
//!
//! Guarantees: an append is all or nothing; versions of a stream are contiguous from 1; positions grow in version
//! order within a stream; the feed neither skips nor repeats nor reorders events, also while writers append; the
//! [recorded time](crate::Metadata::recorded_at) never decreases along a stream, also if the clock is set back. Not
//! guaranteed: that positions are contiguous, that events of two streams are ordered as their appends returned, or that
//! recorded times increase along the feed, where they follow the clocks of the server or the appending processes.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use auto_impl::auto_impl;
use futures_util::{StreamExt as _, TryFutureExt as _};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Append, AppendError, AppendSignal, Checkpoints, EventTypes, FeedFilter, HandlerProgress, Leases, MissingEvent,
    MultiStreamAppends, Notes, ReadError, RecordStream, ServerFault, Snapshots, Transactions,
    append_batches::AppendBatches,
    feed_end::FeedEnd,
    feed_page::{FeedPage, PageLimits},
    listings::Listings,
    visited_event::{VisitEvent, VisitFeedEvent, visit_feed_records, visit_records},
};
use crate::domain::{
    record::{NewEvent, RecordedEvent},
    shown::type_name,
    stream::{ExpectedVersion, Position, StreamId, Version},
};

/// Appends events to streams, all or nothing each.
///
/// Implementations are shared between tasks and must pass the event-store suite of `eventbus::testkit`.
#[async_trait]
#[auto_impl(Arc)]
pub trait AppendEvents: Send + Sync {
    /// Appends `events` to `stream` if its version matches `expected`, and returns them as recorded.
    ///
    /// Appending event ids that are already in the stream returns their existing records and writes no event, so an
    /// unknown outcome is resolved by appending again. An append of no events has no effect.
    ///
    /// All events of a call get the same recorded time: the time of the store's clock, or the [recorded
    /// time](crate::Metadata::recorded_at) of the stream's previous event if that is later.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] if the stream is at another version; see [`AppendError::is_retryable`] for the rest.
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError>;

    /// Appends to many streams at once and returns a result for each, in order; a failed append does not affect the
    /// rest.
    ///
    /// Appends to the same stream are made in the order given. There is no promise that they become visible together.
    /// The provided body makes one append after the other; a store on a server sends them in one round trip.
    ///
    /// # Errors
    /// Each result carries the error of its own [`append`](Self::append).
    ///
    /// # Examples
    /// ```
    /// use eventbus::{ExpectedVersion, InMemoryEventStore, NewEvent, StreamId, prelude::*, store::{Append, AppendEvents}};
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
    ///     assert_eq!(result?.len(), 1); // a conflict in one append does not keep the store from making the rest
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

/// The direction of reading a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From older to newer.
    Forward,
    /// From newer to older.
    Backward,
}

/// Reads the events of one stream.
#[async_trait]
#[auto_impl(Arc)]
pub trait ReadStream: Send + Sync {
    /// Reads the events of `stream` from version `from`, inclusive, in the given direction.
    ///
    /// `Version::FIRST` forward reads the whole stream; `Version::MAX` backward reads it from the end. A stream without
    /// events is empty, not an error. Pages are read as the caller consumes them: it may see events appended meanwhile.
    ///
    /// # Errors
    /// Each item may be a [`ReadError`]; the stream ends after it.
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_>;

    /// Calls `visit` with each event of `stream` from version `from` on, inclusive, older events first, until it breaks off.
    ///
    /// For folds: a store can read less than a whole record, and pass on the fields as it received them. Pages are as
    /// for [`read_stream`](Self::read_stream), whose records the provided body visits.
    ///
    /// # Errors
    /// [`ReadError`], after the events before the place where reading failed were visited.
    async fn visit_stream(
        &self,
        stream: &StreamId,
        from: Version,
        visit: &mut VisitEvent<'_>,
    ) -> Result<(), ReadError> {
        visit_records(self.read_stream(stream, from, Direction::Forward), visit).await
    }

    /// Returns the version of `stream`, which is the number of its events; 0 if there are none.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError>;
}

/// Reads all events of a store in one total order.
#[async_trait]
#[auto_impl(Arc)]
pub trait ReadFeed: Send + Sync {
    /// Reads the events after `after`, up to and including `through`, that match `filter`, in position order. The store
    /// applies the filter where it keeps the events.
    ///
    /// `through` must be a position that [`head`](Self::head) returned before, or a lower one: up to there the feed is
    /// complete. Beyond it, an event may still appear at a lower position than one that was read.
    ///
    /// If other software removed an event, a read without a filter fails at the next event of the same stream, if that
    /// event is the first one of the read, or if the read remembers the stream. On PostgreSQL and SQLite it remembers
    /// up to 16,384 streams, then forgets them. A reader that stopped there and reads again after its last event fails
    /// again. A filtered read cannot detect the missing event, and returns the other events that match; but on Redis,
    /// whose feed is a list of its events, it fails where a missing event matches.
    /// [`find_missing_event`](Self::find_missing_event) searches for such an event.
    ///
    /// # Errors
    /// Each item may be a [`ReadError`]; the stream ends after it. [`ReadError::Corrupt`] at a missing event names its
    /// stream and version.
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_>;

    /// Calls `visit` with each event that [`read_feed`](Self::read_feed) returns, until it breaks off.
    ///
    /// For folds: a store can read less than a whole record, and pass on the fields as it received them. The provided
    /// body visits the records that `read_feed` returns.
    ///
    /// # Errors
    /// [`ReadError`], after the events before the place where reading failed were visited.
    async fn visit_feed(
        &self,
        after: Position,
        through: Position,
        filter: &FeedFilter,
        visit: &mut VisitFeedEvent<'_>,
    ) -> Result<(), ReadError> {
        visit_feed_records(self.read_feed(after, through, filter), visit).await
    }

    /// Reads the events at `positions`, in any order: item `i` is the event at `positions[i]`, `None` if there is none.
    ///
    /// A store may return fewer items than there are positions, at least one; the caller asks again for the rest. The
    /// provided body reads the first one alone.
    ///
    /// # Errors
    /// An item is [`ReadError::Corrupt`] if that event cannot be read, or if the event before it in its stream is
    /// missing. An item that is [`ReadError::Unavailable`] is the last one: the rest cannot be read either.
    async fn read_events_at(&self, positions: &[Position]) -> Vec<Result<Option<RecordedEvent>, ReadError>> {
        let Some(position) = positions.first() else {
            return Vec::new();
        };
        let before = Position::new(position.get().saturating_sub(1));
        vec![self.read_feed(before, *position, &FeedFilter::all()).next().await.transpose()]
    }

    /// Reads every event after position `after`, up to the head at the time of the first poll.
    ///
    /// Never skips: an event that becomes visible later has a higher position than every event returned before.
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

    /// Returns the position of the last event that is safe to read, [`Position::START`] if there is none. No event will
    /// appear at or before it any more, not even after a crash of the store.
    ///
    /// A later call may return a lower position while a slow append is under way; the higher one stays valid.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn head(&self) -> Result<Position, ReadError>;

    /// Returns the [head](Self::head), and whether it may rise without a further append. The provided body answers that
    /// it may, which keeps readers polling often.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn feed_end(&self) -> Result<FeedEnd, ReadError> {
        Ok(FeedEnd { head: self.head().await?, has_open_appends: true })
    }

    /// Reads the end of the feed, and then the events after `after`, up to the head, that match `filter`: at most as many as
    /// `limits` allow. A store on a server answers in one round trip where it can; the provided body makes two requests.
    ///
    /// Invariant: the events are read after the head, in a newer snapshot. In one snapshot with the head, the page may miss
    /// an append that commits between the two.
    ///
    /// # Errors
    /// As [`feed_end`](Self::feed_end), and as [`read_feed`](Self::read_feed) at the first event of the page. A later event
    /// that cannot be read ends the page before it.
    async fn read_page(&self, after: Position, filter: &FeedFilter, limits: PageLimits) -> Result<FeedPage, ReadError> {
        let end = self.feed_end().await?;
        FeedPage::take(self.read_feed(after, end.head, filter), end, after, limits).await
    }

    /// Returns for how long the oldest open append has kept readers from events after the [head](Self::head); `None` if
    /// none does. The provided body is for stores whose appends never do.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn held_for(&self) -> Result<Option<Duration>, ReadError> {
        Ok(None)
    }

    /// Counts the events after `after`, up to and including `through`, that match `filter`. It may take as long as
    /// reading them.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError>;

    /// Returns when the first event after position `after` was recorded, `None` if there is none: since then a reader
    /// at `after` has had a backlog. Reads one event's time and no payloads, on Redis one event.
    ///
    /// For an event without a [recorded time](crate::Metadata::recorded_at), returns the time when it occurred.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached, [`ReadError::Corrupt`] if the time cannot be read.
    async fn first_recorded_after(&self, after: Position) -> Result<Option<OffsetDateTime>, ReadError>;

    /// Finds a missing event of any stream, or of `stream` alone: an event that was stored, and that other software
    /// removed. Returns `None` if no event is missing.
    ///
    /// The versions of each stream must be contiguous from 1 up to the version that the store keeps for the stream, so
    /// that a missing last event is found too. Reads no payloads on PostgreSQL and SQLite, in many short statements;
    /// events appended meanwhile may be left out of the search.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached; [`ReadError::Corrupt`] if damaged data keeps it
    /// from searching.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// use eventbus::{InMemoryEventStore, store::ReadFeed};
    /// let store = InMemoryEventStore::new();
    /// if let Some(missing) = store.find_missing_event(None).await? {
    ///     eprintln!("{missing} was removed: restore it from a copy of the store");
    /// }
    /// # Ok(()) }
    /// ```
    async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError>;

    /// Returns the unique id of this store, created with it. A store restored from a copy has the id of the original.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    async fn store_id(&self) -> Result<Uuid, ReadError>;

    /// Returns the signal of appends through this store in this process, and of those by other processes while it
    /// [hears](AppendSignal::set_hears_all) them. Readers find other appends by polling [`feed_end`](Self::feed_end).
    fn appended(&self) -> &AppendSignal;
}

/// A store of events and of the progress of their readers: the durable truth.
#[auto_impl(Arc)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event store",
    label = "not an event store",
    note = "stores are `InMemoryEventStore`, `SqliteEventStore`, `PgEventStore`, `RedisEventStore`, or an `Arc` of one; did you forget to `.await?` its constructor?"
)]
pub trait EventStore: AppendEvents + ReadStream + ReadFeed + Checkpoints + Leases + 'static {
    /// Returns the store's own transactions, if handlers and projections can take part in them.
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        None
    }

    /// Returns the fault of the server that `error`, or one of its [sources](crate::support::source_chain), reports, as
    /// [`Transactions::server_fault`] does, whose answer the provided body returns: for stores without transactions.
    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault> {
        self.transactions()?.server_fault(error)
    }

    /// Describes the store for the log, without credentials: its type, and the address of its server.
    fn describe(&self) -> String {
        type_name::<Self>()
    }

    /// Returns the progress of handlers. An app refuses handlers on a store without it.
    fn handler_progress(&self) -> Option<&dyn HandlerProgress> {
        None
    }

    /// Returns the notes beside the checkpoints. On a store without notes, a projection does not detect that an earlier
    /// owner passed over events because it did not know their types.
    fn notes(&self) -> Option<&dyn Notes> {
        None
    }

    /// Returns the list of stored event types. An app on a store without it does not warn of types that no code knows.
    fn event_types(&self) -> Option<&dyn EventTypes> {
        None
    }

    /// Returns the listings of what the store holds. On a store without them, tools show only the items whose names
    /// they are given.
    fn listings(&self) -> Option<&dyn Listings> {
        None
    }

    /// Returns the snapshots. On a store without them a load reads all events of its stream.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Returns the multi-stream appends. A store without them refuses [`App::together`](crate::App::together), and an
    /// app on it refuses handlers that take a [`Repository`](crate::Repository).
    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        None
    }

    /// Returns the boundaries. A store without them refuses to save events with tags, and
    /// [`App::decision`](crate::App::decision).
    fn boundaries(&self) -> Option<&dyn super::boundaries::Boundaries> {
        None
    }

    /// Returns the sizes of its commit batches. A store without them joins no appends, or does not count them.
    fn append_batches(&self) -> Option<&AppendBatches> {
        None
    }

    /// Returns the unique values. A store without them refuses to save events that take one.
    fn unique_values(&self) -> Option<&dyn super::unique_values::UniqueValues> {
        None
    }
}
