//! Events and their files: indented JSON, except for the payload, which stays byte for byte as it is.
//!
//! Real time, not the given clock: the times that workers compare through files.

use eventbus::{
    BoxError, EventId, Metadata, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    event::Attributes,
    port::MessageId,
    support::{from_json, to_json},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::{FileQueueError, Result};

/// The event type of an event that was published as a plain payload.
const MESSAGE_EVENT_TYPE: Name = Name::from_static("message");
/// The aggregate type of such an event; each is an aggregate of its own, so that no handler waits for an earlier one.
const QUEUE_AGGREGATE_TYPE: Name = Name::from_static("queue");

/// An event of a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueEvent {
    id: u64,
    created_at: OffsetDateTime,
    worker_id: String,
    record: RecordedEvent,
    done_handlers: Vec<String>,
}

impl QueueEvent {
    /// Returns its id: ids begin with 1, increase, and are never used twice.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Returns the time of publishing, by the clock of its publisher.
    #[must_use]
    pub const fn created_at(&self) -> OffsetDateTime {
        self.created_at
    }

    /// Returns the name of the worker that published it.
    #[must_use]
    pub fn worker_id(&self) -> &str {
        &self.worker_id
    }

    /// Returns the event as handlers get it; a plain payload is an event of the type `message`, of an aggregate of its
    /// own.
    #[must_use]
    pub const fn record(&self) -> &RecordedEvent {
        &self.record
    }

    /// Returns the decoded payload.
    ///
    /// # Errors
    /// [`FileQueueError::Json`] if it is not of that type.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        from_json(self.record.payload())
            .map_err(|source| FileQueueError::Json { what: format!("the payload of event {}", self.id), source })
    }

    pub(crate) const fn new(id: u64, created_at: OffsetDateTime, worker_id: String, record: RecordedEvent) -> Self {
        Self { id, created_at, worker_id, record, done_handlers: Vec::new() }
    }

    pub(crate) fn with_done_handlers(self, done_handlers: Vec<String>) -> Self {
        Self { done_handlers, ..self }
    }

    /// Returns the handlers that had succeeded before the event was replayed.
    pub(crate) fn done_handlers(&self) -> &[String] {
        &self.done_handlers
    }

    pub(crate) fn message_id(&self) -> MessageId {
        message_id(self.id)
    }
}

pub(crate) fn message_id(id: u64) -> MessageId {
    MessageId::new(id.to_string())
}

/// Returns an event with a plain payload, of an aggregate of its own.
pub(crate) fn record_of_payload<T: Serialize + ?Sized>(payload: &T) -> Result<RecordedEvent> {
    let json = to_json(payload).map_err(FileQueueError::Payload)?;
    let event = NewEvent::new(MESSAGE_EVENT_TYPE, 1, json);
    let stream = StreamId::new(QUEUE_AGGREGATE_TYPE, event.event_id().as_uuid().into());
    Ok(event.recorded_as(stream, Version::FIRST, None))
}

/// Content of the file of an id: an event, or a gap.
///
/// | state of an id | event | next state |
/// |---|---|---|
/// | no file | its publisher links the event's file | event |
/// | no file, below an existing id | `gap_timeout` passes, and a reader links a file with `gap` | gap |
/// | event, gap | the removal mark reaches the id | removed: readers ignore the file |
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EventFile {
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created_at: OffsetDateTime,
    pub(crate) worker_id: String,
    /// Set if the id is a gap: the reason why it has no event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gap: Option<String>,
    /// The handlers that had succeeded before the event was replayed: they do not run again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) done_handlers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<WrittenRecord>,
}

impl EventFile {
    pub(crate) fn for_gap(worker: &str, why: &str) -> Self {
        let (created_at, worker_id, gap) = (now(), worker.into(), Some(why.into()));
        Self { created_at, worker_id, gap, done_handlers: Vec::new(), event: None }
    }
}

