//! The event types that a store holds, listed by the appends that stored them.
//!
//! Invariant: an append lists a type in the step that stores its event, so that no type is missing; a process does not
//! list a type again that it knows to be listed, so that appends cost what they did.

use std::{
    collections::HashMap,
    fmt,
    sync::{PoisonError, RwLock},
};

use async_trait::async_trait;
use serde::Serialize;

use super::ReadError;
use crate::domain::{name::Name, record::NewEvent, shown, stream::Position};

/// An event type that a store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredEventType {
    /// The wire name.
    #[serde(serialize_with = "shown::display")]
    pub event_type: Name,
    /// The highest schema version that was appended.
    pub schema_version: u32,
    /// The position of the first listed event of the type.
    pub first_position: Position,
}

impl fmt::Display for StoredEventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event_type, schema_version, first_position } = self;
        write!(f, "`{event_type}` (version {schema_version}, first at position {first_position})")
    }
}

/// The list of the event types that a store holds, for callers that do not read its events.
///
/// An append lists the types of its events, in the transaction or script that stores them: once for each type and
/// process, and again for a higher schema version. Types of which a release before this table stored the last event are
/// not listed: no scan fills the table.
///
/// Implementations must pass the event-store suite of `eventbus::testkit`.
#[async_trait]
pub trait EventTypes: Send + Sync {
    /// Loads the listed event types, sorted by name, each once.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached, [`ReadError::Corrupt`] if a row cannot be read.
    async fn stored_event_types(&self) -> Result<Vec<StoredEventType>, ReadError>;
}

/// The event types that this process knows to be listed in its store, so that no append lists them again.
///
/// # Examples
/// ```
/// use eventbus::{Name, NewEvent, port::ListedEventTypes};
///
/// let listed = ListedEventTypes::default();
/// let deposited = NewEvent::new(Name::from_static("Deposited"), 2, "{}");
/// assert!(!listed.has(&deposited));
/// listed.add(deposited.event_type(), 2); // once the append is committed
/// assert!(listed.has(&deposited));
/// assert!(!listed.has(&NewEvent::new(Name::from_static("Deposited"), 3, "{}")));
/// ```
#[derive(Debug, Default)]
pub struct ListedEventTypes(RwLock<HashMap<Name, u32>>);

impl ListedEventTypes {
    /// Returns `true` if the type of `event` is listed with its schema version, or a higher one.
    #[must_use]
    pub fn has(&self, event: &NewEvent) -> bool {
        let listed = self.0.read().unwrap_or_else(PoisonError::into_inner);
        listed.get(event.event_type()).is_some_and(|&version| version >= event.schema_version())
    }

    /// Returns `true` if [`has`](Self::has) does for each of `events`.
    #[must_use]
    pub fn has_all<'e>(&self, events: impl IntoIterator<Item = &'e NewEvent>) -> bool {
        events.into_iter().all(|event| self.has(event))
    }

    /// Adds a listed type; call it only after the commit of the transaction that listed it.
    pub fn add(&self, event_type: &Name, schema_version: u32) {
        let mut listed = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = listed.entry(event_type.clone()).or_default();
        *known = schema_version.max(*known);
    }

    /// Adds the types of events whose append is committed.
    pub fn add_all<'e>(&self, events: impl IntoIterator<Item = &'e NewEvent>) {
        for event in events {
            if !self.has(event) {
                self.add(event.event_type(), event.schema_version());
            }
        }
    }

    /// Forgets all types, after the store has lost data and perhaps the list.
    pub fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
