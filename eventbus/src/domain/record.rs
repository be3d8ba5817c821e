//! Events before append, after append and decoded, and the traits of the types that hold their fields.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    attributes::Attributes,
    clock::SharedClock,
    codec::{Codec, DecodeError, EncodeError, EncodeFault, EventFields},
    context::{Cause, EventContext},
    event::{EventDescriptor, EventFilter},
    fields::Fields,
    metadata::{EventId, Metadata},
    name::Name,
    shown,
    stream::{AggregateId, Position, StreamId, Version, known_tenant},
    tag::{self, TAGS_MAX, Tag},
    unique::UniqueChange,
    upcast::UpcastFault,
    validity::{self, BackendKind, EventFault, InvalidEvent, check_payload, check_texts, check_version},
};

/// An event before append: encoded, with its id, without a place in a stream yet.
#[derive(Debug, Clone)]
#[must_use]
pub struct NewEvent {
    event_id: EventId,
    event_type: Name,
    schema_version: u32,
    occurred_at: OffsetDateTime,
    original_recorded_at: Option<OffsetDateTime>,
    payload: Arc<str>,
    /// Set if the encoder has checked the payload.
    is_checked: bool,
    context: EventContext,
    unique: Vec<UniqueChange>,
    /// Sorted, each once.
    tags: Vec<Tag>,
}

impl NewEvent {
    /// Wraps an encoded payload: a JSON object of the event's own fields. Makes the id and takes the time.
    ///
    /// For code that has only the wire form; [`NewEvent::from_event`] encodes typed events. Every store
    /// [checks](Self::check) the event before it appends.
    pub fn new(event_type: Name, schema_version: u32, payload: impl Into<Arc<str>>) -> Self {
        let (event_id, now) = (SharedClock::SYSTEM.new_id().into(), SharedClock::SYSTEM.now());
        Self::at(event_type, schema_version, payload.into(), event_id, now)
    }

    fn at(
        event_type: Name,
        schema_version: u32,
        payload: Arc<str>,
        event_id: EventId,
        occurred_at: OffsetDateTime,
    ) -> Self {
        Self {
            event_id,
            event_type,
            schema_version,
            occurred_at: to_kept_time(occurred_at),
            original_recorded_at: None,
            payload,
            is_checked: false,
            context: EventContext::default(),
            unique: Vec::new(),
            tags: Vec::new(),
        }
    }

