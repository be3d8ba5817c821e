//! Projections as the linker finds them.

use super::ProjectionSlot;
use crate::runtime::definition::ProjectionDefinition;

/// A projection, registered at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct ProjectionRegistration {
    pub(crate) definition: fn() -> ProjectionDefinition,
    pub(crate) slot: fn() -> Option<ProjectionSlot>,
}

impl ProjectionRegistration {
    /// Registers a projection; `slot` holds its default instance, if it has one.
    #[must_use]
    pub const fn new(
        definition: fn() -> ProjectionDefinition,
        slot: fn() -> Option<ProjectionSlot>,
    ) -> Self {
        Self { definition, slot }
    }
}

inventory::collect!(ProjectionRegistration);
