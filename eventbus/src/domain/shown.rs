//! Formats of events, errors and times in a serialized status, and of durations in the log.

use std::{fmt::Display, time::Duration};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    metadata::EventId,
    record::RecordedEvent,
    stream::{AggregateId, Position, Version},
};

/// Serializes a value as its `Display` text.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// Serializes a time in the format of RFC 3339.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn time<S: Serializer>(time: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time.and_then(|time| time.format(&Rfc3339).ok()) {
        Some(time) => serializer.serialize_str(&time),
        None => serializer.serialize_none(),
    }
}

/// Serializes a duration in seconds.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_f64(time.as_secs_f64()),
        None => serializer.serialize_none(),
    }
}

/// Serializes a duration in seconds.
pub(crate) fn duration<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Serializes a value as its `Display` text.
pub(crate) fn display<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serializes a time in the format of RFC 3339.
pub(crate) fn moment<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    self::time(&Some(*time), serializer)
}

/// Writes an event with all its metadata, payload and attributes as JSON: for operators. Stores and buses have formats
/// of their own.
impl Serialize for RecordedEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let metadata = self.metadata();
        let event = EventJson {
            event_id: metadata.event_id(),
            event_type: metadata.event_type().as_str(),
            schema_version: metadata.schema_version(),
            aggregate_type: metadata.aggregate_type().as_str(),
            aggregate_id: metadata.aggregate_id(),
            version: metadata.version(),
            position: metadata.position(),
            occurred_at: metadata.occurred_at(),
            recorded_at: metadata.recorded_at(),
            correlation_id: metadata.correlation_id(),
            causation_id: metadata.causation_id(),
            tenant_id: metadata.tenant_id(),
            actor_id: metadata.actor_id(),
            metadata: Json::from_text(metadata.attributes().as_json()),
            payload: Json::from_text(self.payload()),
        };
        event.serialize(serializer)
    }
}

#[derive(Serialize)]
struct EventJson<'a> {
    event_id: EventId,
    event_type: &'a str,
    schema_version: u32,
    aggregate_type: &'a str,
    aggregate_id: &'a AggregateId,
    version: Version,
    position: Option<Position>,
    #[serde(serialize_with = "moment")]
    occurred_at: OffsetDateTime,
    #[serde(serialize_with = "time")]
    recorded_at: Option<OffsetDateTime>,
    correlation_id: Uuid,
    causation_id: Option<Uuid>,
    tenant_id: Option<Uuid>,
    actor_id: Option<&'a str>,
    metadata: Json<'a>,
    payload: Json<'a>,
}

/// A JSON text, written as its value; as a text if it is not JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Json<'a> {
    Value(&'a RawValue),
    Text(&'a str),
}

impl<'a> Json<'a> {
    fn from_text(json: &'a str) -> Self {
        serde_json::from_str(json).map_or(Self::Text(json), Self::Value)
    }
}

/// Returns the time since `since` as the log shows it: in whole milliseconds.
pub(crate) fn lasted(since: OffsetDateTime, now: OffsetDateTime) -> Duration {
    let millis = (now - since).whole_milliseconds();
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// Formats a time as reports show it.
pub(crate) fn rfc3339(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

/// Returns the name of a type without its modules and parameters.
pub(crate) fn type_name<T: ?Sized>() -> String {
    let name = std::any::type_name::<T>();
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name).into()
}
