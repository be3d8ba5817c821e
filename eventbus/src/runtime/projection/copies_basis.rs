//! The basis of a rebuild's copies: a note beside them, so that a rebuild continues only copies that it would have
//! filled in the same way.

use serde::{Deserialize, Serialize};

use super::note::{TypeVersions, types_of};
use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::{EventStore, Shadow},
    runtime::definition::ProjectionDefinition,
    support::from_json,
};

/// The basis of a rebuild's copies: all that decides their rows, apart from the events.
///
/// Invariant: the note is saved before a rebuild fills copies by it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopiesBasis {
    /// The event types that the process knew.
    types: TypeVersions,
    /// The version of its methods.
    version: u32,
    /// The positions of skipped events.
    skips: Vec<Position>,
    /// Set once a method has failed: at which position, and in which process. A different one may have a mended method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<(Position, String)>,
}

impl CopiesBasis {
    pub(super) fn new(definition: &ProjectionDefinition, skips: &[Position]) -> Self {
        let (types, version) = (types_of(definition.events), definition.version);
        Self { types, version, skips: skips.to_vec(), failed: None }
    }

    /// Returns `true` if a rebuild on the basis `next`, in the process `owner`, makes the same rows of the events up to
    /// `position`. If a method failed in a different process, that holds only if the event is skipped now: otherwise
    /// the method may have been mended, and may make other rows of earlier events, too.
    pub(super) fn is_same_up_to(&self, position: Position, next: &Self, owner: &Name) -> bool {
        let skips = |basis: &Self| basis.skips.iter().filter(|skip| **skip <= position).copied().collect::<Vec<_>>();
        let is_mended = self.failed.as_ref().is_some_and(|(at, of)| **owner != **of && !next.skips.contains(at));
        !is_mended && (&self.types, self.version) == (&next.types, next.version) && skips(self) == skips(next)
    }

    /// Takes over the failure of a method at an event after `position`, which this rebuild has yet to pass.
    pub(super) fn with_failure_of(self, noted: &Self, position: Position) -> Self {
        let failed = noted.failed.clone().filter(|(at, _)| *at > position && !self.skips.contains(at));
        Self { failed, ..self }
    }

    /// Notes that a method of the process `owner` failed at an event.
    pub(super) async fn note_failure(
        store: &dyn EventStore,
        shadow: &Shadow,
        (at, owner): (Position, &Name),
    ) -> Result<(), BoxError> {
        match Self::load(store, shadow).await? {
            Some(noted) => Self { failed: Some((at, owner.to_string())), ..noted }.save(store, shadow).await,
            // a rebuild does not continue copies without a note
            None => Ok(()),
        }
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
