//! Validity of events: one check for what every store and every bus can keep, and every reader can read.
//!
//! Invariant: a backend refuses an invalid event even if it could keep it. A stored event is published, copied to other
//! stores and read by tools of the database; a reader that cannot take it stops there for ever.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

use super::{field_error::FieldError, metadata::EventId, name::Name, shown, stream::Version, tag::TAGS_MAX};

/// The fields of the wire's envelope, in their order on the wire: an event's own fields may not have these names.
pub const RESERVED_FIELDS: [&str; 12] = [
    "event_id",
    "event_type",
    "event_version",
    "occurred_at",
    "aggregate_id",
    "aggregate_type",
    "aggregate_version",
    "tenant_id",
    "actor_id",
    "correlation_id",
    "causation_id",
    "metadata",
];

/// The nesting limit of objects and arrays, as in `serde_json`.
const MAX_DEPTH: usize = 127;

/// The largest version of a payload's shape: it fits a column of signed 32 bits.
const MAX_SCHEMA_VERSION: u32 = i32::MAX as u32;

/// An event that no store takes and no bus publishes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {event_id} (`{event_type}`) cannot be kept: {fault}")]
#[non_exhaustive]
pub struct InvalidEvent {
    /// The event.
    pub event_id: EventId,
    /// Its durable wire name.
    pub event_type: Name,
    /// The fault.
    pub fault: EventFault,
}

/// A fault for which no store takes an event and no bus publishes it; the message shows no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventFault {
    /// The payload is no JSON object, or some store or reader cannot take it: it holds half a surrogate pair, more than
    /// 127 objects and arrays within each other, in a store also a null character.
    #[error("its payload: {0}")]
    Payload(FieldError),
    /// A field of the payload is named like one of the wire's envelope, see [`RESERVED_FIELDS`], and would take its
    /// place there.
    #[error("its field `{0}` is named like a field of the envelope; rename it with `#[serde(rename = \"..\")]`")]
    ReservedField(&'static str),
    /// The attributes have a fault of a [payload](Self::Payload).
    #[error("its attributes (`metadata`): {0}")]
    Attributes(FieldError),
    /// The actor holds a null character, which no text of PostgreSQL can hold.
    #[error("its actor holds a null character")]
    Actor,
    /// The version of the payload's shape is 0 or above 2,147,483,647.
    #[error("its schema version is not within 1..=2147483647")]
    SchemaVersion,
    /// The time is, in UTC, outside of the years 1 to 9999.
    #[error("its time is outside of the years 1 to 9999 (UTC)")]
    OccurredAt,
    /// The time at which a store recorded it is, in UTC, outside of the years 1 to 9999.
    #[error("its recorded time is outside of the years 1 to 9999 (UTC)")]
    RecordedAt,
    /// The time at which another store recorded it is, in UTC, outside of the years 1 to 9999.
    #[error("its original recorded time is outside of the years 1 to 9999 (UTC)")]
    OriginalRecordedAt,
    /// The context of the event names a tenant, and its stream belongs to a different one or to none.
    #[error("its context names tenant {named}, its stream belongs to {}", shown::tenant(*of_stream))]
    OtherTenant {
        /// The tenant that the context names.
        named: Uuid,
        /// The tenant that the stream belongs to.
        of_stream: Option<Uuid>,
    },
    /// It has more than [`TAGS_MAX`](crate::event::TAGS_MAX) tags.
    #[error("it has {found} tags, more than {TAGS_MAX}")]
    Tags {
        /// Their number.
        found: usize,
    },
    /// The place in the stream is 0, or above 9,223,372,036,854,775,807.
    #[error("its version in the stream is not within 1..=9223372036854775807")]
    Version,
}

/// The kind of backend that keeps an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendKind {
    /// A store: its texts hold no null character, which no text of PostgreSQL, and no tool for its tables, can hold.
    Store,
    /// A bus, which publishers in Python share: their JSON holds null characters as escapes.
    Bus,
}

