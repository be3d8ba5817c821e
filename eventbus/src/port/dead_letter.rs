//! Deliveries that used up their attempts, and what can be done with them.
//!
//! Keep: whoever wrote a dead letter, it is listed, shown and can be replayed. What its writer left out is `None`.

use async_trait::async_trait;
use serde::Serialize;
use time::OffsetDateTime;

use super::MessageId;
use crate::domain::{error::BoxError, name::Name, record::RecordedEvent, shown};

/// A delivery that a group gave up.
///
/// As JSON it holds the whole event, the fields that were delivered and the words of the handler: show it to operators, and
/// in no health route.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The id among the dead letters: what [`replay`](DeadLetters::replay) and [`discard`](DeadLetters::discard) take.
    pub id: MessageId,
    /// The id that the entry had in the stream.
    pub original_message_id: Option<MessageId>,
    /// The event; `None` if it cannot be decoded.
    pub record: Option<RecordedEvent>,
    /// What was delivered, field by field, where the bus has fields. Bytes that are no UTF-8 are replaced here only.
    pub fields: Vec<(String, String)>,
    /// The type of the event, also where it cannot be decoded.
    pub event_type: Option<String>,
    /// The aggregate of the event, also where it cannot be decoded.
    pub aggregate_id: Option<String>,
    /// Why it failed the last time.
    pub error: Option<String>,
    /// The handler that failed; several are separated by commas.
    pub handler: Option<String>,
    /// The group that gave it up.
    pub group: Option<String>,
    /// How often the handler was run; of several the one that was run most often.
    pub attempts: Option<u32>,
    /// How often it was tried again.
    pub retry_count: Option<u32>,
    /// When it failed first.
    #[serde(serialize_with = "shown::time")]
    pub first_failed_at: Option<OffsetDateTime>,
    /// When it failed last.
    #[serde(serialize_with = "shown::time")]
    pub last_failed_at: Option<OffsetDateTime>,
    /// When it was given up.
    #[serde(serialize_with = "shown::time")]
    pub dead_lettered_at: Option<OffsetDateTime>,
    /// The handlers of the group that had succeeded; a replay does not run them again.
    pub done_handlers: Vec<String>,
}

impl DeadLetter {
    /// A dead letter of which nothing is known but its id, for buses to fill in.
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

    /// How many bytes of memory it takes, about: its event, its fields, and its error. By them pages of buses end.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let record = self
            .record
            .as_ref()
            .map_or(0, |record| record.payload().len() + record.metadata().attributes().as_json().len());
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        record + fields + self.error.as_ref().map_or(0, String::len)
    }

    /// Whether a handler is among those that failed.
    fn names_handler(&self, name: &str) -> bool {
        self.handler.as_deref().is_some_and(|failed| failed == name || failed.split(',').any(|one| one == name))
    }
}

/// Which dead letters are meant: those that match every field that is set. The default means all.
///
/// A dead letter that does not say what is asked for does not match.
///
/// # Examples
/// ```
/// use eventbus::port::{DeadLetter, DeadLetterFilter, MessageId};
/// let filter = DeadLetterFilter { group: Some("billing".into()), ..Default::default() };
/// let mut letter = DeadLetter::new(MessageId::new("1-0"));
/// assert!(!filter.matches(&letter));
/// letter.group = Some("billing".into());
/// assert!(filter.matches(&letter));
///
/// let filter = DeadLetterFilter { handler: Some("charge".into()), ..filter };
/// letter.handler = Some("charge,remind".into()); // both failed
/// assert!(filter.matches(&letter));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Of this consumer group.
    pub group: Option<String>,
    /// Of this handler, also where others failed besides.
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
    /// Whether a dead letter is meant.
    #[must_use]
    pub fn matches(&self, dead_letter: &DeadLetter) -> bool {
        let is = |asked: &Option<String>, said: &Option<String>| asked.is_none() || asked == said;
        let at = dead_letter.dead_lettered_at;
        is(&self.group, &dead_letter.group)
            && self.handler.as_deref().is_none_or(|asked| dead_letter.names_handler(asked))
            && is(&self.event_type, &dead_letter.event_type)
            && is(&self.aggregate_id, &dead_letter.aggregate_id)
            && self.from.is_none_or(|from| at.is_some_and(|at| at >= from))
            && self.before.is_none_or(|before| at.is_some_and(|at| at < before))
    }
}

