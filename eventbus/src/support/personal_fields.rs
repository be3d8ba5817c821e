//! The personal fields of event types, as applications note them in the store for tools that do not have the types.
//!
//! Invariant: each field of a type is a note of its own, and no release rewrites or deletes one. So releases that run side
//! by side, in whatever order they start, only add fields.

use std::collections::BTreeSet;

use super::note_names;
use crate::{
    domain::{
        error::BoxError,
        event::EventDescriptor,
        name::{InvalidName, Name},
    },
    port::{CheckpointError, EventStore},
};

/// The names of the notes begin with it; event type and field follow, as in `personal:Joined:email`.
const NOTE_PREFIX: &str = "personal:";

/// The fields that applications on a store have declared as personal, in whichever version of an event type, as in
/// `#[event(personal(email))]`.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::{InMemoryEventStore, prelude::*, support::PersonalFields};
///
/// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #[event(aggregate_type = "Member", personal(email))]
/// struct Joined { email: String }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// let store = InMemoryEventStore::new();
/// assert!(PersonalFields::load(&store).await?.is_empty());
/// drop(App::builder().store(store.clone()).start().await?);
/// assert!(PersonalFields::load(&store).await?.of_type("Joined").eq(["email"]));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersonalFields {
    /// The names of the notes.
    notes: BTreeSet<Name>,
}

impl PersonalFields {
    /// Loads the fields that applications have noted in a store so far; a store without notes has none.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
    pub async fn load(store: &dyn EventStore) -> Result<Self, CheckpointError> {
        let Some(notes) = store.notes() else { return Ok(Self::default()) };
        let names = note_names(notes, &Name::from_static(NOTE_PREFIX)).await?;
        Ok(Self { notes: names.into_iter().collect() })
    }

    /// Adds to the notes of a store the personal fields of these events that it lacks, under each name of an event
    /// type.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached; [`InvalidName`], once all other fields are noted, if an event type
    /// and a field are too long together for the name of a note.
    pub(crate) async fn note(
        store: &dyn EventStore,
        events: impl Iterator<Item = &EventDescriptor>,
    ) -> Result<(), BoxError> {
        let declared = events.flat_map(|event| {
            let personal = event.personal;
            event.event_types().flat_map(move |event_type| personal.iter().map(move |&field| (event_type, field)))
        });
        let declared: Vec<(&str, &str)> = declared.collect();
        let Some(notes) = store.notes().filter(|_| !declared.is_empty()) else { return Ok(()) };
        let noted = Self::load(store).await?;
        let mut first_fault = None;
        for (event_type, field) in declared {
            match note_name(event_type, field) {
                Ok(name) if noted.notes.contains(&name) => {}
                Ok(name) => notes.save_note(&name, field).await?,
                Err(fault) => first_fault = first_fault.or(Some(fault)),
            }
        }
        match first_fault {
            Some(fault) => Err(fault.into()),
            None => Ok(()),
        }
    }

    /// Returns the names of the personal fields of an event type.
    pub fn of_type(&self, event_type: &str) -> impl Iterator<Item = &str> {
        let notes = self.notes.iter().filter_map(|note| note.strip_prefix(NOTE_PREFIX));
        notes.filter_map(move |noted| noted.strip_prefix(event_type)?.strip_prefix(':'))
    }

    /// Returns `true` if no application has noted a field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }
}

fn note_name(event_type: &str, field: &str) -> Result<Name, InvalidName> {
    Name::new("note of a personal field", format!("{NOTE_PREFIX}{event_type}:{field}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::event::Source, memory::InMemoryEventStore, port::Notes as _, support::note_names::NOTES_PER_PAGE,
    };

    /// Notes what a release declares of an event that has also a former name.
    async fn start(store: &InMemoryEventStore, personal: &'static [&'static str]) -> Result<(), BoxError> {
        let event = EventDescriptor::new("Joined", "Member", 1, "Joined", Source::new("members.rs", 1, "members"));
        PersonalFields::note(store, [event.formerly(&["Registered"]).with_personal(personal)].iter()).await
    }

    async fn noted(store: &InMemoryEventStore, event_type: &str) -> Vec<String> {
        PersonalFields::load(store).await.unwrap().of_type(event_type).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn releases_that_run_side_by_side_add_fields_and_remove_none() {
        let store = InMemoryEventStore::new();
        start(&store, &[]).await.unwrap();
        assert!(PersonalFields::load(&store).await.unwrap().is_empty());
        let releases: [&'static [&'static str]; 4] = [&["email"], &["phone", "email"], &["email"], &[]];
        for personal in releases {
            start(&store, personal).await.unwrap();
        }
        for name in ["Joined", "Registered"] {
            assert_eq!(noted(&store, name).await, ["email", "phone"], "{name}");
        }
        for name in ["Join", "JoinedTwice", "Left", ""] {
            assert_eq!(noted(&store, name).await, [""; 0], "{name}");
        }
    }

    #[tokio::test]
    async fn a_field_that_is_noted_is_not_written_again() {
        let store = InMemoryEventStore::new();
        let note = Name::from_static("personal:Joined:email");
        store.save_note(&note, "of an earlier start").await.unwrap();
        start(&store, &["phone", "email"]).await.unwrap();
        assert_eq!(store.load_note(&note).await.unwrap().as_deref(), Some("of an earlier start"));
        assert_eq!(noted(&store, "Joined").await, ["email", "phone"]);
    }

    #[tokio::test]
    async fn all_pages_of_notes_are_loaded() {
        let store = InMemoryEventStore::new();
        for number in 0..=NOTES_PER_PAGE {
            store.save_note(&note_name("Joined", &format!("field{number:03}")).unwrap(), "").await.unwrap();
        }
        assert_eq!(noted(&store, "Joined").await.len(), NOTES_PER_PAGE + 1);
    }

    #[tokio::test]
    async fn a_field_without_a_note_is_an_error_and_the_fields_behind_it_are_noted() {
        let store = InMemoryEventStore::new();
        let long: &'static str = "x".repeat(250).leak();
        let error = start(&store, vec![long, "email"].leak()).await.unwrap_err().to_string();
        assert!(error.starts_with("invalid note of a personal field `personal:Joined:xxx"), "{error}");
        assert_eq!(noted(&store, "Joined").await, ["email"]);
    }
}
