//! How far someone has come in a store's feed.

use async_trait::async_trait;

use crate::domain::{error::BoxError, name::Name, stream::Position};

/// Keeps how far each reader of a feed has come.
///
/// A checkpoint is the last position fully handled; its reader resumes after it. Names are durable.
#[async_trait]
pub trait Checkpoints: Send + Sync {
    /// The last position that `name` has fully handled; `None` if it was never saved.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError>;

    /// Says that `name` has fully handled everything up to `position`. Overwrites, also with a lower position.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; the former checkpoint may still stand.
    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError>;
}

/// A checkpoint that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint `{name}` is unavailable")]
#[non_exhaustive]
pub struct CheckpointError {
    /// Whose checkpoint.
    pub name: Name,
    /// What the store said.
    pub source: BoxError,
}

impl CheckpointError {
    /// Wraps what the store said.
    pub fn new(name: &Name, source: impl Into<BoxError>) -> Self {
        Self { name: name.clone(), source: source.into() }
    }
}

__delegate!(<C> Arc<C>, self => (**self); Checkpoints);
