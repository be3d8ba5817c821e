//! Encodes and decodes the entries of an event: the event in the stream of its aggregate, the pointer to it in the
//! feed.
//!
//! Invariant: `type`, `timestamp` and `data` come first; a new field goes behind the existing ones, and no field is
//! renamed.

use std::{borrow::Cow, collections::BTreeSet, num::NonZeroU32};

use eventbus::{
    BoxError, EventId, Metadata, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    event::Attributes,
    port::{FeedFilter, ReadError},
};
use eventbus_redis_core::{entry_id::EntryId, reply::Entry};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::CorruptEntry;

/// The fields of an event, in their order.
mod field {
    pub(crate) const TYPE: &str = "type";
    pub(crate) const TIMESTAMP: &str = "timestamp";
    pub(crate) const DATA: &str = "data";
    pub(crate) const EVENT_ID: &str = "event_id";
    /// The microseconds within the millisecond of `timestamp`.
    pub(crate) const MICROS: &str = "micros";
    /// For an imported event, the time at which its first store recorded it, in microseconds since 1970.
    pub(crate) const ORIGINAL_RECORDED_AT: &str = "original_recorded_at";
    /// `1` if some fields of the payload are sealed; reserved for a newer release.
    pub(crate) const HAS_SEALED_FIELDS: &str = "has_sealed_fields";
    pub(crate) const SCHEMA_VERSION: &str = "schema_version";
    pub(crate) const CORRELATION_ID: &str = "correlation_id";
    pub(crate) const CAUSATION_ID: &str = "causation_id";
    pub(crate) const ACTOR_ID: &str = "actor_id";
    pub(crate) const ATTRIBUTES: &str = "attributes";
    /// Time of the append in microseconds since 1970; the script that appends the event adds this field.
    pub(crate) const RECORDED_AT: &str = "recorded_at";
    /// The script that assigns the position adds this field.
    pub(crate) const POSITION: &str = "position";

    /// Fields of a pointer, beside `type`.
    pub(crate) const AGGREGATE_TYPE: &str = "aggregate_type";
    pub(crate) const AGGREGATE_ID: &str = "aggregate_id";
    pub(crate) const TENANT_ID: &str = "tenant_id";
    pub(crate) const VERSION: &str = "version";
    /// Bytes of the event, approximately.
    pub(crate) const BYTES: &str = "bytes";
}

/// Returns names and values of the fields of an event, without its recorded time and position.
pub(crate) fn fields(event: &NewEvent) -> Vec<(&'static str, Cow<'_, str>)> {
    let micros = micros_of(event.occurred_at());
    let context = event.context();
    let mut fields: Vec<(&'static str, Cow<'_, str>)> = vec![
        (field::TYPE, event.event_type().as_str().into()),
        (field::TIMESTAMP, micros.div_euclid(1_000).to_string().into()),
        (field::DATA, event.payload().into()),
        (field::EVENT_ID, event.event_id().to_string().into()),
        (field::MICROS, micros.rem_euclid(1_000).to_string().into()),
        (field::SCHEMA_VERSION, event.schema_version().to_string().into()),
    ];
    if let Some(time) = event.original_recorded_at() {
        fields.push((field::ORIGINAL_RECORDED_AT, micros_of(time).to_string().into()));
    }
    if event.correlation_id() != event.event_id().as_uuid() {
        fields.push((field::CORRELATION_ID, event.correlation_id().to_string().into()));
    }
    if let Some(id) = context.causation_id {
        fields.push((field::CAUSATION_ID, id.to_string().into()));
    }
    if let Some(actor) = &context.actor_id {
        fields.push((field::ACTOR_ID, (&**actor).into()));
    }
    if !context.attributes.is_empty() {
        fields.push((field::ATTRIBUTES, context.attributes.as_json().into()));
    }
    fields
}

pub(crate) fn micros_of(time: OffsetDateTime) -> i128 {
    time.unix_timestamp_nanos().div_euclid(1_000)
}

/// Parses microseconds since 1970.
pub(crate) fn parse_micros(text: &str) -> Option<OffsetDateTime> {
    time_of(text.parse().ok()?).ok()
}

pub(crate) fn time_of(micros: i128) -> Result<OffsetDateTime, time::error::ComponentRange> {
    OffsetDateTime::from_unix_timestamp_nanos(micros.saturating_mul(1_000))
}

/// Reads the event of an entry in the stream that `key` names.
pub(crate) fn read(key: &str, stream: &StreamId, entry: Entry) -> Result<RecordedEvent, ReadError> {
    let id = entry.id.clone();
    decode(stream, entry).map_err(|source| CorruptEntry::new(key, &id, source).into())
}