    /// Encodes a typed event.
    ///
    /// # Errors
    /// [`EncodeError`] if its fields cannot be written as a JSON object, would not read back, or one is named like a
    /// field of the wire's envelope.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{NewEvent, prelude::*};
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate_type = "Account")]
    /// struct Deposited { cents: u64 }
    ///
    /// let event = NewEvent::from_event(&Deposited { cents: 120 })?;
    /// assert_eq!(event.payload(), r#"{"cents":120}"#);
    /// # Ok::<(), eventbus::event::EncodeError>(())
    /// ```
    pub fn from_event<E: DomainEvent>(event: &E) -> Result<Self, EncodeError> {
        event.encode()
    }

    /// Uses this id: a store recognizes a repeated append by the same ids.
    pub fn with_event_id(self, event_id: EventId) -> Self {
        Self { event_id, ..self }
    }

    /// Sets when the event happened, kept to the microsecond; within the years 1 to 9999.
    pub fn with_occurred_at(self, occurred_at: OffsetDateTime) -> Self {
        Self { occurred_at: to_kept_time(occurred_at), ..self }
    }

    /// Sets when another store recorded an event that is imported from there; kept to the microsecond, within the years
    /// 1 to 9999. The [recorded time](Metadata::recorded_at) is then the time of the import.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId, port::AppendEvents};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// let long_ago = time::macros::datetime!(2019-05-17 08:30 UTC);
    /// let imported = NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#)
    ///     .with_occurred_at(long_ago)
    ///     .with_original_recorded_at(long_ago);
    /// let account = StreamId::parse("Account", "4711")?;
    /// let recorded = InMemoryEventStore::new().append(&account, ExpectedVersion::NoStream, vec![imported]).await?;
    /// let metadata = recorded[0].metadata();
    /// assert_eq!(metadata.original_recorded_at(), Some(long_ago));
    /// assert!(metadata.recorded_at() > Some(long_ago));
    /// # Ok(()) }
    /// ```
    pub fn with_original_recorded_at(self, original_recorded_at: OffsetDateTime) -> Self {
        Self { original_recorded_at: Some(to_kept_time(original_recorded_at)), ..self }
    }

    /// Sets on whose behalf, and because of what, the event is saved.
    pub fn with_context(self, context: EventContext) -> Self {
        Self { context, ..self }
    }

    /// Sets the changes that the event makes to the unique values of its stream: the store takes the values, and gives
    /// them back, in the commit that appends the event. [`from_event`](Self::from_event) sets them by the event's
    /// attribute, `#[event(unique(email))]`.
    pub fn with_unique(self, unique: Vec<UniqueChange>) -> Self {
        Self { unique, ..self }
    }

    /// The changes that the event makes to the unique values of its stream.
    #[must_use]
    pub fn unique(&self) -> &[UniqueChange] {
        &self.unique
    }

    /// Sets the tags: what the event is about. A decision about such a tag reads the event, and decides again if the
    /// event is appended meanwhile. [`from_event`](Self::from_event) sets them by the event's attribute,
    /// `#[event(tags(course, student))]`.
    pub fn with_tags(self, tags: impl IntoIterator<Item = Tag>) -> Self {
        Self { tags: tag::sorted(tags), ..self }
    }

    /// The tags of the event, sorted.
    #[must_use]
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// The identity of the event.
    pub const fn event_id(&self) -> EventId {
        self.event_id
    }

    /// The durable wire name.
    #[must_use]
    pub const fn event_type(&self) -> &Name {
        &self.event_type
    }

    /// The version of the payload's shape, from 1.
    #[must_use]
    pub const fn schema_version(&self) -> u32 {
        self.schema_version
    }

    /// When the event happened.
    #[must_use]
    pub const fn occurred_at(&self) -> OffsetDateTime {
        self.occurred_at
    }

    /// When another store recorded the event, if it is imported from there.
    #[must_use]
    pub const fn original_recorded_at(&self) -> Option<OffsetDateTime> {
        self.original_recorded_at
    }

    /// The event's own fields: a JSON object.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// On whose behalf, and because of what, the event is saved.
    pub const fn context(&self) -> &EventContext {
        &self.context
    }

    /// The conversation: the given one, or else one that begins with this event.
    #[must_use]
    pub fn correlation_id(&self) -> Uuid {
        self.context.correlation_id.unwrap_or(self.event_id.as_uuid())
    }

    /// Checks that every store can keep the event, and every bus carry it.
    ///
    /// # Errors
    /// [`InvalidEvent`] with the first fault, see [`EventFault`](crate::event::EventFault).
    ///
    /// # Examples
    /// ```
    /// use eventbus::{event::EventFault, Name, NewEvent};
    /// let event = |payload| NewEvent::new(Name::from_static("Deposited"), 1, payload);
    /// assert!(event(r#"{"cents":120}"#).check().is_ok());
    /// let invalid = event(r#"{"cents":120,"aggregate_id":"another"}"#).check().unwrap_err();
    /// assert_eq!(invalid.fault, EventFault::ReservedField("aggregate_id"));
    /// ```
    pub fn check(&self) -> Result<(), InvalidEvent> {
        self.invalid_unless(self.check_parts())
    }

    /// Checks the event as [`check`](Self::check) does, and that its context names no tenant but the tenant of
    /// `stream`; stores call it before they append.
    ///
    /// # Errors
    /// [`InvalidEvent`] with the first fault.
    pub fn check_for(&self, stream: &StreamId) -> Result<(), InvalidEvent> {
        let (named, of_stream) = (known_tenant(self.context.tenant_id), stream.tenant_id());
        let tenant = match named {
            Some(named) if of_stream != Some(named) => Err(EventFault::OtherTenant { named, of_stream }),
            _ => Ok(()),
        };
        self.invalid_unless(tenant.and_then(|()| self.check_parts()))
    }

    fn invalid_unless(&self, checked: Result<(), EventFault>) -> Result<(), InvalidEvent> {
        checked.map_err(|fault| InvalidEvent { event_id: self.event_id, event_type: self.event_type.clone(), fault })
    }

    fn check_parts(&self) -> Result<(), EventFault> {
        let parts = validity::EventParts {
            schema_version: self.schema_version,
            occurred_at: self.occurred_at,
            recorded_at: None,
            original_recorded_at: self.original_recorded_at,
            actor_id: self.context.actor_id.as_deref(),
            attributes: self.context.attributes.as_json(),
        };
        let payload = || if self.is_checked { Ok(()) } else { check_payload(&self.payload, BackendKind::Store) };
        if self.tags.len() > TAGS_MAX {
            return Err(EventFault::Tags { found: self.tags.len() });
        }
        parts.check(BackendKind::Store).and_then(|()| payload())
    }

    /// Gives the event its place in a stream; stores call it when they append.
    ///
    /// Without a position it returns an event to publish without a store. A stream of no tenant gets the tenant of the
    /// context.
    #[must_use]
    pub fn recorded_as(self, stream: StreamId, version: Version, position: Option<Position>) -> RecordedEvent {
        let correlation_id = self.correlation_id();
        let context = self.context;
        let tenant_id = stream.tenant_id().or(context.tenant_id);
        let stream = stream.with_tenant_id(tenant_id);
        let metadata = Metadata::new(self.event_id, self.event_type, stream, version, self.occurred_at)
            .with_schema_version(self.schema_version)
            .with_position(position)
            .with_original_recorded_at(self.original_recorded_at)
            .with_correlation_id(correlation_id)
            .with_causation_id(context.causation_id)
            .with_actor_id(context.actor_id)
            .with_attributes(context.attributes);
        RecordedEvent(Arc::new(Recorded { metadata, payload: self.payload, is_checked: self.is_checked, slot: None }))
    }
}

