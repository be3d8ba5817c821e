//! Decodes the fields of an entry, as tolerant of other publishers as the Python library.

use std::{borrow::Cow, fmt};

use eventbus::{
    EventId, Metadata, Name, Position, RecordedEvent, StreamId, Version,
    event::{Attributes, RESERVED_FIELDS, parse_uuid},
};
use serde::{
    Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use super::timestamp::{self, Zone};
use crate::keys::field;

/// The reason why an entry is no event.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Undecodable(String);

impl Undecodable {
    fn field(field: &str, problem: impl fmt::Display) -> Self {
        Self(format!("`{field}` {problem}"))
    }
}

/// Returns the text of a flat field, if it exists and is text.
pub(crate) fn flat_field<'a>(fields: &[(&[u8], &'a [u8])], name: &str) -> Option<&'a str> {
    let (_, value) = fields.iter().find(|(found, _)| *found == name.as_bytes())?;
    std::str::from_utf8(value).ok()
}

/// Decodes an entry. The values come from the payload, except for the type of the event and the fields of this crate;
/// other fields only replace values that the payload lacks. The event's own fields are not decoded.
pub(crate) fn decode(fields: &[(&[u8], &[u8])]) -> Result<RecordedEvent, Undecodable> {
    let flat = FlatFields(fields);
    let payload = flat.text(field::PAYLOAD)?.ok_or_else(|| Undecodable::field(field::PAYLOAD, "is missing"))?;
    let split = SplitPayload::parse(payload)
        .map_err(|error| Undecodable::field(field::PAYLOAD, format_args!("does not parse: {error}")))?;
    let base = BaseFieldReader { payload: split.base, flat };

    let event_type = match base.flat.non_empty_text(field::EVENT_TYPE)? {
        Some(flat) => flat.into(),
        None => base.required_text("event_type")?,
    };
    let event_type = Name::new("event type", event_type).map_err(|error| undecodable(&error))?;
    let stream = StreamId::parse(&base.required_text("aggregate_type")?, &base.required_text("aggregate_id")?)
        .map_err(|error| undecodable(&error))?
        .with_tenant_id(base.uuid("tenant_id", "tenant id")?);
    let event_id = base.uuid("event_id", "event id")?.ok_or_else(|| Undecodable::field("event_id", "is missing"))?;
    let version = base.number("aggregate_version")?;
    let schema_version = u32::try_from(base.number("event_version")?)
        .map_err(|_| Undecodable::field("event_version", "is too large"))?;
    let correlation_id = match base.json("correlation_id") {
        Some("null") => {
            return Err(Undecodable::field("correlation_id", "is null"));
        }
        _ => base.uuid("correlation_id", "correlation id")?,
    };
    let (occurred_at, as_written) = base.occurred_at()?;
    let metadata = Metadata::new(EventId::from(event_id), event_type, stream, Version::new(version), occurred_at)
        .with_occurred_at_as_written(as_written)
        .with_schema_version(schema_version)
        .with_position(base.flat.position())
        .with_recorded_at(base.flat.time(field::RECORDED_AT))
        .with_original_recorded_at(base.flat.time(field::ORIGINAL_RECORDED_AT))
        .with_sealed_fields(matches!(base.flat.text(field::HAS_SEALED_FIELDS), Ok(Some("1"))))
        .with_correlation_id(correlation_id.unwrap_or(event_id))
        .with_causation_id(base.uuid("causation_id", "causation id")?)
        .with_actor_id(base.text("actor_id")?)
        .with_attributes(base.attributes()?);
    RecordedEvent::from_parsed(metadata, split.own_fields).map_err(|invalid| Undecodable(invalid.fault.to_string()))
}

fn undecodable(error: &dyn fmt::Display) -> Undecodable {
    Undecodable(error.to_string())
}

/// The fields beside the payload.
struct FlatFields<'a>(&'a [(&'a [u8], &'a [u8])]);

impl<'a> FlatFields<'a> {
    fn text(&self, name: &str) -> Result<Option<&'a str>, Undecodable> {
        let Some((_, value)) = self.0.iter().find(|(field, _)| *field == name.as_bytes()) else {
            return Ok(None);
        };
        std::str::from_utf8(value).map(Some).map_err(|_| Undecodable::field(name, "is not UTF-8"))
    }

    /// Returns the text of a field unless it is missing or empty.
    fn non_empty_text(&self, name: &str) -> Result<Option<&'a str>, Undecodable> {
        Ok(self.text(name)?.filter(|text| !text.is_empty()))
    }

    /// Returns the position. Ignores a field of another publisher with this name that holds no position.
    fn position(&self) -> Option<Position> {
        let position = self.text(field::POSITION).ok()??;
        position.parse().ok().map(Position::new)
    }

    /// Returns a time of ours. Ignores a field of another publisher with this name that holds no time.
    fn time(&self, name: &str) -> Option<OffsetDateTime> {
        let time = timestamp::parse(self.text(name).ok()??)?;
        (1..=9999).contains(&time.year()).then_some(time)
    }
}

/// The base fields of an event.
struct BaseFieldReader<'a> {
    /// As they were written, each at most once.
    payload: Vec<(&'static str, &'a str)>,
    flat: FlatFields<'a>,
}

