//! Notes: texts by name, kept beside the checkpoints.

use async_trait::async_trait;

use super::CheckpointError;
use crate::domain::name::Name;

/// Texts by name, beside the checkpoints: for example the event types that a projection was fed with, or a copy of a
/// dead letter that a bus holds.
#[async_trait]
pub trait Notes: Send + Sync {
    /// Loads the text that was saved last under this name; `None` if there is none, or it was deleted.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError>;

    /// Replaces the text under this name.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; the former text may still stand.
    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError>;

    /// Deletes the text under this name; a missing text is no error.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; the text may be deleted all the same.
    async fn delete_note(&self, name: &Name) -> Result<(), CheckpointError>;

    /// Returns up to `limit` names that begin with `prefix` and have a text, in the order of their bytes. `after` is
    /// the last name of the former page.
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