/// Returns a time as every store keeps it: in UTC, in whole microseconds.
fn to_kept_time(time: OffsetDateTime) -> OffsetDateTime {
    // `check` refuses a time that UTC cannot express
    let utc = time.checked_to_offset(time::UtcOffset::UTC).unwrap_or(time);
    utc.replace_nanosecond(utc.nanosecond() / 1_000 * 1_000).unwrap_or(utc)
}

/// An event after append: its metadata and its own fields, not decoded. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct RecordedEvent(Arc<Recorded>);

#[derive(Debug, Clone, Serialize)]
struct Recorded {
    #[serde(flatten)]
    metadata: Metadata,
    #[serde(serialize_with = "shown::json")]
    payload: Arc<str>,
    /// Set if the payload has been checked in this process: when it was encoded, or read by a bus.
    #[serde(skip)]
    is_checked: bool,
    /// The slot of the stream, if the store chooses it; else it is that of [`StreamId::slot`].
    #[serde(skip)]
    slot: Option<u8>,
}

impl Cause for Recorded {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl RecordedEvent {
    /// Returns the event as the cause of what a handler saves.
    pub(crate) fn cause(&self) -> Arc<dyn Cause> {
        Arc::clone(&self.0) as Arc<dyn Cause>
    }

    /// Makes the record of an event that a backend read; `payload` is the JSON object of the event's own fields.
    #[must_use]
    pub fn new(metadata: Metadata, payload: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(Recorded { metadata, payload: payload.into(), is_checked: false, slot: None }))
    }

    /// Makes the record of an event that a bus read, and [checks](Self::check) it. The caller knows that `payload` is
    /// the object of the event's own fields: valid JSON without a [reserved field](crate::event::RESERVED_FIELDS).
    ///
    /// # Errors
    /// As [`check`](Self::check).
    #[doc(hidden)]
    pub fn from_parsed(metadata: Metadata, payload: impl Into<Arc<str>>) -> Result<Self, InvalidEvent> {
        let event = Self(Arc::new(Recorded { metadata, payload: payload.into(), is_checked: true, slot: None }));
        event.check_with(|payload| check_texts(payload, BackendKind::Bus).map_err(EventFault::Payload))?;
        Ok(event)
    }

    /// Returns the slot of its stream, from 0 to 255, by which the shards of handlers share the streams of a store: that of
    /// [`StreamId::slot`], unless the store has [set](Self::with_slot) another one.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{Name, NewEvent, StreamId, Version};
    /// let order = StreamId::parse("Order", "1")?;
    /// let event = NewEvent::new(Name::from_static("OrderCreated"), 1, "{}").recorded_as(order.clone(), Version::FIRST, None);
    /// assert_eq!(event.slot(), order.slot());
    /// # Ok::<(), eventbus::event::InvalidName>(())
    /// ```
    #[must_use]
    pub fn slot(&self) -> u8 {
        self.0.slot.unwrap_or_else(|| self.metadata().stream().slot())
    }

