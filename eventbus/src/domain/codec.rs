//! Encoding and decoding: from an event's own fields to the stored JSON object, and back.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

#[cfg(feature = "catalog")]
use super::trace::{self, Traced, Untraceable};
use super::{
    error::BoxError,
    field_error::FieldError,
    json::{Written, find_some_none, write_json},
    name::Name,
    tag::InvalidTag,
    unique::UniqueFault,
    upcast::{UpcastFault, Upcaster},
    validity::{EventFault, check_written},
};

/// A type whose values are an event's fields: any `Serialize + Deserialize` type.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "event `{Self}` cannot be stored",
    label = "`Serialize` or `Deserialize` is missing",
    note = "add `#[derive(Serialize, Deserialize)]` to `{Self}`"
)]
pub trait Payload: Sized + 'static {
    /// The fields as serde writes them, at schema version 1.
    const JSON: Codec<Self> = Codec {
        encode: Self::to_json,
        find_some_none: Self::find_some_none,
        decode: Self::from_json,
        version: 1,
        upcasters: &[],
        unique: &[],
        tags: &[],
        #[cfg(feature = "catalog")]
        trace: Self::trace,
    };
    /// An event without fields: `{}` in the store, `null` to serde.
    const UNIT: Codec<Self> = Codec {
        encode: |_| Ok(Written { json: "{}".into(), some_nones: 0 }),
        decode: |_| Self::from_json("null"),
        ..Self::JSON
    };

    fn to_json(&self) -> Result<Written, FieldError>;
    fn find_some_none(&self) -> Option<FieldError>;
    fn from_json(json: &str) -> Result<Self, FieldError>;
    #[cfg(feature = "catalog")]
    fn trace() -> Result<Traced<Self>, Untraceable>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + 'static> Payload for T {
    fn to_json(&self) -> Result<Written, FieldError> {
        write_json(self)
    }

    fn find_some_none(&self) -> Option<FieldError> {
        find_some_none(self)
    }

    fn from_json(json: &str) -> Result<Self, FieldError> {
        serde_json::from_str(json).map_err(|error| FieldError::from_parse_error(json, &error))
    }

    #[cfg(feature = "catalog")]
    fn trace() -> Result<Traced<Self>, Untraceable> {
        trace::trace()
    }
}

/// The parts of a stored event that decoding needs: its own fields, and how to read them.
#[derive(Clone, Copy)]
pub struct EventFields<'e> {
    /// The wire name.
    pub event_type: &'e Name,
    /// The version of the shape of the fields.
    pub schema_version: u32,
    /// Set if some of the fields are sealed: their texts are not their values.
    pub has_sealed_fields: bool,
    /// The fields: a JSON object.
    pub payload: &'e str,
}

/// Leaves out the fields, which may be personal.
impl fmt::Debug for EventFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventFields")
            .field("event_type", self.event_type)
            .field("schema_version", &self.schema_version)
            .finish_non_exhaustive()
    }
}

/// Returns a unique value of an event, not normalized; `None` if it holds none.
pub(crate) type UniqueReader<E> = fn(&E) -> Option<String>;

/// Returns the values of a tag of an event.
pub(crate) type TagReader<E> = fn(&E) -> Vec<String>;

/// Encoder and decoder of one event type; a constant of every event, made by the derive.
#[doc(hidden)]
#[derive(Debug)]
pub struct Codec<E: 'static> {
    encode: fn(&E) -> Result<Written, FieldError>,
    /// Names the first `Some(None)` in the fields.
    find_some_none: fn(&E) -> Option<FieldError>,
    decode: fn(&str) -> Result<E, FieldError>,
    /// The version of the shape that it writes, and the highest that it reads.
    version: u32,
    /// The decoders of the earlier versions, from 1. If there are none, earlier versions are decoded like the version
    /// that it writes.
    upcasters: &'static [Upcaster<E>],
    /// The values of the unique fields, as the descriptor of the event lists them.
    unique: &'static [UniqueReader<E>],
    /// The values of the tags, as the descriptor of the event lists them.
    tags: &'static [TagReader<E>],
    /// Makes samples of the event.
    #[cfg(feature = "catalog")]
    trace: fn() -> Result<Traced<E>, Untraceable>,
}

impl<E> Codec<E> {
    /// Sets the version of the shape, and the decoders of the earlier ones.
    #[must_use]
    pub const fn at_version(self, version: u32, upcasters: &'static [Upcaster<E>]) -> Self {
        Self { version, upcasters, ..self }
    }

