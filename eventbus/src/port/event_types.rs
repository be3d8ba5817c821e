//! The event types that a store holds, listed by the appends that stored them.
//!
//! Invariant: an append lists a type in the step that stores its event, so no type is missing. A process does not list
//! a type again that it knows to be listed, so these appends cost no more.

use async_trait::async_trait;
use serde::Serialize;

use super::ReadError;
use crate::domain::{name::Name, shown, stream::Position};

/// An event type that a store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, derive_more::Display)]
#[display("`{event_type}` (version {schema_version}, first at position {first_position})")]
pub struct StoredEventType {
    /// The wire name.
    #[serde(serialize_with = "shown::display")]
    pub event_type: Name,
    /// The highest schema version that was appended.
    pub schema_version: u32,
    /// The position of the first listed event of the type.
    pub first_position: Position,
}

/// The list of the event types that a store holds, for callers that do not read its events.
///
/// An append lists the types of its events, in the transaction or script that stores them: once for each type and
/// process, and again for a higher schema version. A type is not listed if all its events were stored by a release
/// before this table: no scan fills the table.
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
