//! The unique values and tags that event types declared when their events were stored: notes in the store, by which the
//! start of an app finds events that were stored before.
//!
//! Invariant: the note of an event type is written while the store has no event of it, or after all that it has were
//! processed, and is deleted once a program that may save such events declares differently. Its text is what each stored
//! event was saved with, unless an older release saves beside.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domain::{event::EventDescriptor, name::Name, unique::UniqueName},
    port::{CheckpointError, EventStore, Notes},
    support::note_names,
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

    const fn note_prefix(self) -> &'static str {
        match self {
            Self::UniqueValues => "unique-values:",
            Self::Tags => "tags:",
        }
    }

    fn note_name(self, event_type: &'static str) -> Name {
        Name::prefixed(self.note_prefix(), &Name::from_static(event_type))
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

/// Deletes the note of each type, under any of its names, that differs from what the type declares now. This program saves
/// events by its own declaration, so a later release with the former one must warn of them.
pub(super) async fn forget_changed(
    store: &dyn EventStore,
    declaration: Declaration,
    events: impl Iterator<Item = &EventDescriptor>,
) -> Result<(), CheckpointError> {
    let Some(notes) = store.notes() else { return Ok(()) };
    let mut declared = BTreeMap::new();
    for event in events {
        let text = declaration.text(event);
        declared.extend(event.event_types().map(|event_type| (declaration.note_name(event_type), text.clone())));
    }
    for name in note_names(notes, &Name::from_static(declaration.note_prefix())).await? {
        if let Some(text) = declared.get(&name)
            && notes.load_note(&name).await?.is_some_and(|noted| noted != *text)
        {
            notes.delete_note(&name).await?;
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

/// Returns the types that have events from before their present declaration; notes the declaration of all other types.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::event::Source, memory::InMemoryEventStore};

    /// Returns `true` if the start of a release that declares these tags finds stored events from before they were declared.
    async fn is_outdated(store: &InMemoryEventStore, tags: &'static [&'static str], is_stored: bool) -> bool {
        let source = Source::new("courses.rs", 1, "courses");
        let events = [EventDescriptor::new("Enrolled", "Course", 1, "Enrolled", source).with_tags(tags)];
        forget_changed(store, Declaration::Tags, events.iter()).await.unwrap();
        !find_outdated(store, Declaration::Tags, events.iter(), |_| is_stored).await.unwrap().is_empty()
    }

    #[tokio::test]
    async fn stored_events_may_lack_tags_that_a_release_between_did_not_declare() {
        let between: [&'static [&'static str]; 2] = [&[], &["teacher"]];
        for tags in between {
            let store = InMemoryEventStore::new();
            assert!(!is_outdated(&store, &["student"], false).await);
            assert!(!is_outdated(&store, &["student"], true).await, "all were saved with the tag");
            is_outdated(&store, tags, true).await;
            assert!(is_outdated(&store, &["student"], true).await, "after {tags:?}");
        }
    }
}