    /// Sets the slot of the stream, for a store that derives it from its own number of the stream.
    #[doc(hidden)]
    #[must_use]
    pub fn with_slot(mut self, slot: u8) -> Self {
        Arc::make_mut(&mut self.0).slot = Some(slot); // copies nothing where the record was just made
        self
    }

    /// Sets the position that the store gave the event, where it is known only after [`NewEvent::recorded_as`].
    #[must_use]
    pub fn with_position(mut self, position: Option<Position>) -> Self {
        let recorded = Arc::make_mut(&mut self.0);
        recorded.metadata = recorded.metadata.clone().with_position(position);
        self
    }

    /// Sets when the store appended the event; stores call it after [`NewEvent::recorded_as`].
    #[must_use]
    pub fn with_recorded_at(mut self, recorded_at: Option<OffsetDateTime>) -> Self {
        Arc::make_mut(&mut self.0).metadata.recorded_at = recorded_at; // copies nothing where the record was just made
        self
    }

    /// Replaces the attributes.
    #[doc(hidden)]
    #[must_use]
    pub fn with_attributes(mut self, attributes: Attributes) -> Self {
        Arc::make_mut(&mut self.0).metadata.attributes = attributes; // copies nothing where the record was just made
        self
    }

    /// Encodes an event to publish without a store.
    ///
    /// # Errors
    /// [`EncodeError`] as for [`NewEvent::from_event`].
    ///
    /// # Examples
    /// ```
    /// use eventbus::{RecordedEvent, Version, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate_type = "Account")]
    /// # struct Deposited { cents: u64 }
    /// let record = RecordedEvent::from_event(&Deposited { cents: 120 }, AggregateId::new(), Version::FIRST)?;
    /// assert_eq!(record.metadata().event_type(), "Deposited");
    /// # Ok::<(), eventbus::event::EncodeError>(())
    /// ```
    pub fn from_event<E: DomainEvent>(
        event: &E,
        aggregate_id: AggregateId,
        version: Version,
    ) -> Result<Self, EncodeError> {
        let stream = StreamId::new(Name::from_static(E::AGGREGATE_TYPE), aggregate_id);
        Ok(NewEvent::from_event(event)?.recorded_as(stream, version, None))
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The event's own fields: a JSON object, as it was given at save.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.0.payload
    }

    /// The parts of the event that decoding needs.
    #[must_use]
    pub fn fields(&self) -> EventFields<'_> {
        let metadata = self.metadata();
        EventFields {
            event_type: metadata.event_type(),
            schema_version: metadata.schema_version(),
            has_sealed_fields: metadata.has_sealed_fields(),
            payload: self.payload(),
        }
    }

    /// The durable wire name.
    #[must_use]
    pub fn event_type(&self) -> &Name {
        self.metadata().event_type()
    }

    /// The place in the store's total order, if a store of ours holds the event.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.metadata().position()
    }

    /// The place in the stream.
    #[must_use]
    pub fn version(&self) -> Version {
        self.metadata().version()
    }

    /// Checks that every bus can carry the event; buses call it before they publish, and when they read. Unlike for a
    /// [store](NewEvent::check), payload and attributes may hold null characters, as events from Python do.
    ///
    /// # Errors
    /// [`InvalidEvent`] with the first fault, see [`EventFault`](crate::event::EventFault).
    pub fn check(&self) -> Result<(), InvalidEvent> {
        let is_checked = self.0.is_checked;
        self.check_with(|payload| if is_checked { Ok(()) } else { check_payload(payload, BackendKind::Bus) })
    }

    fn check_with(&self, check_payload: impl FnOnce(&str) -> Result<(), EventFault>) -> Result<(), InvalidEvent> {
        let metadata = self.metadata();
        let parts = validity::EventParts {
            schema_version: metadata.schema_version(),
            occurred_at: metadata.occurred_at(),
            recorded_at: metadata.recorded_at(),
            original_recorded_at: metadata.original_recorded_at(),
            actor_id: metadata.actor_id(),
            attributes: metadata.attributes().as_json(),
        };
        let checked = check_version(metadata.version()).and_then(|()| parts.check(BackendKind::Bus));
        let checked = checked.and_then(|()| check_payload(self.payload()));
        checked.map_err(|fault| InvalidEvent {
            event_id: metadata.event_id(),
            event_type: metadata.event_type().clone(),
            fault,
        })
    }

    /// Decodes the event.
    ///
    /// # Errors
    /// [`DecodeError::UnknownType`] if it is not one of `E`, [`DecodeError::NewerVersion`] if a newer release wrote it,
    /// [`DecodeError::Payload`] if its fields do not fit, [`DecodeError::Upcast`] if an upcaster refuses them,
    /// [`DecodeError::SealedFields`] if some of them are sealed.
    pub fn decode<E: EventSet>(&self) -> Result<E, DecodeError> {
        E::decode(self)
    }
}

