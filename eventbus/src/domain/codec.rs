//! Between an event's own fields and the JSON object that is stored.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor},
};

use super::{error::BoxError, name::Name};

/// The fields of the wire's envelope, in their order on the wire: an event's own fields may not be called so.
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

/// What can be written as an event's fields: any `Serialize + Deserialize` type.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "event `{Self}` cannot be stored",
    label = "`Serialize` or `Deserialize` is missing",
    note = "add `#[derive(Serialize, Deserialize)]` to `{Self}`"
)]
pub trait Payload: Sized {
    /// The fields as serde writes them.
    const JSON: Codec<Self> = Codec { encode: Self::to_json, decode: Self::from_json };
    /// An event without fields: `{}` in the store, `null` to serde.
    const UNIT: Codec<Self> = Codec { encode: |_| Ok("{}".into()), decode: |_| Self::from_json("null") };

    fn to_json(&self) -> Result<String, BoxError>;
    fn from_json(json: &str) -> Result<Self, BoxError>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Payload for T {
    fn to_json(&self) -> Result<String, BoxError> {
        Ok(serde_json::to_string(self)?)
    }

    fn from_json(json: &str) -> Result<Self, BoxError> {
        Ok(serde_json::from_str(json)?)
    }
}

/// How one event type is written and read; a constant of every event, made by the derive.
#[doc(hidden)]
#[derive(Debug)]
pub struct Codec<E> {
    encode: fn(&E) -> Result<String, BoxError>,
    decode: fn(&str) -> Result<E, BoxError>,
}

impl<E> Codec<E> {
    pub(crate) fn encode(&self, event_type: &'static str, event: &E) -> Result<String, EncodeError> {
        let refuse = |reason| EncodeError { event_type, reason };
        let json = (self.encode)(event).map_err(|error| refuse(EncodeFault::Payload(error)))?;
        match serde_json::from_str(&json) {
            Ok(Keys { reserved: None }) => Ok(json),
            Ok(Keys { reserved: Some(field) }) => Err(refuse(EncodeFault::ReservedField(field))),
            Err(_) => Err(refuse(EncodeFault::NotAnObject)),
        }
    }

    pub(crate) fn decode(&self, event_type: &Name, json: &str) -> Result<E, DecodeError> {
        (self.decode)(json).map_err(|source| DecodeError::Payload {
            event_type: event_type.clone(),
            rust_type: std::any::type_name::<E>(),
            source,
        })
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

/// An event whose fields cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("event `{event_type}` cannot be encoded")]
#[non_exhaustive]
pub struct EncodeError {
    /// The wire name of the event.
    pub event_type: &'static str,
    /// What is wrong with its fields.
    #[source]
    pub reason: EncodeFault,
}

/// What is wrong with the fields of an event that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeFault {
    /// Its `Serialize` refused, for example because a map has keys that are no text.
    #[error("its fields do not serialize")]
    Payload(#[source] BoxError),
    /// Its `Serialize` wrote something else than an object.
    #[error("it serializes to something else than a JSON object")]
    NotAnObject,
    /// A field is called like one of the wire's envelope, see [`RESERVED_FIELDS`].
    #[error("its field `{0}` is named like a field of the envelope; rename it with `#[serde(rename = \"..\")]`")]
    ReservedField(&'static str),
}

/// A recorded event that cannot be decoded as what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The event is none of the types that were asked for.
    #[error("unknown event type `{event_type}` (known: {})", known.join(", "))]
    UnknownType {
        /// The wire name of the event.
        event_type: Name,
        /// The wire names that would have been understood, sorted.
        known: Vec<&'static str>,
    },
    /// The type is right, its fields are not.
    #[error("payload of event `{event_type}` does not fit `{rust_type}`")]
    Payload {
        /// The wire name of the event.
        event_type: Name,
        /// The Rust type its fields should have had.
        rust_type: &'static str,
        /// What serde said.
        source: BoxError,
    },
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

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
        let reserved: HashMap<String, u8> = HashMap::from([("tenant_id".into(), 1)]);
        assert!(matches!(encode(&reserved).unwrap_err().reason, EncodeFault::ReservedField("tenant_id")));
        let among: BTreeMap<&str, u8> = BTreeMap::from([("a", 1), ("tenant_id", 2), ("z", 3)]);
        let among = encode(&serde_json::json!(among)).unwrap_err();
        assert!(matches!(among.reason, EncodeFault::ReservedField("tenant_id")));
        assert!(matches!(encode(&5).unwrap_err().reason, EncodeFault::NotAnObject));
    }
}
