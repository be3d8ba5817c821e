//! The noted stop of a projection: at which event it stopped and why, for other processes and for tools.
//!
//! The process that stops saves the note. The owner that passes the event, and a rebuild, delete it.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::context::RunnerContext;
use crate::{
    domain::{error::BoxError, metadata::EventId, name::Name, record::RecordedEvent, shown, stream::Position},
    port::{CheckpointError, EventStore, delivery::HandlerError},
    support::from_json,
};

/// The names of the notes begin with it.
const NOTE_PREFIX: &str = "stopped:";

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

impl NotedStop {
    /// Loads the noted stop of a projection, by the name of its checkpoint: `projection:{name}`. Returns `None` if there
    /// is none, the store keeps no notes, or this release cannot read the note.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
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
        let noted = notes.load_note(&note_name(reader)).await?;
        Ok(noted.and_then(|text| from_json(&text).ok()))
    }

    /// Deletes the noted stop of a projection, by the name of its checkpoint; a missing one is no error.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; the note may be deleted all the same.
    pub async fn forget(store: &dyn EventStore, reader: &Name) -> Result<(), CheckpointError> {
        match store.notes() {
            Some(notes) => notes.delete_note(&note_name(reader)).await,
            None => Ok(()),
        }
    }

    /// Saves the stop of a projection in this process. A stop at the same event keeps its time.
    pub(super) async fn save(
        context: &RunnerContext,
        reader: &Name,
        record: &RecordedEvent,
        error: &HandlerError,
    ) -> Result<(), BoxError> {
        let Some(notes) = context.store.notes() else { return Ok(()) };
        let position = record.position().unwrap_or_default();
        let former = Self::load(&*context.store, reader).await?.filter(|former| former.position == position);
        let stop = Self {
            position,
            event_type: record.event_type().to_string(),
            event_id: record.metadata().event_id(),
            error: one_line(&error.to_string()),
            owner: context.owner.to_string(),
            since: former.map_or_else(|| context.clock.now(), |former| former.since),
        };
        Ok(notes.save_note(&note_name(reader), &serde_json::to_string(&stop)?).await?)
    }
}

fn note_name(reader: &Name) -> Name {
    Name::prefixed(NOTE_PREFIX, reader)
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
