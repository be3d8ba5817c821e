//! The metadata of an event: all of it but its own fields, the payload.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    attributes::Attributes,
    clock::SharedClock,
    name::Name,
    shown,
    stream::{AggregateId, Position, StreamId, Version},
};

/// The identity of one event within its stream: made once, the same in every retry. Consumers deduplicate by stream and
/// id.
///
/// A UUIDv7 unless the caller gives one. An import should derive its ids from the imported data (UUIDv5).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    derive_more::Display,
    derive_more::From,
)]
#[serde(transparent)]
#[must_use]
pub struct EventId(Uuid);

impl EventId {
    /// Makes a new id.
    #[allow(clippy::new_without_default, reason = "each call makes another id; a default would suggest one value")]
    pub fn new() -> Self {
        Self(SharedClock::SYSTEM.new_id())
    }

    /// Reads an id from text, in any of the forms a UUID is written in.
    ///
    /// # Errors
    /// [`InvalidUuid`] if `text` is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidUuid> {
        parse_uuid("event id", text).map(Self)
    }

    /// The id as a UUID.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

/// A text that should have been a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} `{value}`: not a UUID")]
#[non_exhaustive]
pub struct InvalidUuid {
    /// The kind of id: `event id`, `tenant id`, …
    pub what: &'static str,
    /// Its first 40 characters, control characters escaped.
    pub value: String,
}

/// Reads a UUID that is called `what` in errors (`"tenant id"`).
///
/// # Errors
/// [`InvalidUuid`] if `text` is not a UUID.
pub fn parse_uuid(what: &'static str, text: &str) -> Result<Uuid, InvalidUuid> {
    Uuid::try_parse(text)
        .map_err(|_| InvalidUuid { what, value: text.chars().take(40).flat_map(char::escape_debug).collect() })
}

/// The metadata of an event: all of it but its own fields, the payload.
///
/// Handlers and projections take it as `&Metadata`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[must_use]
pub struct Metadata {
    event_id: EventId,
    #[serde(serialize_with = "shown::display")]
    event_type: Name,
    schema_version: u32,
    #[serde(flatten)]
    stream: StreamId,
    version: Version,
    position: Option<Position>,
    #[serde(serialize_with = "shown::moment")]
    occurred_at: OffsetDateTime,
    #[serde(skip)]
    occurred_at_as_written: Option<Box<str>>,
    #[serde(serialize_with = "shown::time")]
    pub(super) recorded_at: Option<OffsetDateTime>,
    #[serde(serialize_with = "shown::time")]
    original_recorded_at: Option<OffsetDateTime>,
    has_sealed_fields: bool,
    correlation_id: Uuid,
    causation_id: Option<Uuid>,
    actor_id: Option<Box<str>>,
    #[serde(rename = "metadata", serialize_with = "shown::json")]
    pub(super) attributes: Attributes,
}

impl Metadata {
    /// Creates the metadata of an event that a backend reads: schema version 1, no position, a conversation of its own.
    pub fn new(
        event_id: EventId,
        event_type: Name,
        stream: StreamId,
        version: Version,
        occurred_at: OffsetDateTime,
    ) -> Self {
        Self {
            event_id,
            event_type,
            schema_version: 1,
            stream,
            version,
            position: None,
            occurred_at,
            occurred_at_as_written: None,
            recorded_at: None,
            original_recorded_at: None,
            has_sealed_fields: false,
            correlation_id: event_id.as_uuid(),
            causation_id: None,
            actor_id: None,
            attributes: Attributes::EMPTY,
        }
    }

    /// Sets the version of the payload's shape.
    pub fn with_schema_version(self, schema_version: u32) -> Self {
        Self { schema_version, ..self }
    }

    /// Keeps the time of the event as a foreign publisher wrote it, if not in UTC; a bus passes it on in that form.
    pub fn with_occurred_at_as_written(self, text: Option<Box<str>>) -> Self {
        Self { occurred_at_as_written: text, ..self }
    }

    /// The time of the event as a foreign publisher wrote it: with an offset, or without a zone, which
    /// [`occurred_at`](Self::occurred_at) takes as UTC. `None` if it is written in UTC.
    #[must_use]
    pub fn occurred_at_as_written(&self) -> Option<&str> {
        self.occurred_at_as_written.as_deref()
    }

    /// Sets the place in the store's total order.
    pub fn with_position(self, position: Option<Position>) -> Self {
        Self { position, ..self }
    }

