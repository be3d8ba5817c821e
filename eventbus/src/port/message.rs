//! The ids that a bus gives its entries.

use std::sync::Arc;

use serde::Serialize;

use crate::domain::shown;

/// The id of an entry on its bus; on Redis the entry id (`1795157844243-0`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, derive_more::Display)]
pub struct MessageId(#[serde(serialize_with = "shown::display")] Arc<str>);

impl MessageId {
    /// Wraps the bus's own id.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
