//! What the keeper of a checkpoint notes beside it.

use async_trait::async_trait;

use super::CheckpointError;
use crate::domain::name::Name;

/// Keeps a text beside each checkpoint: what a projection was fed with, for one.
#[async_trait]
pub trait Notes: Send + Sync {
    /// The text that was saved last under this name; `None` if none ever was.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError>;

    /// Replaces the text under this name.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; the former text may still stand.
    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError>;
}