    /// Sets how the unique values of an event are read.
    #[must_use]
    pub const fn with_unique(self, unique: &'static [UniqueReader<E>]) -> Self {
        Self { unique, ..self }
    }

    /// Sets how the tags of an event are read.
    #[must_use]
    pub const fn with_tags(self, tags: &'static [TagReader<E>]) -> Self {
        Self { tags, ..self }
    }

    /// Returns the values of each tag.
    pub(crate) fn tag_values(&self, event: &E) -> impl Iterator<Item = Vec<String>> {
        self.tags.iter().map(move |read| read(event))
    }

    /// Returns the values of the unique fields, not normalized.
    pub(crate) fn unique_values(&self, event: &E) -> impl Iterator<Item = Option<String>> {
        self.unique.iter().map(move |read| read(event))
    }

    /// Writes the fields, and reads them back: every appended event can be loaded again.
    pub(crate) fn encode(&self, event_type: &'static str, event: &E) -> Result<String, EncodeError> {
        let refuse = |reason| EncodeError { event_type, reason };
        let written = (self.encode)(event).map_err(|error| refuse(EncodeFault::Unwritable(error)))?;
        check_written(&written.json).map_err(|fault| refuse(EncodeFault::Invalid(fault)))?;
        let read = (self.decode)(&written.json).map_err(|error| refuse(EncodeFault::Unreadable(error)))?;
        // hardly any event has one, so hardly any is written twice
        if written.some_nones > 0
            && (self.encode)(&read).map(|again| again.some_nones) != Ok(written.some_nones)
            && let Some(error) = (self.find_some_none)(event)
        {
            return Err(refuse(EncodeFault::Unreadable(error)));
        }
        Ok(written.json)
    }

    /// Reads the fields. Fails if a newer release wrote them: fields of a newer shape may fit and mean something else,
    /// and a sealed text must never pass for a value.
    pub(crate) fn decode(&self, event: EventFields<'_>) -> Result<E, DecodeError> {
        if event.schema_version > self.version {
            return Err(DecodeError::NewerVersion {
                event_type: event.event_type.clone(),
                found: event.schema_version,
                known: self.version,
            });
        }
        if event.has_sealed_fields {
            return Err(DecodeError::SealedFields { event_type: event.event_type.clone() });
        }
        // a foreign writer's version 0 is read as the oldest one
        let upcaster = self.upcasters.get(event.schema_version.saturating_sub(1) as usize);
        let decoded = match upcaster {
            None => (self.decode)(event.payload)
                .map_err(|source| UpcastFault::Payload { rust_type: std::any::type_name::<E>(), source }),
            Some(upcast) => upcast(event.payload),
        };
        decoded.map_err(|fault| DecodeError::from_fault(event, fault))
    }

    /// Makes samples of the event.
    #[cfg(feature = "catalog")]
    pub(crate) fn trace(&self) -> Result<Traced<E>, Untraceable> {
        (self.trace)()
    }

    /// Reads the fields of the version that it writes.
    pub(crate) fn decode_current(&self, json: &str) -> Result<E, FieldError> {
        (self.decode)(json)
    }
}

/// An event whose fields cannot be written, or would not read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event `{event_type}` cannot be encoded: {reason}")]
#[non_exhaustive]
pub struct EncodeError {
    /// The wire name of the event.
    pub event_type: &'static str,
    /// The fault in its fields.
    #[source]
    pub reason: EncodeFault,
}

/// A fault in the fields of an event, which is not stored; the message shows no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeFault {
    /// They cannot be written as JSON: a number is NaN or infinite, a map has keys that are no text, or a `Serialize`
    /// refuses.
    #[error("{0}")]
    Unwritable(FieldError),
    /// They can be written, but do not decode: for example because a type in them has `skip_serializing_if` without a
    /// default, or a `rename` for one direction only. Or a `Some(None)` in them would be read as `None`.
    #[error("it would not read back: {}{}", .0, FieldError::unread_remedy(.0))]
    Unreadable(FieldError),
    /// They are no JSON object, one is named like a field of the wire's envelope, or not every store could keep them.
    #[error("{0}")]
    Invalid(EventFault),
    /// No store can keep one of its unique values.
    #[error("{0}")]
    UniqueValue(UniqueFault),
    /// No store can keep one of its tags.
    #[error("{0}")]
    Tag(InvalidTag),
}

