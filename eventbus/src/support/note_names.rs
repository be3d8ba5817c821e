//! The names of a store's notes, page by page.

use crate::{
    domain::name::Name,
    port::{CheckpointError, Notes},
};

/// The number of names that one request lists.
pub(crate) const NOTES_PER_PAGE: usize = 500;

/// Loads the names of all notes that begin with `prefix`, in the order of their bytes.
pub(crate) async fn note_names(notes: &dyn Notes, prefix: &Name) -> Result<Vec<Name>, CheckpointError> {
    let mut names = Vec::new();
    loop {
        let page = notes.list_note_names(prefix, names.last(), NOTES_PER_PAGE).await?;
        if page.is_empty() {
            return Ok(names);
        }
        names.extend(page);
    }
}