/// An event as JSON, in the file of an event or of a dead letter.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WrittenRecord {
    event_id: EventId,
    event_type: String,
    schema_version: u32,
    aggregate_type: String,
    aggregate_id: String,
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(with = "time::serde::rfc3339")]
    occurred_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    recorded_at: Option<OffsetDateTime>,
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    original_recorded_at: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "is_false")]
    has_sealed_fields: bool,
    correlation_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causation_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    /// Not an `Option`, as `null` is a payload too; with `payload_file` it is the text `null`.
    payload: Box<RawValue>,
    /// The file below `payloads/` that holds the compressed payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload_file: Option<String>,
}

impl WrittenRecord {
    /// Converts an event; if its payload is in a file, the result has only the name of that file.
    pub(crate) fn new(record: &RecordedEvent, payload_file: Option<String>) -> Result<Self> {
        let metadata = record.metadata();
        let attributes = metadata.attributes();
        let payload = if payload_file.is_some() { "null" } else { record.payload() };
        let event_id = metadata.event_id();
        let raw = |json: &str| {
            RawValue::from_string(json.into())
                .map_err(|source| FileQueueError::Unwritable { event_id, source: source.into() })
        };
        Ok(Self {
            event_id,
            event_type: metadata.event_type().to_string(),
            schema_version: metadata.schema_version(),
            aggregate_type: metadata.aggregate_type().to_string(),
            aggregate_id: metadata.aggregate_id().to_string(),
            version: metadata.version().get(),
            position: metadata.position().map(Position::get),
            occurred_at: metadata.occurred_at(),
            recorded_at: metadata.recorded_at(),
            original_recorded_at: metadata.original_recorded_at(),
            has_sealed_fields: metadata.has_sealed_fields(),
            correlation_id: metadata.correlation_id(),
            causation_id: metadata.causation_id(),
            tenant_id: metadata.tenant_id(),
            actor_id: metadata.actor_id().map(Into::into),
            metadata: (!attributes.is_empty()).then(|| raw(attributes.as_json())).transpose()?,
            payload: raw(payload)?,
            payload_file,
        })
    }

    /// Returns the event, with `payload` if that came from a file.
    pub(crate) fn into_record(self, payload: Option<String>) -> Result<RecordedEvent, BoxError> {
        let stream = StreamId::parse(&self.aggregate_type, &self.aggregate_id)?.with_tenant_id(self.tenant_id);
        let event_type = Name::new("event type", &self.event_type)?;
        let occurred_at = to_utc("occurred_at", self.occurred_at)?;
        let recorded_at = self.recorded_at.map(|time| to_utc("recorded_at", time)).transpose()?;
        let original = self.original_recorded_at.map(|time| to_utc("original_recorded_at", time)).transpose()?;
        let mut metadata = Metadata::new(self.event_id, event_type, stream, self.version.into(), occurred_at)
            .with_schema_version(self.schema_version)
            .with_position(self.position.map(Position::new))
            .with_recorded_at(recorded_at)
            .with_original_recorded_at(original)
            .with_sealed_fields(self.has_sealed_fields)
            .with_correlation_id(self.correlation_id)
            .with_causation_id(self.causation_id)
            .with_actor_id(self.actor_id);
        if let Some(attributes) = self.metadata {
            metadata = metadata.with_attributes(Attributes::parse(attributes.get())?);
        }
        let payload = payload.unwrap_or_else(|| self.payload.get().into());
        Ok(RecordedEvent::new(metadata, payload))
    }
}

fn to_utc(field: &str, time: OffsetDateTime) -> Result<OffsetDateTime, BoxError> {
    let utc = time.checked_to_offset(time::UtcOffset::UTC);
    utc.ok_or_else(|| format!("`{field}` is outside of the years 1 to 9999 (UTC)").into())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Converts a value to JSON in memory, with all digits of its numbers.
pub(crate) fn to_value<T: Serialize + ?Sized>(what: &'static str, value: &T) -> Result<Value> {
    to_json(value).and_then(from_json).map_err(FileQueueError::json(what))
}

/// Writes a value as indented JSON for a human reader, with a line end.
pub(crate) fn to_pretty_json<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>> {
    let mut json = serde_json::to_vec_pretty(value).map_err(FileQueueError::json(what))?;
    json.push(b'\n');
    Ok(json)
}

/// Returns the time now, UTC, in whole microseconds.
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / 1_000 * 1_000).unwrap_or(now)
}