/// The checked parts of an event beside its payload.
pub(crate) struct EventParts<'e> {
    pub(crate) schema_version: u32,
    pub(crate) occurred_at: OffsetDateTime,
    pub(crate) recorded_at: Option<OffsetDateTime>,
    pub(crate) original_recorded_at: Option<OffsetDateTime>,
    pub(crate) actor_id: Option<&'e str>,
    pub(crate) attributes: &'e str,
}

impl EventParts<'_> {
    pub(crate) fn check(&self, backend: BackendKind) -> Result<(), EventFault> {
        if !(1..=MAX_SCHEMA_VERSION).contains(&self.schema_version) {
            return Err(EventFault::SchemaVersion);
        }
        if !is_in_range(self.occurred_at) {
            return Err(EventFault::OccurredAt);
        }
        if !self.recorded_at.is_none_or(is_in_range) {
            return Err(EventFault::RecordedAt);
        }
        if !self.original_recorded_at.is_none_or(is_in_range) {
            return Err(EventFault::OriginalRecordedAt);
        }
        if self.actor_id.is_some_and(|actor| actor.contains('\0')) {
            return Err(EventFault::Actor);
        }
        check_texts(self.attributes, backend).map_err(EventFault::Attributes)
    }
}

/// Returns `true` if a time is, in UTC, within the years 1 to 9999.
fn is_in_range(time: OffsetDateTime) -> bool {
    time.checked_to_offset(UtcOffset::UTC).is_some_and(|utc| (1..=9999).contains(&utc.year()))
}

pub(crate) fn check_version(version: Version) -> Result<(), EventFault> {
    if (Version::FIRST..=Version::MAX).contains(&version) { Ok(()) } else { Err(EventFault::Version) }
}

/// Checks, for a store, a payload that `serde_json` has just written and that the caller reads back: it is valid JSON,
/// so most payloads need no parser here.
pub(crate) fn check_written(json: &str) -> Result<(), EventFault> {
    let has_reserved_name = || RESERVED_FIELDS.iter().any(|field| json.contains(field));
    if json.starts_with('{') && is_plain(json) && !has_reserved_name() {
        return Ok(());
    }
    check_payload(json, BackendKind::Store)
}

/// Checks that a payload is an object that can be kept, spliced into the wire's envelope and read.
pub(crate) fn check_payload(json: &str, backend: BackendKind) -> Result<(), EventFault> {
    match serde_json::from_str(json) {
        Ok(Keys { reserved: None }) => check_texts(json, backend).map_err(EventFault::Payload),
        Ok(Keys { reserved: Some(field) }) => Err(EventFault::ReservedField(field)),
        Err(error) if error.is_data() => Err(EventFault::Payload(FieldError::new([], "not a JSON object"))),
        Err(error) => Err(EventFault::Payload(FieldError::from_parse_error(json, &error))),
    }
}

/// The top-level keys of an object, of which only the first reserved one matters.
struct Keys {
    reserved: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysVisitor)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut reserved = None;
        while let Some(Key(key)) = map.next_key()? {
            map.next_value::<IgnoredAny>()?;
            reserved = reserved.or_else(|| RESERVED_FIELDS.into_iter().find(|field| *field == key));
        }
        Ok(Keys { reserved })
    }
}

/// A key borrowed from the text where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Checks that valid JSON has no part that some store, bus or reader cannot take.
pub(crate) fn check_texts(json: &str, backend: BackendKind) -> Result<(), FieldError> {
    if is_plain(json) {
        return Ok(());
    }
    match first_fault(json.as_bytes(), backend) {
        Some((at, reason)) => Err(FieldError::at(json, at, reason)),
        None => Ok(()),
    }
}

/// Returns `true` for most JSON: it has neither escapes nor so many brackets that a scan byte by byte is needed.
fn is_plain(json: &str) -> bool {
    let opened = json.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count();
    opened <= MAX_DEPTH && !json.contains('\\')
}

