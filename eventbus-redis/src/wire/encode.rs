//! Encodes an event as the fields of an entry.

use std::borrow::Cow;

use eventbus::{EventId, Metadata, RecordedEvent, StreamId, event::InvalidEvent};
use serde::Serialize;
use uuid::Uuid;

use super::timestamp;
use crate::keys::field;

/// An event that cannot be written to a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unencodable {
    /// Its own fields are no JSON object, have the name of a base field, or cannot be decoded by some reader.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// The base fields that the bus adds cannot be written as JSON.
    #[error("the base fields of event {event_id} do not serialize")]
    Base {
        /// The event.
        event_id: EventId,
        /// The error of the serializer.
        source: serde_json::Error,
    },
}

/// An event that services in Python could not read.
#[derive(Debug, thiserror::Error)]
#[error("event {event_id} of {stream} cannot be read by the Python library (`readable_by_python` is set): {reason}")]
pub(crate) struct UnreadableByPython {
    event_id: EventId,
    stream: StreamId,
    reason: &'static str,
}

/// Refuses an event that the Python library cannot read, or whose id it would spell differently: a different spelling
/// is a different aggregate.
pub(crate) fn require_readable_by_python(event: &RecordedEvent) -> Result<(), UnreadableByPython> {
    let metadata = event.metadata();
    let id = metadata.aggregate_id().as_str();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let reason = if !Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id) {
        "the id of the aggregate is no UUID in lower case with hyphens"
    } else if !metadata.aggregate_type().chars().all(is_plain) {
        "the type of the aggregate has other characters than letters, digits, `_`, `.` and `-`"
    } else if metadata.version().get() == 0 {
        "its version is 0; versions begin with 1"
    } else {
        return Ok(());
    };
    Err(UnreadableByPython { event_id: metadata.event_id(), stream: metadata.stream().clone(), reason })
}

/// Names and values of an entry.
pub(crate) type EntryFields<'a> = Vec<(&'static str, Cow<'a, [u8]>)>;

/// Encodes an event as fields, in their order. Checks the event's own fields, and writes them unchanged.
pub(crate) fn encode(event: &RecordedEvent) -> Result<EntryFields<'_>, Unencodable> {
    event.check()?;
    let metadata = event.metadata();
    let payload = payload(event, &occurred_at(metadata, "Z"))?;

    let mut fields = Vec::with_capacity(10);
    fields.extend([
        (field::EVENT_ID, owned(metadata.event_id().to_string())),
        (field::EVENT_TYPE, borrowed(metadata.event_type())),
        (field::AGGREGATE_ID, borrowed(metadata.aggregate_id().as_str())),
        (field::AGGREGATE_TYPE, borrowed(metadata.aggregate_type())),
        (field::TENANT_ID, metadata.tenant_id().map_or(borrowed(""), |id| owned(id.to_string()))),
        (field::OCCURRED_AT, owned(occurred_at(metadata, "+00:00"))),
        (field::PAYLOAD, Cow::Owned(payload)),
    ]);
    if let Some(position) = metadata.position() {
        fields.push((field::POSITION, owned(position.to_string())));
    }
    for (name, time) in
        [(field::RECORDED_AT, metadata.recorded_at()), (field::ORIGINAL_RECORDED_AT, metadata.original_recorded_at())]
    {
        fields.extend(time.map(|time| (name, owned(timestamp::write(time) + "+00:00"))));
    }
    if metadata.has_sealed_fields() {
        fields.push((field::HAS_SEALED_FIELDS, borrowed("1")));
    }
    Ok(fields)
}

/// Formats the time of an event with this spelling of UTC; keeps the spelling of another publisher.
fn occurred_at(metadata: &Metadata, utc: &str) -> String {
    match metadata.occurred_at_as_written() {
        Some(text) => text.to_owned(),
        None => timestamp::write(metadata.occurred_at()) + utc,
    }
}

fn borrowed(text: &str) -> Cow<'_, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

fn owned(text: String) -> Cow<'static, [u8]> {
    Cow::Owned(text.into_bytes())
}

/// The base fields of a payload in their order, up to the attributes, which are JSON already.
#[derive(Serialize)]
struct BaseFields<'a> {
    event_id: Uuid,
    event_type: &'a str,
    event_version: u32,
    occurred_at: &'a str,
    aggregate_id: &'a str,
    aggregate_type: &'a str,
    aggregate_version: u64,
    tenant_id: Option<Uuid>,
    actor_id: Option<&'a str>,
    correlation_id: Uuid,
    causation_id: Option<Uuid>,
}

/// Returns the payload of an event as it is in the stream: one compact JSON object with the base fields in their order,
/// then the event's own fields as they were written.
///
/// For an event that was read from a stream, the payload equals byte for byte the text that a publisher of this crate
/// or of `eventsource-py` wrote.
///
/// # Errors
/// [`Unencodable`] if the event [cannot be kept](RecordedEvent::check).
///
/// # Examples
/// ```
/// # use eventbus::{RecordedEvent, Version, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Account")]
/// # struct Deposited { cents: u64 }
/// let event = RecordedEvent::from_event(&Deposited { cents: 120 }, AggregateId::new(), Version::FIRST)?;
/// let payload = eventbus_redis::wire_payload(&event)?;
/// assert!(payload.starts_with(r#"{"event_id":""#) && payload.ends_with(r#","metadata":{},"cents":120}"#));
/// # Ok::<(), eventbus::Error>(())
/// ```
pub fn wire_payload(event: &RecordedEvent) -> Result<String, Unencodable> {
    event.check()?;
    let payload = payload(event, &occurred_at(event.metadata(), "Z"))?;
    // all parts are UTF-8
    Ok(String::from_utf8_lossy(&payload).into_owned())
}

/// Builds the payload of a checked event.
fn payload(event: &RecordedEvent, occurred_at: &str) -> Result<Vec<u8>, Unencodable> {
    let metadata = event.metadata();
    let written = build_payload(metadata, occurred_at, own_fields(event.payload()));
    written.map_err(|source| Unencodable::Base { event_id: metadata.event_id(), source })
}

fn build_payload(metadata: &Metadata, occurred_at: &str, own: &str) -> serde_json::Result<Vec<u8>> {
    let attributes = metadata.attributes().as_json();
    let mut json = Vec::with_capacity(own.len() + attributes.len() + 640);
    let base = BaseFields {
        event_id: metadata.event_id().as_uuid(),
        event_type: metadata.event_type(),
        event_version: metadata.schema_version(),
        occurred_at,
        aggregate_id: metadata.aggregate_id().as_str(),
        aggregate_type: metadata.aggregate_type(),
        aggregate_version: metadata.version().get(),
        tenant_id: metadata.tenant_id(),
        actor_id: metadata.actor_id(),
        correlation_id: metadata.correlation_id(),
        causation_id: metadata.causation_id(),
    };
    serde_json::to_writer(&mut json, &base)?;
    json.pop(); // the closing brace: more fields follow
    json.extend_from_slice(br#","metadata":"#);
    json.extend_from_slice(attributes.as_bytes());
    if !own.is_empty() {
        json.push(b',');
        json.extend_from_slice(own.as_bytes());
    }
    json.push(b'}');
    Ok(json)
}

/// Returns the text between the braces of an object.
fn own_fields(json: &str) -> &str {
    let json = json.trim();
    json.strip_prefix('{').and_then(|json| json.strip_suffix('}')).unwrap_or(json).trim()
}
