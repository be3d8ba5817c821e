//! What event types declared, unique values and tags, when their events were stored: notes in the store, by which the
//! start of an app finds events that were stored before.
//!
//! Invariant: the note of an event type is written while the store has no event of it, or after all that it has were
//! processed. Its text is what each stored event was saved with, unless an older release saves beside.

use std::collections::BTreeSet;

use crate::{
    domain::{event::EventDescriptor, name::Name, unique::UniqueName},
    port::{CheckpointError, EventStore, Notes},
};

/// Something that an event type declares and that each of its events is stored with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declaration {
    UniqueValues,
    Tags,
}

impl Declaration {
    /// Returns what the event type declares, to be compared as a whole; empty if nothing.
    fn text(self, event: &EventDescriptor) -> String {
        let lines: BTreeSet<String> = match self {
            Self::Tags => event.tags.iter().map(|&tag| tag.into()).collect(),
            Self::UniqueValues => {
                let line = |unique: &UniqueName| match (unique.takes, unique.normalized_by) {
                    (false, _) => format!("releases {}", unique.name),
                    (true, "") => unique.name.to_owned(),
                    (true, function) => format!("{} by {function}", unique.name),
                };
                event.unique.iter().map(line).collect()
            }
        };
        lines.into_iter().map(|line| line + "\n").collect()
    }

    fn note_name(self, event_type: &'static str) -> Name {
        let prefix = match self {
            Self::UniqueValues => "unique-values:",
            Self::Tags => "tags:",
        };
        Name::prefixed(prefix, &Name::from_static(event_type))
    }
}

/// Notes that all stored events of these types have what the types declare now.
pub(super) async fn note_current(
    store: &dyn EventStore,
    declaration: Declaration,
    events: &[EventDescriptor],
) -> Result<(), CheckpointError> {
    let Some(notes) = store.notes() else { return Ok(()) };
    for event in events {
        let text = declaration.text(event);
        if !text.is_empty() {
            notes.save_note(&declaration.note_name(event.event_type), &text).await?;
        }
    }
    Ok(())
}

/// Returns `true` if the event was renamed, and the same is noted of each name that it had.
async fn is_noted_by_former_names(
    notes: &dyn Notes,
    declaration: Declaration,
    event: &EventDescriptor,
    text: &str,
) -> Result<bool, CheckpointError> {
    for &former in event.former_types {
        if notes.load_note(&declaration.note_name(former)).await?.is_none_or(|noted| noted != text) {
            return Ok(false);
        }
    }
    Ok(!event.former_types.is_empty())
}

/// Returns the types that have events from before they declared what they declare now; notes it of those that have none.
pub(super) async fn find_outdated(
    store: &dyn EventStore,
    declaration: Declaration,
    events: impl Iterator<Item = &EventDescriptor>,
    is_stored: impl Fn(&EventDescriptor) -> bool,
) -> Result<Vec<&'static str>, CheckpointError> {
    let Some(notes) = store.notes() else { return Ok(Vec::new()) };
    let mut outdated = Vec::new();
    for event in events {
        let (text, name) = (declaration.text(event), declaration.note_name(event.event_type));
        if text.is_empty() || notes.load_note(&name).await?.is_some_and(|noted| noted == text) {
            continue;
        }
        if is_noted_by_former_names(notes, declaration, event, &text).await? {
            notes.save_note(&name, &text).await?;
            continue;
        }
        match is_stored(event) {
            true => outdated.push(event.event_type),
            false => notes.save_note(&name, &text).await?,
        }
    }
    Ok(outdated)
}
