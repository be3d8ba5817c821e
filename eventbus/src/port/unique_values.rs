//! Unique values: which stream holds an email address, a name, a number.
//!
//! Invariant: among the streams of an aggregate type and a tenant, at most one holds a value of a name, and that stream
//! has the event that took it. The commit that stores an event takes and gives back the values that the event says.

use std::sync::Arc;

use async_trait::async_trait;
use auto_impl::auto_impl;

use super::{AppendError, ReadError};
use crate::domain::{
    name::Name,
    stream::{StreamId, Version, known_tenant},
    unique::UniqueChange,
};
use uuid::Uuid;

/// A unique value with the scope in which it is compared: a tenant, an aggregate type and a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, derive_more::Debug)]
#[debug("UniqueKey({aggregate_type}.{name})")]
pub struct UniqueKey {
    tenant_id: Option<Uuid>,
    aggregate_type: Name,
    name: Name,
    value: Arc<str>,
}

impl UniqueKey {
    /// Creates the key of a value that is normalized already.
    pub fn new(tenant_id: Option<Uuid>, aggregate_type: Name, name: Name, value: impl Into<Arc<str>>) -> Self {
        Self { tenant_id: known_tenant(tenant_id), aggregate_type, name, value: value.into() }
    }

    /// Returns the key of the value that a change takes for a stream; `None` if it takes none.
    pub fn taken_by(stream: &StreamId, change: &UniqueChange) -> Option<Self> {
        let value = change.value()?;
        Some(Self::new(stream.tenant_id(), stream.aggregate_type().clone(), change.name().clone(), value))
    }

    /// The type of the aggregates.
    #[must_use]
    pub const fn aggregate_type(&self) -> &Name {
        &self.aggregate_type
    }

    /// The tenant of the streams.
    #[must_use]
    pub const fn tenant_id(&self) -> Option<Uuid> {
        self.tenant_id
    }

    /// The tenant as stores keep it: the nil UUID for none.
    #[must_use]
    pub fn tenant_or_nil(&self) -> Uuid {
        self.tenant_id.unwrap_or(Uuid::nil())
    }

    /// The scope within which the value is unique, as stores name it: `User.email`.
    #[must_use]
    pub fn scope(&self) -> String {
        unique_scope(&self.aggregate_type, &self.name)
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

/// Returns the scope within which the values of a name are unique, as stores name it: `User.email`.
#[must_use]
pub fn unique_scope(aggregate_type: &Name, name: &Name) -> String {
    format!("{aggregate_type}.{name}")
}

/// The unique values that the streams of a store hold.
///
/// | the append | effect |
/// |---|---|
/// | takes a value that no stream, or its own one, holds | the stream holds it, and no longer its former one |
/// | takes a value that a different stream holds | none; [`AppendError::Taken`] |
/// | gives a value back | the stream holds none |
/// | is a repeat | none, whatever the streams hold since |
/// | is to several streams, and one gives back what a second one takes | both |
///
/// If an append changes one name several times, the last change counts.
#[async_trait]
#[auto_impl(Arc)]
pub trait UniqueValues: Send + Sync {
    /// Returns the stream that holds a value; `None` also for a value that no stream can hold.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    async fn find_holder(&self, key: &UniqueKey) -> Result<Option<StreamId>, ReadError>;

    /// Takes and gives back values for a stream whose events are stored already, if it is at `version`.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] if the stream is at another version; [`AppendError::Taken`] if another stream holds a
    /// value; else as for [`append`](super::AppendEvents::append).
    async fn assign(&self, stream: &StreamId, version: Version, changes: &[UniqueChange]) -> Result<(), AppendError>;
}