    /// Sets when the store appended the event.
    pub fn with_recorded_at(self, recorded_at: Option<OffsetDateTime>) -> Self {
        Self { recorded_at, ..self }
    }

    /// Sets when another store recorded the event, if it was imported from there.
    pub fn with_original_recorded_at(self, original_recorded_at: Option<OffsetDateTime>) -> Self {
        Self { original_recorded_at, ..self }
    }

    /// Marks the personal fields of the event as sealed, or as plain.
    pub fn with_sealed_fields(self, has_sealed_fields: bool) -> Self {
        Self { has_sealed_fields, ..self }
    }

    /// Sets the conversation.
    pub fn with_correlation_id(self, correlation_id: Uuid) -> Self {
        Self { correlation_id, ..self }
    }

    /// Sets the direct cause.
    pub fn with_causation_id(self, causation_id: Option<Uuid>) -> Self {
        Self { causation_id, ..self }
    }

    /// Sets the actor that caused the event.
    pub fn with_actor_id(self, actor_id: Option<impl Into<Box<str>>>) -> Self {
        Self { actor_id: actor_id.map(Into::into), ..self }
    }

    /// Sets the attached object.
    pub fn with_attributes(self, attributes: Attributes) -> Self {
        Self { attributes, ..self }
    }

    /// The identity of the event.
    pub const fn event_id(&self) -> EventId {
        self.event_id
    }

    /// The durable wire name: `OrderCreated`.
    #[must_use]
    pub const fn event_type(&self) -> &Name {
        &self.event_type
    }

    /// The version of the payload's shape, from 1.
    #[must_use]
    pub const fn schema_version(&self) -> u32 {
        self.schema_version
    }

    /// The stream the event belongs to.
    pub const fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// The type of the aggregate: `Order`.
    #[must_use]
    pub const fn aggregate_type(&self) -> &Name {
        self.stream.aggregate_type()
    }

    /// The id of the aggregate.
    #[must_use]
    pub const fn aggregate_id(&self) -> &AggregateId {
        self.stream.aggregate_id()
    }

    /// The place in the stream, from 1.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The place in the store's total order; `None` for an event that no store of ours holds.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.position
    }

    /// When the event happened, UTC, in whole microseconds.
    #[must_use]
    pub const fn occurred_at(&self) -> OffsetDateTime {
        self.occurred_at
    }

    /// When the store appended the event, UTC, in whole microseconds: by the clock of the server (`PgEventStore`) or of
    /// the process that appended it (all other stores). Of an imported event it is the time of the import.
    ///
    /// Along one stream it never decreases: if the clock was set back, the store takes the time of the stream's
    /// previous event instead. Along the whole feed it follows the clocks, and may decrease.
    ///
    /// Every store keeps it and every bus carries it. `None` for an event that was published without a store, or by
    /// the Python library.
    #[must_use]
    pub const fn recorded_at(&self) -> Option<OffsetDateTime> {
        self.recorded_at
    }

    /// When another store recorded the event, UTC, in whole microseconds, if it was imported from there with
    /// [`NewEvent::with_original_recorded_at`](crate::NewEvent::with_original_recorded_at).
    #[must_use]
    pub const fn original_recorded_at(&self) -> Option<OffsetDateTime> {
        self.original_recorded_at
    }

    /// Returns `true` if some fields of the payload are sealed: encrypted, because they are personal.
    ///
    /// Reserved: this release seals no fields and opens none. It stores and carries such events of a newer release
    /// unchanged, and [does not decode](crate::event::DecodeError::SealedFields) them.
    #[must_use]
    pub const fn has_sealed_fields(&self) -> bool {
        self.has_sealed_fields
    }

    /// The conversation the event belongs to.
    #[must_use]
    pub const fn correlation_id(&self) -> Uuid {
        self.correlation_id
    }

    /// The event that directly caused this one.
    #[must_use]
    pub const fn causation_id(&self) -> Option<Uuid> {
        self.causation_id
    }

    /// The tenant that the event's [stream](Self::stream) belongs to.
    #[must_use]
    pub const fn tenant_id(&self) -> Option<Uuid> {
        self.stream.tenant_id()
    }

    /// The actor that caused the event.
    #[must_use]
    pub fn actor_id(&self) -> Option<&str> {
        self.actor_id.as_deref()
    }

    /// The object that the application attached.
    #[must_use]
    pub const fn attributes(&self) -> &Attributes {
        &self.attributes
    }
}