/// Some dead letters, oldest first, and where to read on.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct DeadLetterPage {
    /// The dead letters.
    pub letters: Vec<DeadLetter>,
    /// What to pass as `after` for the next page; `None` if the end is reached.
    pub next: Option<MessageId>,
}

impl DeadLetterPage {
    /// Puts a page together.
    #[must_use]
    pub const fn new(dead_letters: Vec<DeadLetter>, next: Option<MessageId>) -> Self {
        Self { letters: dead_letters, next }
    }
}

/// Shows what groups gave up, delivers it again, or throws it away.
///
/// The provided bodies are those of a bus that keeps no dead letters.
///
/// # Examples
/// ```
/// use eventbus::port::{DeadLetterError, DeadLetterFilter, DeadLetters};
///
/// /// Delivers again what one handler gave up.
/// async fn after_the_fix(bus: &dyn DeadLetters) -> Result<u64, DeadLetterError> {
///     let filter = DeadLetterFilter { handler: Some("send_receipt".into()), ..Default::default() };
///     for letter in bus.dead_letters(&filter, None, 20).await?.letters {
///         println!("{} failed: {}", letter.id, letter.error.unwrap_or_default());
///     }
///     bus.replay_all(&filter).await
/// }
/// ```
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Up to `limit` dead letters, at least one if there is one, oldest first. A page ends before with the one that
    /// reaches [`PAGE_BYTES`](super::PAGE_BYTES). `after` is the former page's [`next`](DeadLetterPage::next), or `None` to
    /// begin.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    #[doc(alias = "get_dlq_messages")]
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let _ = (filter, after, limit);
        Ok(DeadLetterPage::default())
    }

    /// One dead letter; `None` if it is not there any more.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    async fn dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let _ = id;
        Ok(None)
    }

    /// Delivers a dead letter again to the group that gave it up, without the handlers that had succeeded, and removes
    /// it from the dead letters, both or neither. Where the group is not known, every group gets it. Its order among the
    /// events of its aggregate is lost. `false`: it is not there any more.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    #[doc(alias = "replay_dlq_message")]
    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let _ = id;
        Ok(false)
    }

    /// Replays the dead letters that are there now; one that dies again is not replayed again. Returns how many.
    ///
    /// # Errors
    /// [`DeadLetterError`]; what was replayed until then stays so, and calling again goes on with the rest.
    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let _ = filter;
        Ok(0)
    }

    /// Throws a dead letter away. `false`: it is not there any more.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let _ = id;
        Ok(false)
    }

    /// Throws away the dead letters that are there now. Returns how many.
    ///
    /// # Errors
    /// [`DeadLetterError`]; what was thrown away until then stays so.
    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let _ = filter;
        Ok(0)
    }
}

/// Why nothing can be said about dead letters, or done with them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// The id is none that this bus gives.
    #[error("`{id}` is no id of a dead letter of `{destination}`")]
    InvalidId {
        /// The bus.
        destination: Name,
        /// The id.
        id: MessageId,
    },
    /// Nothing of an event is left in it, so there is nothing to deliver; it can only be discarded.
    #[error("dead letter `{id}` of `{destination}` holds nothing to replay")]
    Empty {
        /// The bus.
        destination: Name,
        /// The dead letter.
        id: MessageId,
    },
    /// The bus was shut down.
    #[error("event bus `{destination}` is shut down")]
    ShutDown {
        /// The bus.
        destination: Name,
    },
    /// The bus could not be reached; nothing was done.
    #[error("event bus `{destination}` unavailable")]
    Unavailable {
        /// The bus.
        destination: Name,
        /// What the transport said.
        source: BoxError,
    },
    /// The connection broke after sending; it may be done or not. Look again.
    #[error("outcome of working on the dead letters of `{destination}` unknown")]
    OutcomeUnknown {
        /// The bus.
        destination: Name,
        /// What the transport said.
        source: BoxError,
    },
    /// The bus answers and refuses; nothing was done.
    #[error("event bus `{destination}` refuses to work on its dead letters")]
    Refused {
        /// The bus.
        destination: Name,
        /// What it said.
        source: BoxError,
    },
}

impl DeadLetterError {
    /// Whether trying again can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::OutcomeUnknown { .. })
    }
}

__delegate!(<B> Arc<B>, self => (**self); DeadLetters);