fn decode(stream: &StreamId, entry: Entry) -> Result<RecordedEvent, BoxError> {
    let version = number_of(&entry.id)?;
    let mut fields = FieldReader::from_entry(entry)?;
    let (ms, micros): (i128, i128) = (fields.parsed(field::TIMESTAMP)?, fields.parsed(field::MICROS)?);
    let occurred_at = time_of(ms.saturating_mul(1_000).saturating_add(micros))?;
    let recorded_at = time_of(fields.parsed(field::RECORDED_AT)?)?;
    let original_recorded_at = fields.parsed_optional(field::ORIGINAL_RECORDED_AT)?.map(time_of).transpose()?;
    let event_id = EventId::parse(&fields.text(field::EVENT_ID)?)?;
    let event_type = Name::new("event type", fields.text(field::TYPE)?)?;
    let metadata = Metadata::new(event_id, event_type, stream.clone(), Version::new(version), occurred_at)
        .with_schema_version(fields.parsed::<NonZeroU32>(field::SCHEMA_VERSION)?.get())
        .with_position(Some(Position::new(fields.parsed(field::POSITION)?)))
        .with_recorded_at(Some(recorded_at))
        .with_original_recorded_at(original_recorded_at)
        .with_sealed_fields(fields.optional(field::HAS_SEALED_FIELDS)?.is_some_and(|flag| flag == "1"))
        .with_correlation_id(fields.uuid(field::CORRELATION_ID)?.unwrap_or(event_id.as_uuid()))
        .with_causation_id(fields.uuid(field::CAUSATION_ID)?)
        .with_actor_id(fields.optional(field::ACTOR_ID)?)
        .with_attributes(match fields.optional(field::ATTRIBUTES)? {
            Some(json) => Attributes::parse(&json)?,
            None => Attributes::EMPTY,
        });
    let payload = fields.text(field::DATA)?;
    let trimmed = payload.trim();
    if !(trimmed.starts_with('{') && trimmed.ends_with('}')) {
        return Err("its `data` is not a JSON object".into());
    }
    Ok(RecordedEvent::new(metadata, payload))
}

/// Entry of the feed for an event: the fields to filter by, and the place of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FeedPointer {
    pub(crate) position: u64,
    pub(crate) event_type: Name,
    pub(crate) stream: StreamId,
    pub(crate) version: u64,
    pub(crate) bytes: usize,
}

impl FeedPointer {
    /// Reads an entry of the feed.
    pub(crate) fn read(feed: &str, entry: Entry) -> Result<Self, ReadError> {
        let id = entry.id.clone();
        Self::decode(entry).map_err(|source| CorruptEntry::new(feed, &id, source).into())
    }

    fn decode(entry: Entry) -> Result<Self, BoxError> {
        let position = number_of(&entry.id)?;
        let mut fields = FieldReader::from_entry(entry)?;
        let stream = StreamId::parse(&fields.text(field::AGGREGATE_TYPE)?, &fields.text(field::AGGREGATE_ID)?)?;
        let tenant_id = Some(fields.text(field::TENANT_ID)?).filter(|id| !id.is_empty());
        Ok(Self {
            position,
            event_type: Name::new("event type", fields.text(field::TYPE)?)?,
            stream: stream.with_tenant_id(tenant_id.map(|id| Uuid::try_parse(&id)).transpose()?),
            version: fields.parsed(field::VERSION)?,
            bytes: fields.optional(field::BYTES)?.and_then(|bytes| bytes.parse().ok()).unwrap_or_default(),
        })
    }

    /// Returns `true` if the filter selects the event. No event has tags: it has all tags of an empty set only.
    pub(crate) fn matches(&self, filter: &FeedFilter) -> bool {
        let types = filter.wanted_aggregate_types();
        types.is_none_or(|types| types.contains(self.stream.aggregate_type()))
            && filter.wanted_tags().is_none_or(|sets| sets.iter().any(BTreeSet::is_empty))
            && filter.wanted_event_types().is_none_or(|types| types.contains(&self.event_type))
            && filter.wanted_tenant().is_none_or(|tenant| self.stream.tenant_or_nil() == tenant)
            && filter.wanted_slots().is_none_or(|slots| slots.contains(&self.stream.slot()))
    }
}

/// Parses the id of an entry: a version or a position.
pub(crate) fn number_of(id: &str) -> Result<u64, BoxError> {
    match id.parse::<EntryId>() {
        Ok(EntryId { ms, number: 0 }) if ms > 0 => Ok(ms),
        _ => Err("its id is not one of the store's: a foreign client added it".into()),
    }
}

/// The fields of an entry that are not read yet.
struct FieldReader(Vec<(String, Vec<u8>)>);

impl FieldReader {
    fn from_entry(entry: Entry) -> Result<Self, BoxError> {
        entry.fields.map(Self).ok_or_else(|| "it has no fields".into())
    }

    /// Takes a field that may be absent.
    fn optional(&mut self, name: &str) -> Result<Option<String>, BoxError> {
        let Some((_, value)) = self.0.iter_mut().find(|(found, _)| found == name) else {
            return Ok(None);
        };
        let text = String::from_utf8(std::mem::take(value)).map_err(|_| format!("its `{name}` is not a text"))?;
        Ok(Some(text))
    }

    fn text(&mut self, name: &str) -> Result<String, BoxError> {
        let text = self.optional(name)?;
        text.ok_or_else(|| format!("it has no `{name}`: a foreign client added or changed it").into())
    }

    fn parsed_optional<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, BoxError> {
        let text = self.optional(name)?;
        text.map(|text| text.parse().map_err(|_| format!("its `{name}` is not a valid number").into())).transpose()
    }

    fn parsed<T: std::str::FromStr>(&mut self, name: &str) -> Result<T, BoxError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| format!("its `{name}` is not a valid number").into())
    }

    fn uuid(&mut self, name: &str) -> Result<Option<Uuid>, BoxError> {
        let text = self.optional(name)?;
        text.map(|text| Uuid::try_parse(&text).map_err(|_| format!("its `{name}` is not a UUID").into())).transpose()
    }
}
