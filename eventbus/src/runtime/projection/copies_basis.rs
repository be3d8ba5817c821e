//! What the copies of a rebuild are made by: a note beside them, so that a rebuild continues only copies that it would have
//! filled in the same way.

use serde::{Deserialize, Serialize};

use super::fed_types::FedTypes;
use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::{EventStore, Shadow},
    support::from_json,
};

/// What the copies of a rebuild are made by.
///
/// Invariant: the note is saved before a rebuild fills copies by it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopiesBasis {
    /// The event types that the process knew.
    types: FedTypes,
    /// The positions of skipped events.
    skips: Vec<Position>,
}

impl CopiesBasis {
    pub(super) fn new(types: FedTypes, skips: &[Position]) -> Self {
        Self { types, skips: skips.to_vec() }
    }

    /// Returns `true` if both make the same rows of the events up to `position`.
    pub(super) fn is_same_up_to(&self, position: Position, other: &Self) -> bool {
        let skips = |basis: &Self| basis.skips.iter().filter(|skip| **skip <= position).copied().collect::<Vec<_>>();
        self.types == other.types && skips(self) == skips(other)
    }

    /// Loads the note about copies; `None` if there is none, or a release has written it that this one does not read.
    pub(super) async fn load(store: &dyn EventStore, shadow: &Shadow) -> Result<Option<Self>, BoxError> {
        let Some(notes) = store.notes() else { return Ok(None) };
        let noted = notes.load_note(&note_name(shadow)).await?;
        Ok(noted.and_then(|text| from_json(&text).ok()))
    }

    pub(super) async fn save(&self, store: &dyn EventStore, shadow: &Shadow) -> Result<(), BoxError> {
        if let Some(notes) = store.notes() {
            notes.save_note(&note_name(shadow), &serde_json::to_string(self)?).await?;
        }
        Ok(())
    }
}

fn note_name(shadow: &Shadow) -> Name {
    shadow.name.joined(":", "basis")
}
