//! What the keeper of a checkpoint notes beside it.

use async_trait::async_trait;

use super::CheckpointError;
use crate::domain::name::Name;

/// Keeps texts by name, beside the checkpoints: what a projection was fed with, for one, or a copy of a dead letter that a
/// bus holds.
#[async_trait]
pub trait Notes: Send + Sync {
    /// The text that was saved last under this name; `None` if none ever was, or it was removed.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError>;

    /// Replaces the text under this name.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; the former text may still stand.
    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError>;

    /// Removes the text under this name; that there is none is no error.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; the text may be removed all the same.
    async fn delete_note(&self, name: &Name) -> Result<(), CheckpointError>;

    /// Up to `limit` names under which a text is saved and that begin with `prefix`, in the order of their bytes. `after`
    /// is the last name of the former page.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the prefix, if the store cannot be reached.
    async fn list_note_names(
        &self,
        prefix: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Name>, CheckpointError>;
}