/// Writes an event with all its metadata, payload and attributes as JSON: for operators. Stores and buses have formats
/// of their own.
impl Serialize for RecordedEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl PartialEq for RecordedEvent {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.metadata() == other.metadata() && self.payload() == other.payload())
    }
}

/// A decoded event together with its metadata; derefs to the event.
#[derive(Debug, Clone, derive_more::Deref)]
pub struct Envelope<E> {
    #[deref]
    event: E,
    record: RecordedEvent,
}

impl<E> Envelope<E> {
    /// Joins an event and its record.
    pub(crate) const fn new(event: E, record: RecordedEvent) -> Self {
        Self { event, record }
    }

    /// The event.
    #[must_use]
    pub const fn event(&self) -> &E {
        &self.event
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        self.record.metadata()
    }
}

/// Events that a handler, a projection method or a subscriber can request.
///
/// An event struct requests itself. An enum of events (an aggregate's `OrderEvent`, or your own with
/// `#[derive(DomainEvent)]`) requests each of them, [`Envelope<E>`] requests `E` with its metadata, and
/// [`RecordedEvent`] every event of every type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "an event is a struct or an enum of events with `#[derive(DomainEvent)]`, an aggregate's generated `..Event` enum, an `Envelope` of those, or `RecordedEvent` for every type",
    note = "a handler or projection method takes the event first, and `&Metadata` and everything else after it; helpers of a projection stand in another `impl` block",
    note = "a closure for `subscribe` takes its event by value: `async |event: OrderCreated| ..`"
)]
pub trait EventSet: Sized + Send + Sync + 'static {
    /// The requested types.
    const EVENTS: EventFilter;

    /// Decodes an event without its metadata; `None` if it needs them.
    #[doc(hidden)]
    const DECODE_FIELDS: Option<DecodeFields<Self>> = None;

    /// Decodes a recorded event.
    ///
    /// # Errors
    /// [`DecodeError::UnknownType`] if it is none of the requested types, [`DecodeError::NewerVersion`] if a newer
    /// release wrote it, [`DecodeError::Payload`] if its fields do not fit, [`DecodeError::Upcast`] if an upcaster
    /// refuses them, [`DecodeError::SealedFields`] if some of them are sealed.
    fn decode(record: &RecordedEvent) -> Result<Self, DecodeError>;
}

/// As [`EventSet::decode`], from the fields of an event alone.
#[doc(hidden)]
pub type DecodeFields<E> = fn(EventFields<'_>) -> Result<E, DecodeError>;

/// The events of a fold: an aggregate or a decision decodes them without their metadata.
#[doc(hidden)]
pub trait FoldedEvent: EventSet {
    /// As [`EventSet::decode`].
    ///
    /// # Errors
    /// As for [`EventSet::decode`].
    fn decode_fields(event: EventFields<'_>) -> Result<Self, DecodeError>;
}

impl EventSet for RecordedEvent {
    const EVENTS: EventFilter = EventFilter::All;

    fn decode(record: &RecordedEvent) -> Result<Self, DecodeError> {
        Ok(record.clone())
    }
}

impl<E: EventSet> EventSet for Envelope<E> {
    const EVENTS: EventFilter = E::EVENTS;

    fn decode(record: &RecordedEvent) -> Result<Self, DecodeError> {
        Ok(Self::new(E::decode(record)?, record.clone()))
    }
}

/// A value that can be appended: an event, or an enum of events.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "derive it: `#[derive(Serialize, Deserialize, DomainEvent)]`"
)]
pub trait EncodeEvent {
    /// Encodes the event and gives it an id and a time.
    ///
    /// # Errors
    /// [`EncodeError`] if its fields cannot be written as a JSON object, would not read back, or one is named like a
    /// field of the wire's envelope.
    fn encode(&self) -> Result<NewEvent, EncodeError> {
        self.encode_as(SharedClock::SYSTEM.new_id().into(), SharedClock::SYSTEM.now())
    }

