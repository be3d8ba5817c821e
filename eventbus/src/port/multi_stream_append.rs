//! Multi-stream appends: events of several streams, and what they depend on, take effect together or not at all.
//!
//! Invariant: a reader of the store sees all of it or nothing, also after a crash.

use std::time::Duration;

use async_trait::async_trait;
use auto_impl::auto_impl;
use uuid::Uuid;

use super::{AppendError, ReadError, boundaries::BoundaryCondition};
use crate::domain::{
    error::BoxError,
    idempotency_key::IdempotencyKey,
    metadata::{EventId, Metadata},
    name::Name,
    record::{NewEvent, RecordedEvent},
    stream::{ExpectedVersion, StreamId},
};

/// One append among several, see [`AppendEvents::append_many`](super::AppendEvents::append_many).
#[derive(Debug, Clone)]
pub struct Append {
    /// The stream to append to.
    pub stream: StreamId,
    /// The version that the stream must have.
    pub expected: ExpectedVersion,
    /// The events to append, in order.
    pub events: Vec<NewEvent>,
}

impl Append {
    /// Returns `true` if one of its events takes a unique value, gives one back, or has a tag.
    pub fn changes_indexes(&self) -> bool {
        self.events.iter().any(|event| !event.unique().is_empty() || !event.tags().is_empty())
    }
}

/// The most streams of a multi-stream append, including those without events.
pub const MULTI_STREAM_APPENDS_MAX: usize = 1_000;

/// Appends that take effect together, with the delivery or command that they handle and the condition that they need.
#[derive(Debug, Clone, Default)]
pub struct MultiStreamAppend {
    /// The appends, each to a stream of its own. One without events only checks that its stream is at the expected
    /// version.
    pub appends: Vec<Append>,
    /// The delivery or command that the appends handle. The store notes it in the same commit; if it was noted before,
    /// the append has no effect.
    pub handled: Option<Handled>,
    /// The condition that no event was added to the boundary that the appends depend on.
    pub condition: Option<BoundaryCondition>,
}

/// The delivery or command that a multi-stream append handles, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// An event that was delivered to a handler.
    Delivery(HandledDelivery),
    /// A command of a client.
    Command(HandledCommand),
}

impl MultiStreamAppend {
    /// Creates a multi-stream append of one append, without a delivery or a command.
    pub fn single(append: Append) -> Self {
        Self { appends: vec![append], ..Self::default() }
    }
}

/// A handler and the event that it handled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandledDelivery {
    /// The key of the handler: its group and its name.
    pub handler: Name,
    /// The stream of the event.
    pub stream: StreamId,
    /// The id of the event, which is unique within its stream.
    pub event_id: EventId,
}

impl HandledDelivery {
    /// Names the delivery of an event to a handler.
    pub fn new(handler: Name, event: &Metadata) -> Self {
        Self { handler, stream: event.stream().clone(), event_id: event.event_id() }
    }
}

/// A command that took effect, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandledCommand {
    /// The tenant within which the key is unique.
    pub tenant_id: Option<Uuid>,
    /// The key that the client gave it.
    pub key: IdempotencyKey,
    /// A fingerprint of the command: a different command under the same key is a mistake of the client.
    pub request: Uuid,
    /// The answer, which the store does not interpret.
    pub answer: String,
}

/// The outcome of a multi-stream append.
#[derive(Debug, Clone, PartialEq)]
pub enum MultiStreamOutcome {
    /// It took effect, now or by an earlier call with the same event ids: the records of each append, in order.
    Appended(Vec<Vec<RecordedEvent>>),
    /// Its delivery, or its command, was handled before; it had no effect.
    AlreadyHandled,
}

impl MultiStreamOutcome {
    /// Returns the records of all appends, in order; none if the delivery or the command was handled before.
    pub fn into_records(self) -> Vec<RecordedEvent> {
        match self {
            Self::Appended(records) => records.into_iter().flatten().collect(),
            Self::AlreadyHandled => Vec::new(),
        }
    }
}

/// Appends to several streams at once.
///
/// | streams and note | effect of `append_streams` |
/// |---|---|
/// | all streams are as expected, delivery or command is not noted | all events stored, delivery or command noted |
/// | a stream is not as expected | none; the conflict names the first such stream |
/// | all event ids are stored in their streams already | none; returns the first result |
/// | some event ids are stored in their streams already | none; [`AppendError::EventIdTaken`] |
/// | an event was added to the boundary of the condition | none; [`AppendError::BoundaryMoved`] |
/// | the delivery is noted, or a command with this key and tenant | none; [`MultiStreamOutcome::AlreadyHandled`] |
/// | an event takes a unique value that a different stream holds | none; [`AppendError::Taken`] |
///
/// If several errors apply, a conflict comes first, then a moved boundary, then a taken value.
///
/// Implementations must pass the event-store suite of `eventbus::testkit`.
///
/// # Examples
/// ```
/// use eventbus::{ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId};
/// use eventbus::store::{Append, MultiStreamAppend, MultiStreamAppends, MultiStreamOutcome};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// let store = InMemoryEventStore::new();
/// let append = |account: &str, event: Name| -> eventbus::Result<Append> {
///     let events = vec![NewEvent::new(event, 1, r#"{"cents":120}"#)];
///     Ok(Append { stream: StreamId::parse("Account", account)?, expected: ExpectedVersion::Any, events })
/// };
/// let (from, to) = (append("ada", Name::from_static("Sent"))?, append("bob", Name::from_static("Received"))?);
/// let transfer = MultiStreamAppend { appends: vec![from, to], ..Default::default() };
/// let outcome = store.append_streams(transfer).await?;
/// assert!(matches!(outcome, MultiStreamOutcome::Appended(records) if records.len() == 2));
/// # Ok(()) }
/// ```
#[async_trait]
#[auto_impl(Arc)]
pub trait MultiStreamAppends: Send + Sync {
    /// Appends to all streams, or to none.
    ///
    /// Without events and without a delivery or a command it only checks the streams and the condition, and these may
    /// have changed when it returns.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] if a stream is not as expected; [`AppendError::Refused`] if two appends are to one
    /// stream, or if there are more than [`MULTI_STREAM_APPENDS_MAX`]; else as for
    /// [`append`](super::AppendEvents::append). After [`AppendError::OutcomeUnknown`] the caller can send the same
    /// again if it has events or a delivery.
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError>;

    /// Returns `true` if the store has a note of this delivery: a multi-stream append that handled it took effect, or a
    /// transaction that [noted](super::Transaction::is_first) it, and the note was not
    /// [forgotten](Self::forget_deliveries) since.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError>;

    /// Returns the noted deliveries of these events, to any handler, in no order: for operators. SQL stores look up
    /// each handler; other stores read all notes.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError>;

    /// Forgets deliveries that were handled longer than `older_than` ago, and returns their number.
    ///
    /// # Errors
    /// The store's error if it cannot delete them.
    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError>;

    /// Returns the command that took effect under a key, with its answer; `None` if there is none, or if it was
    /// [forgotten](Self::forget_commands).
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read, or if what it has noted is damaged.
    async fn find_command(
        &self,
        tenant_id: Option<Uuid>,
        key: &IdempotencyKey,
    ) -> Result<Option<HandledCommand>, ReadError>;

    /// Forgets commands that were handled longer than `older_than` ago, and returns their number.
    ///
    /// # Errors
    /// The store's error if it cannot delete them.
    async fn forget_commands(&self, older_than: Duration) -> Result<u64, BoxError>;
}
