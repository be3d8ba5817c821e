//! Projections as the linker finds them.

use super::ProjectionSlot;
use crate::runtime::definition::ProjectionDefinition;

/// A projection, registered at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct ProjectionRegistration {
    /// What the annotation and the methods say.
    pub definition: fn() -> ProjectionDefinition,
    /// Makes the default instance, if there is one.
    pub slot: fn() -> Option<ProjectionSlot>,
}

impl ProjectionRegistration {
    /// Registers a projection; `slot` holds its default instance, if it has one.
    #[must_use]
    pub const fn new(definition: fn() -> ProjectionDefinition, slot: fn() -> Option<ProjectionSlot>) -> Self {
        Self { definition, slot }
    }
}

inventory::collect!(ProjectionRegistration);
