//! Floors: how far the consumer groups of a bus have finished, kept where the bus cannot lose it.

use async_trait::async_trait;
use serde::Serialize;

use super::CheckpointError;
use crate::domain::{name::Name, shown, stream::Position};

/// How far a consumer group of a bus has finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Floor {
    /// The consumer group.
    #[serde(serialize_with = "shown::display")]
    pub group: Name,
    /// Everything up to here is read and acknowledged by the group.
    pub position: Position,
}

/// Keeps the floors of the groups that consume what a store's relay publishes.
///
/// A bus that lost its data is filled again from the lowest of them. A group that has one is a known group.
#[async_trait]
pub trait Floors: Send + Sync {
    /// The floors of all known groups of a bus, sorted by group.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the destination, if the store cannot be reached.
    async fn floors(&self, destination: &Name) -> Result<Vec<Floor>, CheckpointError>;

    /// Overwrites these floors, also by lower positions; those of other groups stay.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the destination, if the store cannot be reached; the former ones may still stand.
    async fn save_floors(&self, destination: &Name, floors: &[Floor]) -> Result<(), CheckpointError>;

    /// Forgets a group, so that nothing is kept or published again for it. One that is not known is no error.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the destination, if the store cannot be reached.
    async fn forget_floor(&self, destination: &Name, group: &Name) -> Result<(), CheckpointError>;
}

__delegate!(<F> Arc<F>, self => (**self); Floors);