/// A recorded event that cannot be decoded as the requested type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The event has none of the requested types.
    #[error("unknown event type `{event_type}` (known: {})", known.join(", "))]
    UnknownType {
        /// The wire name of the event.
        event_type: Name,
        /// The wire names of the requested types, sorted.
        known: Vec<&'static str>,
    },
    /// The type is right, but a newer release wrote it, in a shape that this one does not know.
    #[error(
        "event `{event_type}` has version {found}, written by a newer release: this one knows versions up to {known}"
    )]
    NewerVersion {
        /// The wire name of the event.
        event_type: Name,
        /// The version of the event's shape.
        found: u32,
        /// The highest version that this release knows.
        known: u32,
    },
    /// The type is right, but a newer release has sealed its personal fields, which this one cannot open.
    #[error("event `{event_type}` was written by a newer release: its personal fields are sealed")]
    SealedFields {
        /// The wire name of the event.
        event_type: Name,
    },
    /// The type is right, but the fields are not.
    #[error(
        "payload of event `{event_type}` (version {version}) does not fit `{rust_type}`: {source}{}", source.remedy()
    )]
    Payload {
        /// The wire name of the event.
        event_type: Name,
        /// The version of the event's shape.
        version: u32,
        /// The Rust type that its fields do not fit.
        rust_type: &'static str,
        /// The field, and the reason.
        source: FieldError,
    },
    /// The event is of an earlier version, and an upcaster refused its fields.
    #[error("event `{event_type}` (version {version}): the upcaster from version {from} refuses its fields: {source}")]
    Upcast {
        /// The wire name of the event.
        event_type: Name,
        /// The version of the event's shape.
        version: u32,
        /// The version that the upcaster takes.
        from: u32,
        /// The upcaster's error.
        source: BoxError,
    },
}

impl DecodeError {
    /// Adds the event to a fault in its fields.
    #[cold]
    fn from_fault(event: EventFields<'_>, fault: UpcastFault) -> Self {
        let (event_type, version) = (event.event_type.clone(), event.schema_version);
        match fault {
            UpcastFault::Payload { rust_type, source } => Self::Payload { event_type, version, rust_type, source },
            UpcastFault::Refused { version: from, source } => Self::Upcast { event_type, version, from, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::{Deserialize, Deserializer};

    use super::*;

    fn encode<E: Payload>(event: &E) -> Result<String, EncodeError> {
        E::JSON.encode("Test", event)
    }

    #[test]
    fn only_objects_without_reserved_fields_are_written() {
        let plain: HashMap<String, u8> = HashMap::from([("a".into(), 1)]);
        assert_eq!(encode(&plain).unwrap(), r#"{"a":1}"#);
        let nested: HashMap<String, HashMap<String, u8>> =
            HashMap::from([("a".into(), HashMap::from([("event_id".into(), 1)]))]);
        assert!(encode(&nested).is_ok(), "only top-level fields are reserved");
        let reserved = EncodeFault::Invalid(EventFault::ReservedField("tenant_id"));
        let only: HashMap<String, u8> = HashMap::from([("tenant_id".into(), 1)]);
        assert_eq!(encode(&only).unwrap_err().reason, reserved);
        let among: BTreeMap<&str, u8> = BTreeMap::from([("a", 1), ("tenant_id", 2), ("z", 3)]);
        assert_eq!(encode(&serde_json::json!(among)).unwrap_err().reason, reserved);
        let error = encode(&5).unwrap_err().to_string();
        assert_eq!(error, "event `Test` cannot be encoded: its payload: not a JSON object");
    }

    /// A change of fields that may be cleared: `None` leaves one as it is.
    #[derive(Debug, Serialize, Deserialize)]
    struct Renamed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nickname: Option<Option<String>>,
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some")]
        title: Option<Option<u8>>,
    }

    fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u8>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }

    #[test]
    fn a_none_in_a_some_is_refused_unless_it_is_read_as_one() {
        let renamed = |nickname, title| encode(&Renamed { nickname, title });
        assert_eq!(renamed(None, None).unwrap(), "{}");
        assert_eq!(renamed(Some(Some("a".into())), Some(Some(1))).unwrap(), r#"{"nickname":"a","title":1}"#);
        assert_eq!(renamed(None, Some(None)).unwrap(), r#"{"title":null}"#);
        for title in [None, Some(None)] {
            let error = renamed(Some(None), title).unwrap_err();
            let EncodeFault::Unreadable(field) = &error.reason else { panic!("{error}") };
            assert_eq!(field.path(), "nickname", "{error}");
            assert!(error.to_string().contains("it would not read back: field `nickname`: `Some(None)` is"), "{error}");
        }
    }
}
