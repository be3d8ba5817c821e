//! An event as commands show it.

use eventbus::{Position, RecordedEvent};
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::output::{serialize_option_time, serialize_time};

/// Returns the bytes of an event's fields and attributes, which the application chooses.
pub(crate) fn event_bytes(event: &RecordedEvent) -> usize {
    event.payload().len() + event.metadata().attributes().as_json().len()
}

/// An event with its metadata and its fields, readable without the application's types.
#[derive(Debug, Serialize)]
pub struct EventView {
    /// The id.
    pub event_id: String,
    /// The position in the feed of the store, as text.
    pub position: Option<String>,
    /// The type of its aggregate.
    pub aggregate_type: String,
    /// The id of its aggregate.
    pub aggregate_id: String,
    /// The tenant of its aggregate.
    pub tenant: Option<Uuid>,
    /// The number in its stream.
    pub version: u64,
    /// The event type.
    pub event_type: String,
    /// The version of its fields.
    pub schema_version: u32,
    /// When the fact occurred.
    #[serde(serialize_with = "serialize_time")]
    pub occurred_at: OffsetDateTime,
    /// When the store recorded it.
    #[serde(serialize_with = "serialize_option_time")]
    pub recorded_at: Option<OffsetDateTime>,
    /// The conversation.
    pub correlation_id: Uuid,
    /// The id of the event or command that caused it.
    pub causation_id: Option<Uuid>,
    /// The actor on whose behalf it was saved.
    pub actor_id: Option<String>,
    /// The attributes of the application.
    pub attributes: Option<Box<RawValue>>,
    /// The fields.
    pub fields: Option<Box<RawValue>>,
}

impl From<&RecordedEvent> for EventView {
    fn from(event: &RecordedEvent) -> Self {
        let metadata = event.metadata();
        // a document is one line; in JSON ends of lines stand only between values
        let json = |text: &str| RawValue::from_string(text.replace(['\n', '\r'], " ")).ok();
        Self {
            event_id: metadata.event_id().to_string(),
            position: event.position().as_ref().map(Position::to_string),
            aggregate_type: metadata.aggregate_type().to_string(),
            aggregate_id: metadata.aggregate_id().to_string(),
            tenant: metadata.stream().tenant_id(),
            version: event.version().get(),
            event_type: event.event_type().to_string(),
            schema_version: metadata.schema_version(),
            occurred_at: metadata.occurred_at(),
            recorded_at: metadata.recorded_at(),
            correlation_id: metadata.correlation_id(),
            causation_id: metadata.causation_id(),
            actor_id: metadata.actor_id().map(str::to_owned),
            attributes: Some(metadata.attributes())
                .filter(|given| !given.is_empty())
                .and_then(|given| json(given.as_json())),
            fields: json(event.payload()),
        }
    }
}