/// Returns the offset, in bytes, of the first part of valid JSON that cannot be kept, and the reason.
fn first_fault(json: &[u8], backend: BackendKind) -> Option<(usize, &'static str)> {
    let (mut at, mut depth, mut in_text) = (0, 0_usize, false);
    while let Some(byte) = json.get(at) {
        match (in_text, byte) {
            (_, b'"') => in_text = !in_text,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Some((at, TOO_DEEP));
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            (true, b'\\') => {
                at += 1;
                match code_unit(json, at) {
                    Some(0) if backend == BackendKind::Store => {
                        return Some((at, NULL_CHARACTER));
                    }
                    Some(0xD800..=0xDBFF) => {
                        at += "uXXXX".len();
                        let low = json.get(at).filter(|byte| **byte == b'\\').and_then(|_| code_unit(json, at + 1));
                        if !matches!(low, Some(0xDC00..=0xDFFF)) {
                            return Some((at, UNPAIRED_SURROGATE));
                        }
                        at += 1;
                    }
                    Some(0xDC00..=0xDFFF) => return Some((at, UNPAIRED_SURROGATE)),
                    _ => {}
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

pub(crate) const TOO_DEEP: &str = "more than 127 objects and arrays within each other";
pub(crate) const NULL_CHARACTER: &str = "a null character (`\\u0000`), which no text of PostgreSQL can hold";
pub(crate) const UNPAIRED_SURROGATE: &str = "half a surrogate pair, which is no text";

/// Returns the number of an escape `uXXXX`, if it is one.
fn code_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 5)?.strip_prefix(b"u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_json_objects() {
        for good in ["{}", " {\"a\": 1e999}\n", r#"{"\u0001":"\\u0000\ud83d\ude00\\\\"}"#] {
            assert_eq!(check_payload(good, BackendKind::Store), Ok(()), "{good}");
        }
        for bad in ["", "5", "[1]", "null", "\"s3cret\"", "{", "{'a':1}", "{}{}", "{\"a\":\"\u{1}\"}"] {
            let fault = check_payload(bad, BackendKind::Store).unwrap_err();
            assert!(matches!(fault, EventFault::Payload(_)) && !fault.to_string().contains("s3cret"), "{bad}: {fault}");
        }
    }

    #[test]
    fn a_written_payload_is_checked_as_any_other() {
        let deep = r#"{"a":"#.repeat(128) + "1" + &"}".repeat(128);
        for json in [
            "{}",
            r#"{"a":"metadata","b":[{"tenant_id":1}],"metadatas":1}"#,
            r#"{"a":1,"tenant_id":1}"#,
            r#"{"tenant\u005fid":1}"#,
            r#"{"a":"\u0000"}"#,
            r#"{"a":"\\u0000"}"#,
            &deep,
            &deep[r#"{"a":"#.len()..deep.len() - 1],
            " {}",
            "[{}]",
            "null",
        ] {
            assert_eq!(check_written(json), check_payload(json, BackendKind::Store), "{json}");
        }
    }

    #[test]
    fn faults_name_their_place() {
        let deep = format!(r#"{{"a":{}"#, "[".repeat(200)) + &"]".repeat(200) + "}";
        for (payload, place) in [
            (r#"{"a":{"b":["x","\u0000 s3cret"]}}"#, "its payload: field `a.b[1]`: a null character"),
            (r#"{"a":"\ud83d\\udc00"}"#, "its payload: field `a`: half a surrogate pair"),
            (r#"{"a":"\ud83d\ud83d"}"#, "its payload: field `a`: half a surrogate pair"),
            (&deep, "its payload: field `a[0][0]"),
            (r#"{"a":1,"tenant_id":"s3cret"}"#, "its field `tenant_id` is named like"),
            (r#"{"a":tru"#, "its payload: field `a`: EOF while parsing a value at line 1 column 8"),
        ] {
            let fault = check_payload(payload, BackendKind::Store).unwrap_err().to_string();
            assert!(fault.starts_with(place) && !fault.contains("s3cret"), "{payload}: {fault}");
        }
    }
}
