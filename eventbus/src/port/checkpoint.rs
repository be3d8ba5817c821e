//! Checkpoints: the position of each reader in a store's feed.

use async_trait::async_trait;
use auto_impl::auto_impl;

use crate::domain::{error::BoxError, name::Name, stream::Position};

/// The checkpoints of the readers of a feed, by name.
///
/// A checkpoint is the last position fully handled; its reader resumes after it. Names are durable.
#[async_trait]
#[auto_impl(Arc)]
pub trait Checkpoints: Send + Sync {
    /// Loads the last position that `name` has fully handled; `None` if it was never saved.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError>;

    /// Loads the checkpoint of each name, in order, as [`load_checkpoint`](Self::load_checkpoint) does, if possible in
    /// one request. The provided body loads one after the other.
    ///
    /// # Errors
    /// [`CheckpointError`], with one of the names, if the store cannot be reached.
    async fn load_checkpoints(&self, names: &[Name]) -> Result<Vec<Option<Position>>, CheckpointError> {
        let mut positions = Vec::with_capacity(names.len());
        for name in names {
            positions.push(self.load_checkpoint(name).await?);
        }
        Ok(positions)
    }

    /// Saves that `name` has fully handled all events up to `position`. Overwrites the checkpoint, also with a lower
    /// one.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; the former checkpoint may still stand.
    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError>;

    /// Deletes the checkpoint of `name`, a reader that no release has any more; a missing checkpoint is no error.
    /// The lease and the note of that name stay.
    ///
    /// A reader that still runs may save its checkpoint again: hold its lease meanwhile.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; the checkpoint may be deleted all the same.
    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError>;
}

/// The error of reading or writing a checkpoint, or other progress of a reader.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint `{name}` is unavailable")]
#[non_exhaustive]
pub struct CheckpointError {
    /// The name of the checkpoint.
    pub name: Name,
    /// The error of the store.
    pub source: BoxError,
}

impl CheckpointError {
    /// Wraps the error of the store.
    pub fn new(name: &Name, source: impl Into<BoxError>) -> Self {
        Self { name: name.clone(), source: source.into() }
    }
}
