//! Projections as the linker finds them.

use super::AnyProjection;
use crate::runtime::definition::ProjectionDefinition;

/// A projection, registered at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct ProjectionRegistration {
    /// The definition, from the attribute and the methods.
    pub definition: fn() -> ProjectionDefinition,
    /// Makes the default instance, if the projection has one.
    pub instance: fn() -> Option<AnyProjection>,
}

impl ProjectionRegistration {
    /// Registers a projection; `instance` holds its default instance, if it has one.
    #[must_use]
    pub const fn new(definition: fn() -> ProjectionDefinition, instance: fn() -> Option<AnyProjection>) -> Self {
        Self { definition, instance }
    }
}

inventory::collect!(ProjectionRegistration);
