//! The model of an event or of a set of events: the parsed attribute and item.

use syn::{Ident, Path, Type};

/// An item with `#[derive(DomainEvent)]`.
pub(super) struct Model {
    pub(super) krate: Path,
    pub(super) ident: Ident,
    pub(super) kind: Kind,
}

/// The two kinds of items.
pub(super) enum Kind {
    /// A struct: one event.
    Event(Event),
    /// An enum: one of several events.
    Set(Vec<Member>),
}

/// One event.
pub(super) struct Event {
    pub(super) event_type: String,
    /// Its earlier wire names.
    pub(super) former_types: Vec<String>,
    /// One upcaster for each earlier version, from 1; empty if stored fields of all versions fit the struct.
    pub(super) upcasters: Vec<Upcaster>,
    pub(super) schema_version: u32,
    pub(super) aggregate: Aggregate,
    /// The unique values that it takes and gives back.
    pub(super) unique: Vec<Unique>,
    /// Its tags.
    pub(super) tags: Vec<Tag>,
    /// The names of its fields with personal data.
    pub(super) personal: Vec<String>,
    /// `struct Emptied;`, whose payload is an empty object.
    pub(super) is_unit: bool,
}

/// The aggregate that an event belongs to.
pub(super) enum Aggregate {
    /// The type of the aggregate, which must list the event.
    Type(Path),
    /// The name of an aggregate in a different crate.
    Name(String),
    /// Missing or invalid; already reported.
    Unknown,
}

/// A unique value.
pub(super) struct Unique {
    /// Its name within the aggregate type.
    pub(super) name: Ident,
    /// The function that turns values which count as one into equal values.
    pub(super) normalize: Option<Path>,
    pub(super) source: UniqueSource,
}

/// A tag.
pub(super) struct Tag {
    pub(super) name: Ident,
    /// The field with the tag's value, or `event_type`.
    pub(super) field: Ident,
}

/// The source of a unique value.
pub(super) enum UniqueSource {
    /// A field of the event.
    Field(Ident),
    /// None: the event gives the value back.
    Nothing,
}

/// The step from one version to the next.
pub(super) enum Upcaster {
    /// A struct with the fields of the version, which converts into the input of the next version.
    Struct(Path),
    /// A function that changes the fields.
    Function(Path),
    /// The fields fit the next version as they are.
    Unchanged,
}

/// A variant that holds an event.
pub(super) struct Member {
    pub(super) variant: Ident,
    pub(super) event: Type,
}
