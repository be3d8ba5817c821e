//! From an event to the fields of an entry.

use std::fmt::Write;

use eventbus::{EventId, RecordedEvent, StreamId};
use uuid::Uuid;

use super::timestamp::{self, Utc};
use crate::keys::field;

/// A payload that is no JSON object, so that nothing can be spliced into it.
#[derive(Debug, thiserror::Error)]
#[error("the payload of event {event_id} is no JSON object")]
pub(crate) struct NotAnObject {
    event_id: String,
}

/// An aggregate that services in Python could not name.
#[derive(Debug, thiserror::Error)]
#[error(
    "event {event_id} is of {stream}, whose id is no UUID in lower case with hyphens (`require_uuid_aggregate_ids` is set)"
)]
pub(crate) struct NotAUuid {
    event_id: EventId,
    stream: StreamId,
}

/// Refuses an event whose aggregate has an id that the Python library does not read, or writes in another way: an id in
/// another spelling is another aggregate.
pub(crate) fn require_uuid(event: &RecordedEvent) -> Result<(), NotAUuid> {
    let metadata = event.metadata();
    let id = metadata.aggregate_id().as_str();
    let is_uuid = Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id);
    if is_uuid {
        return Ok(());
    }
    Err(NotAUuid { event_id: metadata.event_id(), stream: metadata.stream().clone() })
}

/// The names and values of an entry.
pub(crate) type Fields = Vec<(&'static str, String)>;

/// The fields of the entry, in their order. The event's own fields are not parsed.
pub(crate) fn encode(event: &RecordedEvent) -> Result<Fields, NotAnObject> {
    let metadata = event.metadata();
    let tenant = metadata.tenant_id().map(|id| id.to_string());
    let mut fields = vec![
        (field::EVENT_ID, metadata.event_id().to_string()),
        (field::EVENT_TYPE, metadata.event_type().to_string()),
        (field::AGGREGATE_ID, metadata.aggregate_id().to_string()),
        (field::AGGREGATE_TYPE, metadata.aggregate_type().to_string()),
        (field::TENANT_ID, tenant.unwrap_or_default()),
        (field::OCCURRED_AT, timestamp::write(metadata.occurred_at(), Utc::Offset)),
        (field::PAYLOAD, payload(event)?),
    ];
    if let Some(position) = metadata.position() {
        fields.push((field::POSITION, position.to_string()));
    }
    Ok(fields)
}

/// The whole event as one compact object: the base fields in their order, then the event's own.
fn payload(event: &RecordedEvent) -> Result<String, NotAnObject> {
    let metadata = event.metadata();
    let own = own_fields(event.payload()).ok_or_else(|| NotAnObject { event_id: metadata.event_id().to_string() })?;
    let mut json = String::with_capacity(own.len() + 512);
    let mut put = |key: &str, value: &str| {
        json.push(if json.is_empty() { '{' } else { ',' });
        // writing to a string cannot fail
        let _ = write!(json, r#""{key}":{value}"#);
    };
    let uuid = |id: Option<uuid::Uuid>| id.map_or("null".into(), |id| format!(r#""{id}""#));
    put("event_id", &uuid(Some(metadata.event_id().as_uuid())));
    put("event_type", &quoted(metadata.event_type()));
    put("event_version", &metadata.schema_version().to_string());
    let occurred_at = timestamp::write(metadata.occurred_at(), Utc::Letter);
    put("occurred_at", &quoted(&occurred_at));
    put("aggregate_id", &quoted(metadata.aggregate_id().as_str()));
    put("aggregate_type", &quoted(metadata.aggregate_type()));
    put("aggregate_version", &metadata.version().to_string());
    put("tenant_id", &uuid(metadata.tenant_id()));
    put("actor_id", &metadata.actor_id().map_or("null".into(), quoted));
    put("correlation_id", &uuid(Some(metadata.correlation_id())));
    put("causation_id", &uuid(metadata.causation_id()));
    put("metadata", metadata.attributes().as_json());
    if !own.is_empty() {
        json.push(',');
        json.push_str(own);
    }
    json.push('}');
    Ok(json)
}

/// What stands between the braces of an object.
fn own_fields(json: &str) -> Option<&str> {
    let inner = json.trim().strip_prefix('{')?.strip_suffix('}')?;
    Some(inner.trim())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
