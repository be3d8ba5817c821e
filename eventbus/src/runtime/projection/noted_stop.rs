//! The noted stop of a projection: at which event it stopped and why, for other processes and for tools. The process that
//! stops saves it in the note of the projection.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::context::RunnerContext;
use crate::{
    domain::{metadata::EventId, name::Name, record::RecordedEvent, shown, stream::Position},
    port::{CheckpointError, EventStore, delivery::HandlerError},
    support::from_json,
};

/// Most characters of an error in a note.
const ERROR_CHARS_MAX: usize = 500;

/// The stop of a projection before an event that it cannot handle, as the store keeps it.
///
/// It stands while the checkpoint of the projection is before the position, and the projection does not skip the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NotedStop {
    /// The position of the event.
    pub position: Position,
    /// The type of the event.
    pub event_type: String,
    /// The id of the event.
    pub event_id: EventId,
    /// The error of the projection's method, in one line of at most 500 characters.
    pub error: String,
    /// The process that stopped there last: host, process id, and random digits that tell starts apart.
    pub owner: String,
    /// Time of the stop, which later retries do not change.
    #[serde(serialize_with = "shown::moment", deserialize_with = "parse_time")]
    pub since: OffsetDateTime,
}

/// What the note of a projection says of a stop.
#[derive(Deserialize)]
struct NoteWithStop {
    stopped: Option<NotedStop>,
}

impl NotedStop {
    /// Loads the noted stop of a projection, by the name of its checkpoint: `projection:{name}`. Returns `None` if there
    /// is none, the projection has passed the event, or the store keeps no notes.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached, or the note cannot be read.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// use eventbus::{InMemoryEventStore, Name, projection::NotedStop};
    /// let reader = Name::new("reader", "projection:balances")?;
    /// assert_eq!(NotedStop::load(&InMemoryEventStore::new(), &reader).await?, None);
    /// # Ok(()) }
    /// ```
    pub async fn load(store: &dyn EventStore, reader: &Name) -> Result<Option<Self>, CheckpointError> {
        let Some(notes) = store.notes() else { return Ok(None) };
        let Some(text) = notes.load_note(reader).await? else { return Ok(None) };
        let note: NoteWithStop = from_json(&text).map_err(|error| CheckpointError::new(reader, error))?;
        let checkpoint = store.load_checkpoint(reader).await?.unwrap_or_default();
        Ok(note.stopped.filter(|stop| stop.position > checkpoint))
    }

    /// Makes the stop of a projection in this process. A stop at the same event as the former one keeps its time.
    pub(super) fn new(
        context: &RunnerContext,
        record: &RecordedEvent,
        error: &HandlerError,
        former: Option<&Self>,
    ) -> Self {
        let position = record.position().unwrap_or_default();
        let former = former.filter(|former| former.position == position);
        Self {
            position,
            event_type: record.event_type().to_string(),
            event_id: record.metadata().event_id(),
            error: one_line(&error.to_string()),
            owner: context.owner.to_string(),
            since: former.map_or_else(|| context.clock.now(), |former| former.since),
        }
    }
}

fn one_line(text: &str) -> String {
    let parts: Vec<_> = text.split_whitespace().collect();
    parts.join(" ").chars().take(ERROR_CHARS_MAX).collect()
}

fn parse_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    OffsetDateTime::parse(&text, &Rfc3339).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_noted_in_one_line_of_bounded_length() {
        assert_eq!(one_line("no such\n  customer\n"), "no such customer");
        assert_eq!(one_line(&"ü".repeat(ERROR_CHARS_MAX + 1)), "ü".repeat(ERROR_CHARS_MAX));
    }
}
