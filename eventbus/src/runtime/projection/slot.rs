//! A projection whose type is forgotten, as the app keeps it.

use std::{any::Any, fmt, sync::Arc};

use crate::runtime::definition::{Projection, ProjectionDefinition};

/// A projection whose type is forgotten, as the app keeps it.
#[doc(hidden)]
#[derive(Clone)]
pub struct ProjectionSlot {
    definition: ProjectionDefinition,
    projection: Arc<dyn Any + Send + Sync>,
}

impl ProjectionSlot {
    /// A slot with the default instance of `P`, if it has one.
    #[must_use]
    pub fn with_default<P: Projection>(factory: Option<fn() -> P>) -> Option<Self> {
        factory.map(|make| Self {
            definition: P::definition(),
            projection: Arc::new(make()),
        })
    }
}

impl fmt::Debug for ProjectionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.definition.fmt(f)
    }
}
