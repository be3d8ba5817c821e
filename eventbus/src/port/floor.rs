//! Floors: the low-water marks of the consumer groups of a bus, kept in the store, where the bus cannot lose them.

use async_trait::async_trait;
use auto_impl::auto_impl;
use serde::Serialize;

use super::CheckpointError;
use crate::domain::{name::Name, shown, stream::Position};

/// The low-water mark of a consumer group of a bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Floor {
    /// The consumer group.
    #[serde(serialize_with = "shown::display")]
    pub group: Name,
    /// The group has read and acknowledged every event up to here.
    pub position: Position,
}

/// The floors of the groups that consume the events published by a store's relay.
///
/// If the bus loses its data, the relay publishes again from the lowest floor. A group that has a floor is a known
/// group.
#[async_trait]
#[auto_impl(Arc)]
pub trait Floors: Send + Sync {
    /// Returns the floors of all known groups of a bus, sorted by group.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the destination, if the store cannot be reached.
    async fn floors(&self, destination: &Name) -> Result<Vec<Floor>, CheckpointError>;

    /// Overwrites these floors, also by lower positions; the floors of other groups stay.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the destination, if the store cannot be reached; the former floors may still
    /// stand.
    async fn save_floors(&self, destination: &Name, floors: &[Floor]) -> Result<(), CheckpointError>;

    /// Removes the floor of a group, so that no event is kept or published again for it. An unknown group is no error.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the destination, if the store cannot be reached.
    async fn forget_floor(&self, destination: &Name, group: &Name) -> Result<(), CheckpointError>;
}
