//! Events, and the sets of events that code requests.

use super::{
    codec::{Codec, DecodeError, EncodeError},
    record::{Envelope, NewEvent, RecordedEvent},
};

/// One event type as the registry and the start-up checks see it; a constant of every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventDescriptor {
    /// The durable wire name: `OrderCreated`.
    pub event_type: &'static str,
    /// The type of the aggregate it belongs to: `Order`.
    pub aggregate_type: &'static str,
    /// The version of the payload's shape, from 1.
    pub schema_version: u32,
    /// The path of the Rust type.
    pub rust_type: &'static str,
    /// Where the type is declared.
    pub source: Source,
}

impl EventDescriptor {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        event_type: &'static str,
        aggregate_type: &'static str,
        schema_version: u32,
        rust_type: &'static str,
        source: Source,
    ) -> Self {
        Self { event_type, aggregate_type, schema_version, rust_type, source }
    }
}

/// A place in the source code, for start-up messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Source {
    /// The file, as the compiler saw it.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
}

impl Source {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(file: &'static str, line: u32) -> Self {
        Self { file, line }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The events that a handler, a projection or a subscriber requests.
#[derive(Debug, Clone, Copy)]
pub enum EventFilter {
    /// Events of every type.
    All,
    /// These types only.
    Only(&'static [EventDescriptor]),
}

impl EventFilter {
    /// Returns `true` if it requests events of this wire name.
    #[must_use]
    pub fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(events) => events.iter().any(|event| event.event_type == event_type),
        }
    }

    /// The requested types; empty for [`EventFilter::All`].
    #[must_use]
    pub const fn descriptors(&self) -> &'static [EventDescriptor] {
        match self {
            Self::All => &[],
            Self::Only(events) => events,
        }
    }

    /// The requested wire names, sorted; empty for [`EventFilter::All`].
    #[must_use]
    pub fn event_types(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.descriptors().iter().map(|event| event.event_type).collect();
        names.sort_unstable();
        names
    }

    /// Returns the number of types that all `filters` request together; used while compiling projections.
    #[doc(hidden)]
    #[must_use]
    pub const fn count(filters: &[Self]) -> usize {
        let (mut total, mut i) = (0, 0);
        while i < filters.len() {
            total += filters[i].descriptors().len();
            i += 1;
        }
        total
    }

    /// Returns the types that all `filters` request together; `N` is their [`count`](Self::count).
    #[doc(hidden)]
    #[must_use]
    pub const fn collect<const N: usize>(filters: &[Self]) -> [EventDescriptor; N] {
        let mut all = [EventDescriptor::new("", "", 1, "", Source::new("", 0)); N];
        let (mut next, mut i) = (0, 0);
        while i < filters.len() {
            let events = filters[i].descriptors();
            let mut j = 0;
            while j < events.len() {
                all[next] = events[j];
                next += 1;
                j += 1;
            }
            i += 1;
        }
        all
    }

    /// Returns the union of `filters`, whose types are `all`; [`EventFilter::All`] if one of them is.
    #[doc(hidden)]
    #[must_use]
    pub const fn union(filters: &[Self], all: &'static [EventDescriptor]) -> Self {
        let mut i = 0;
        while i < filters.len() {
            if matches!(filters[i], Self::All) {
                return Self::All;
            }
            i += 1;
        }
        Self::Only(all)
    }

    /// Returns `true` if both may request the same event; used while compiling projections.
    #[doc(hidden)]
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        let (Self::Only(mine), Self::Only(theirs)) = (self, other) else {
            return true;
        };
        let mut i = 0;
        while i < mine.len() {
            let mut j = 0;
            while j < theirs.len() {
                if same_text(mine[i].event_type, theirs[j].event_type) {
                    return true;
                }
                j += 1;
            }
            i += 1;
        }
        false
    }

    /// Returns `true` if no earlier event has the wire name of the event at `index`; used while compiling aggregates.
    #[doc(hidden)]
    #[must_use]
    pub const fn is_first(&self, index: usize) -> bool {
        let Self::Only(events) = self else {
            return true;
        };
        let mut i = 0;
        while i < index {
            if same_text(events[i].event_type, events[index].event_type) {
                return false;
            }
            i += 1;
        }
        true
    }
}

/// Returns `true` if two texts are equal; usable in constants.
#[doc(hidden)]
#[must_use]
pub(crate) const fn same_text(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Events that a handler, a projection method or a subscriber can request.
///
/// An event struct requests itself; an enum of events (an aggregate's `OrderEvent`, or your own with
/// `#[derive(DomainEvent)]`) any of them; [`Envelope<E>`] `E` with its metadata; [`RecordedEvent`] every event of every
/// type.
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

    /// Decodes a recorded event.
    ///
    /// # Errors
    /// [`DecodeError::UnknownType`] if it is none of the requested types, [`DecodeError::Payload`] if its fields do not
    /// fit.
    fn decode(record: &RecordedEvent) -> Result<Self, DecodeError>;
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
    fn encode(&self) -> Result<NewEvent, EncodeError>;
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

/// Returns `true` if an event that names the aggregate `named` belongs to `aggregate`; an event whose derive failed
/// names none, and counts as belonging.
#[doc(hidden)]
#[must_use]
pub const fn belongs_to(named: &str, aggregate: &str) -> bool {
    named.is_empty() || same_text(named, aggregate)
}

/// The body of a derived `EventSet::decode` for a struct.
#[doc(hidden)]
pub fn decode_one<E: DomainEvent>(record: &RecordedEvent) -> Result<E, DecodeError> {
    if record.event_type() == E::EVENT_TYPE {
        E::CODEC.decode(record.event_type(), record.payload())
    } else {
        Err(unknown::<E>(record))
    }
}

/// The body of a derived `EncodeEvent::encode` for a struct.
#[doc(hidden)]
pub fn encode_one<E: DomainEvent>(event: &E) -> Result<NewEvent, EncodeError> {
    encode_with(&E::DESCRIPTOR, &E::CODEC, event)
}

/// One arm of a derived `EventSet::decode` for an enum.
#[doc(hidden)]
pub fn decode_with<E>(codec: &Codec<E>, record: &RecordedEvent) -> Result<E, DecodeError> {
    codec.decode(record.event_type(), record.payload())
}

/// One arm of a derived `EncodeEvent::encode` for an enum.
#[doc(hidden)]
pub fn encode_with<E>(descriptor: &EventDescriptor, codec: &Codec<E>, event: &E) -> Result<NewEvent, EncodeError> {
    let payload = codec.encode(descriptor.event_type, event)?;
    Ok(NewEvent::encoded(super::name::Name::from_static(descriptor.event_type), descriptor.schema_version, payload))
}

/// The error of a derived `EventSet::decode` when no type fits.
#[doc(hidden)]
pub fn unknown<E: EventSet>(record: &RecordedEvent) -> DecodeError {
    DecodeError::UnknownType { event_type: record.event_type().clone(), known: E::EVENTS.event_types() }
}
