//! Dead letters: deliveries that used up their attempts, and the calls that list, replay and discard them.
//!
//! Invariant: a dead letter can be listed, shown and replayed whichever program wrote it. Fields that the writer left
//! out are `None`.

use async_trait::async_trait;
use auto_impl::auto_impl;
use serde::Serialize;
use time::OffsetDateTime;

use super::MessageId;
use crate::domain::{error::BoxError, name::Name, record::RecordedEvent, shown};

/// A delivery that a group gave up.
///
/// As JSON it holds the whole event, the delivered fields and the error text of the handler: show it to operators only,
/// and in no health route.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The id among the dead letters, for [`replay`](DeadLetters::replay) and [`discard`](DeadLetters::discard).
    pub id: MessageId,
    /// The id of the entry in the stream.
    pub original_message_id: Option<MessageId>,
    /// The event; `None` if it cannot be decoded.
    pub record: Option<RecordedEvent>,
    /// The delivered fields, where the bus has fields. Bytes that are not UTF-8 are replaced in this copy only.
    pub fields: Vec<(String, String)>,
    /// The type of the event, also where it cannot be decoded.
    pub event_type: Option<String>,
    /// The aggregate of the event, also where it cannot be decoded.
    pub aggregate_id: Option<String>,
    /// The error of the last failure.
    pub error: Option<String>,
    /// The handler that failed; several are separated by commas.
    pub handler: Option<String>,
    /// The group that gave it up.
    pub group: Option<String>,
    /// The number of runs of the handler; the highest one if there are several handlers.
    pub attempts: Option<u32>,
    /// The number of retries.
    pub retry_count: Option<u32>,
    /// The time of the first failure.
    #[serde(serialize_with = "shown::time")]
    pub first_failed_at: Option<OffsetDateTime>,
    /// The time of the last failure.
    #[serde(serialize_with = "shown::time")]
    pub last_failed_at: Option<OffsetDateTime>,
    /// The time when the group gave it up.
    #[serde(serialize_with = "shown::time")]
    pub dead_lettered_at: Option<OffsetDateTime>,
    /// The handlers of the group that had succeeded; a replay does not run them again.
    pub done_handlers: Vec<String>,
}

impl DeadLetter {
    /// Returns a dead letter with only its id, for buses to fill in.
    #[must_use]
    pub const fn new(id: MessageId) -> Self {
        Self {
            id,
            original_message_id: None,
            record: None,
            fields: Vec::new(),
            event_type: None,
            aggregate_id: None,
            error: None,
            handler: None,
            group: None,
            attempts: None,
            retry_count: None,
            first_failed_at: None,
            last_failed_at: None,
            dead_lettered_at: None,
            done_handlers: Vec::new(),
        }
    }

    /// Returns the approximate size in memory, in bytes: its event, its fields and its error. Buses limit pages by it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let record = self
            .record
            .as_ref()
            .map_or(0, |record| record.payload().len() + record.metadata().attributes().as_json().len());
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        record + fields + self.error.as_ref().map_or(0, String::len)
    }

    /// Returns `true` if the handler `name` is among those that failed.
    fn names_handler(&self, name: &str) -> bool {
        self.handler.as_deref().is_some_and(|failed| failed == name || failed.split(',').any(|one| one == name))
    }
}

/// A filter for dead letters: a dead letter must match every field that is set. The default matches all.
///
/// A dead letter that lacks a field which the filter sets does not match.
///
/// # Examples
/// ```
/// use eventbus::{bus::MessageId, dead_letter::{DeadLetter, DeadLetterFilter}};
/// let filter = DeadLetterFilter { group: Some("billing".into()), ..Default::default() };
/// let mut dead_letter = DeadLetter::new(MessageId::new("1-0"));
/// assert!(!filter.matches(&dead_letter));
/// dead_letter.group = Some("billing".into());
/// assert!(filter.matches(&dead_letter));
///
/// let filter = DeadLetterFilter { handler: Some("charge".into()), ..filter };
/// dead_letter.handler = Some("charge,remind".into()); // both failed
/// assert!(filter.matches(&dead_letter));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Of this consumer group.
    pub group: Option<String>,
    /// Of this handler, also where further handlers failed.
    pub handler: Option<String>,
    /// Of this event type.
    pub event_type: Option<String>,
    /// Of this aggregate.
    pub aggregate_id: Option<String>,
    /// Given up at this time or later.
    pub from: Option<OffsetDateTime>,
    /// Given up before this time.
    pub before: Option<OffsetDateTime>,
}

impl DeadLetterFilter {
    /// Returns `true` if a dead letter matches.
    #[must_use]
    pub fn matches(&self, dead_letter: &DeadLetter) -> bool {
        let is = |wanted: &Option<String>, actual: &Option<String>| wanted.is_none() || wanted == actual;
        let at = dead_letter.dead_lettered_at;
        is(&self.group, &dead_letter.group)
            && self.handler.as_deref().is_none_or(|wanted| dead_letter.names_handler(wanted))
            && is(&self.event_type, &dead_letter.event_type)
            && is(&self.aggregate_id, &dead_letter.aggregate_id)
            && self.from.is_none_or(|from| at.is_some_and(|at| at >= from))
            && self.before.is_none_or(|before| at.is_some_and(|at| at < before))
    }
}