impl<'a> BaseFieldReader<'a> {
    /// Returns a value of the payload.
    fn json(&self, name: &'static str) -> Option<&'a str> {
        self.payload.iter().find(|(field, _)| *field == name).map(|(_, json)| *json)
    }

    /// Returns a text of the payload; `None` if it is null or missing.
    fn text(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, Undecodable> {
        match self.json(name) {
            None | Some("null") => Ok(None),
            Some(json) => text(json).map(Some).ok_or_else(|| Undecodable::field(name, "is no text")),
        }
    }

    fn required_text(&self, name: &'static str) -> Result<Cow<'a, str>, Undecodable> {
        let text = match self.text(name)? {
            Some(text) => Some(text),
            None => self.flat.non_empty_text(name)?.map(Cow::Borrowed),
        };
        text.ok_or_else(|| Undecodable::field(name, "is missing"))
    }

    /// Returns a UUID of the payload or, if the payload lacks it, of the flat field, which is empty for none.
    fn uuid(&self, name: &'static str, what: &'static str) -> Result<Option<Uuid>, Undecodable> {
        let text = match self.json(name) {
            Some(_) => self.text(name)?,
            None => self.flat.non_empty_text(name)?.map(Cow::Borrowed),
        };
        text.map(|text| parse_uuid(what, &text).map_err(|error| undecodable(&error))).transpose()
    }

    /// Returns a number from 1 on, also written as text; 1 if it is missing.
    fn number(&self, name: &'static str) -> Result<u64, Undecodable> {
        let Some(json) = self.json(name) else {
            return Ok(1);
        };
        let number = match text(json) {
            Some(text) => number(text.trim()),
            None => number(json),
        };
        number.filter(|number| *number > 0).ok_or_else(|| Undecodable::field(name, "is no number from 1 on"))
    }

    /// Returns the time of the event, and its spelling unless that is in UTC.
    fn occurred_at(&self) -> Result<(OffsetDateTime, Option<Box<str>>), Undecodable> {
        const NAME: &str = "occurred_at";
        let written = match self.json(NAME) {
            Some(json) => text(json),
            None => self.flat.text(NAME)?.map(Cow::Borrowed),
        };
        let parsed = match &written {
            Some(text) => timestamp::parse(text),
            None => self.json(NAME).and_then(|json| json.parse().ok()).and_then(timestamp::from_epoch),
        };
        let parsed = parsed.ok_or_else(|| Undecodable::field(NAME, "is no time"))?;
        Ok((parsed, written.filter(|text| timestamp::zone(text) != Zone::Utc).map(|text| text.as_ref().into())))
    }

    fn attributes(&self) -> Result<Attributes, Undecodable> {
        let Some(json) = self.json("metadata") else {
            return Ok(Attributes::EMPTY);
        };
        Attributes::parse(json).map_err(|_| Undecodable::field("metadata", "is no object"))
    }
}

/// Returns the text of a JSON string, borrowed if it has no escapes; `None` for any other value.
fn text(json: &str) -> Option<Cow<'_, str>> {
    if json.contains('\\') {
        return serde_json::from_str(json).ok().map(Cow::Owned);
    }
    let text = json.strip_prefix('"')?.strip_suffix('"')?;
    Some(Cow::Borrowed(text))
}

/// Parses a whole number, also one that is written as a float.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| whole_number(text.parse().ok()?))
}

/// Converts a float that is a whole number.
fn whole_number(number: f64) -> Option<u64> {
    const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;
    let fits = number.fract() == 0.0 && (0.0..=EXACT_INTEGER_MAX).contains(&number);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    fits.then_some(number as u64)
}

/// A payload, split into the base fields and the object of the event's own fields, both as they were written.
struct SplitPayload<'a> {
    base: Vec<(&'static str, &'a str)>,
    own_fields: String,
}

impl<'a> SplitPayload<'a> {
    fn parse(payload: &'a str) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_str(payload);
        let split = json.deserialize_map(SplitVisitor { length: payload.len() })?;
        json.end()?;
        Ok(split)
    }
}

struct SplitVisitor {
    /// Length of the payload in bytes.
    length: usize,
}

impl<'de> Visitor<'de> for SplitVisitor {
    type Value = SplitPayload<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SplitPayload<'de>, A::Error> {
        let mut base = Vec::with_capacity(RESERVED_FIELDS.len());
        let mut own = String::new();
        let mut rest = self.length;
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if let Some(name) = base_field(key.get()) {
                // readers differ in which of two values they take, so one of them would decode a different event
                if base.iter().any(|(field, _)| *field == name) {
                    return Err(A::Error::custom(format_args!("`{name}` is there twice")));
                }
                base.push((name, value.get()));
                rest = rest.saturating_sub(key.get().len() + value.get().len() + ":,".len());
                continue;
            }
            if own.is_empty() {
                own.reserve_exact(rest); // exact if the own fields come last
                own.push('{');
            } else {
                own.push(',');
            }
            own.push_str(key.get());
            own.push(':');
            own.push_str(value.get());
        }
        own.push_str(if own.is_empty() { "{}" } else { "}" });
        Ok(SplitPayload { base, own_fields: own })
    }
}

/// Returns the base field of a key, which is quoted as written.
fn base_field(key: &str) -> Option<&'static str> {
    let key = text(key)?;
    RESERVED_FIELDS.iter().copied().find(|field| *field == key)
}