    /// Encodes the event with this id and this time of occurrence.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode).
    fn encode_as(&self, event_id: EventId, occurred_at: OffsetDateTime) -> Result<NewEvent, EncodeError>;
}

/// A past-tense fact with a durable name; made by `#[derive(DomainEvent)]` on a struct.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event struct",
    note = "derive it: `#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]` and `#[event(aggregate = ..)]`"
)]
pub trait DomainEvent: EventSet + EncodeEvent {
    /// The durable wire name: the struct's name unless `#[event(type = "..")]` says otherwise.
    const EVENT_TYPE: &'static str;
    /// The version of the payload's shape, from 1.
    const SCHEMA_VERSION: u32;
    /// The type of the aggregate it belongs to.
    const AGGREGATE_TYPE: &'static str;
    #[doc(hidden)]
    const CODEC: Codec<Self>;
    #[doc(hidden)]
    const DESCRIPTOR: EventDescriptor;
}

/// The body of a derived `EventSet::decode` for a struct.
#[doc(hidden)]
pub fn decode_one<E: DomainEvent>(record: &RecordedEvent) -> Result<E, DecodeError> {
    decode_one_fields(record.fields())
}

/// The derived `EventSet::DECODE_FIELDS` of a struct.
#[doc(hidden)]
pub fn decode_one_fields<E: DomainEvent>(event: EventFields<'_>) -> Result<E, DecodeError> {
    if E::DESCRIPTOR.is_named(event.event_type) { E::CODEC.decode(event) } else { Err(unknown::<E>(event.event_type)) }
}

/// The body of a derived `EncodeEvent::encode` for a struct.
#[doc(hidden)]
pub fn encode_one<E: DomainEvent>(
    event: &E,
    event_id: EventId,
    occurred_at: OffsetDateTime,
) -> Result<NewEvent, EncodeError> {
    encode_with(&E::DESCRIPTOR, &E::CODEC, event, event_id, occurred_at)
}

/// One arm of a derived `FoldedEvent::decode_fields`.
#[doc(hidden)]
pub fn decode_with<E>(codec: &Codec<E>, event: EventFields<'_>) -> Result<E, DecodeError> {
    codec.decode(event)
}

/// One arm of a derived `EncodeEvent::encode` for an enum.
#[doc(hidden)]
pub fn encode_with<E>(
    descriptor: &EventDescriptor,
    codec: &Codec<E>,
    event: &E,
    event_id: EventId,
    occurred_at: OffsetDateTime,
) -> Result<NewEvent, EncodeError> {
    let event_type = descriptor.event_type;
    let payload = codec.encode(event_type, event)?;
    let encoded = NewEvent {
        is_checked: true,
        ..NewEvent::at(Name::from_static(event_type), descriptor.schema_version, payload.into(), event_id, occurred_at)
    };
    if descriptor.unique.is_empty() && descriptor.tags.is_empty() {
        return Ok(encoded);
    }
    let refuse = |reason| EncodeError { event_type, reason };
    let tags = descriptor.tags.iter().zip(codec.tag_values(event));
    let tags = tags.flat_map(|(name, values)| values.into_iter().map(|value| Tag::new(name, &value)));
    let tags = tags.collect::<Result<Vec<_>, _>>().map_err(|fault| refuse(EncodeFault::Tag(fault)))?;
    let unique = descriptor.unique.iter().zip(codec.unique_values(event));
    let unique = unique.map(|(declared, value)| {
        let value = value.map(|value| (declared.normalize)(&value));
        UniqueChange::new(Name::from_static(declared.name), value)
    });
    let unique = unique.collect::<Result<_, _>>().map_err(|fault| refuse(EncodeFault::UniqueValue(fault)))?;
    Ok(encoded.with_unique(unique).with_tags(tags))
}

/// The last link of a derived chain of upcasters: reads changed fields as the event itself.
#[doc(hidden)]
pub fn read_current<E: DomainEvent>(fields: &Fields) -> Result<E, UpcastFault> {
    let decoded = fields.to_json().and_then(|json| E::CODEC.decode_current(&json));
    decoded.map_err(|source| UpcastFault::Payload { rust_type: std::any::type_name::<E>(), source })
}

/// The error of a derived `EventSet::decode` when no type fits.
#[doc(hidden)]
pub fn unknown<E: EventSet>(event_type: &Name) -> DecodeError {
    DecodeError::UnknownType { event_type: event_type.clone(), known: E::EVENTS.event_types() }
}