/// A page of dead letters, oldest first.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct DeadLetterPage {
    /// The dead letters.
    pub letters: Vec<DeadLetter>,
    /// The id to pass as `after` for the next page; `None` on the last page.
    pub next: Option<MessageId>,
}

impl DeadLetterPage {
    /// Creates a page.
    #[must_use]
    pub const fn new(dead_letters: Vec<DeadLetter>, next: Option<MessageId>) -> Self {
        Self { letters: dead_letters, next }
    }
}

/// Lists, replays and discards the dead letters of a bus, which offers it as
/// [`EventBus::dead_letters`](super::EventBus::dead_letters).
///
/// # Examples
/// ```
/// use eventbus::dead_letter::{DeadLetterError, DeadLetterFilter, DeadLetters};
///
/// /// Prints and replays the dead letters of one handler.
/// async fn after_the_fix(dead_letters: &dyn DeadLetters) -> Result<u64, DeadLetterError> {
///     let filter = DeadLetterFilter { handler: Some("send_receipt".into()), ..Default::default() };
///     for dead_letter in dead_letters.list_dead_letters(&filter, None, 20).await?.letters {
///         println!("{} failed: {}", dead_letter.id, dead_letter.error.unwrap_or_default());
///     }
///     dead_letters.replay_all(&filter).await
/// }
/// ```
#[async_trait]
#[auto_impl(Arc)]
pub trait DeadLetters: Send + Sync {
    /// Returns up to `limit` dead letters, at least one if there is one, oldest first. A page ends early with the one
    /// that reaches [`PAGE_BYTES`](crate::support::PAGE_BYTES). `after` is the former page's
    /// [`next`](DeadLetterPage::next), or `None` to begin.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    #[doc(alias = "get_dlq_messages")]
    async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError>;

    /// Returns one dead letter; `None` if it is gone.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    async fn find_dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError>;

    /// Delivers a dead letter again to the group that gave it up, but not to handlers that had succeeded, and removes
    /// it from the dead letters, both or neither. If the dead letter names no group, every group gets it. It is no
    /// longer in order among the events of its aggregate. Returns `false` if the dead letter is gone.
    ///
    /// # Errors
    /// [`DeadLetterError`]; [`DeadLetterError::NoGroup`] if its group does not exist on the bus.
    #[doc(alias = "replay_dlq_message")]
    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError>;

    /// Replays the matching dead letters that exist at the time of the call, each once, even if it becomes a dead
    /// letter again. Returns the number of replayed ones; those without an event, or whose group does not exist, stay
    /// and do not count.
    /// # Errors
    /// [`DeadLetterError`]; those replayed until then stay replayed, and a second call goes on with the rest.
    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError>;

    /// Deletes a dead letter. Returns `false` if it is gone.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError>;

    /// Deletes the matching dead letters that exist at the time of the call. Returns their number.
    ///
    /// # Errors
    /// [`DeadLetterError`]; those deleted until then stay deleted.
    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError>;
}

/// The error of listing, replaying or discarding dead letters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// The bus offers no dead letters.
    #[error("event bus `{destination}` offers no dead letters")]
    Unsupported {
        /// The bus.
        destination: Name,
    },
    /// The id is not one that this bus gives.
    #[error("`{id}` is no id of a dead letter of `{destination}`")]
    InvalidId {
        /// The bus.
        destination: Name,
        /// The id.
        id: MessageId,
    },
    /// The dead letter holds no event to deliver; it can only be discarded.
    #[error("dead letter `{id}` of `{destination}` holds no event to replay")]
    Empty {
        /// The bus.
        destination: Name,
        /// The dead letter.
        id: MessageId,
    },
    /// The consumer group of the dead letter does not exist, so no consumer would get it; it stays a dead letter. Of
    /// our buses only the one on Redis returns this: the others keep a replay until its group consumes. If the group
    /// was renamed, discard the dead letter.
    #[error(
        "dead letter `{id}` of `{destination}` is of consumer group `{group}`, which does not exist: start its consumers \
         first, or discard it"
    )]
    NoGroup {
        /// The bus.
        destination: Name,
        /// The dead letter.
        id: MessageId,
        /// The group.
        group: String,
    },
    /// The bus was shut down.
    #[error("event bus `{destination}` is shut down")]
    ShutDown {
        /// The bus.
        destination: Name,
    },
    /// The bus could not be reached; it changed no dead letter.
    #[error("event bus `{destination}` unavailable")]
    Unavailable {
        /// The bus.
        destination: Name,
        /// The error of the transport.
        source: BoxError,
    },
    /// The connection broke after sending; the call may have taken effect or not. List the dead letters again.
    #[error("outcome of working on the dead letters of `{destination}` unknown")]
    OutcomeUnknown {
        /// The bus.
        destination: Name,
        /// The error of the transport.
        source: BoxError,
    },
    /// The bus answers and refuses; it changed no dead letter.
    #[error("event bus `{destination}` refuses to work on its dead letters")]
    Refused {
        /// The bus.
        destination: Name,
        /// The error of the bus.
        source: BoxError,
    },
}

impl DeadLetterError {
    /// Returns `true` if trying again can succeed while the bus and its configuration stay as they are.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::OutcomeUnknown { .. })
    }
}
