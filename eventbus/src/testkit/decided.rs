//! The outcome of a decided command: then these events, or an error.
//!
//! Invariant: events are compared as a save would write them.

use std::fmt::Debug;

use super::event_diff::{EventLines, diff};
use crate::domain::{
    aggregate::IntoEvents,
    codec::EventFields,
    record::{EncodeEvent, FoldedEvent},
};

/// The subject of a test, which decides commands and then has the events that it recorded: an aggregate with its
/// events, or a decision.
#[doc(hidden)]
pub trait Decides {
    type Recorded: EncodeEvent;

    /// Returns the name of the subject for the texts of failures.
    fn name(&self) -> &'static str;

    /// Adds recorded events to the given ones.
    ///
    /// # Panics
    /// If the subject cannot decode an event that it reads.
    #[track_caller]
    fn extend(&mut self, recorded: Vec<Self::Recorded>);
}

/// Returns the events of a list, in order.
pub(super) fn collect<E>(events: impl IntoEvents<E>) -> Vec<E> {
    let mut collected = Vec::new();
    events.into_events(&mut collected);
    collected
}

/// Returns events as a load reads them after a save: without the fields that their JSON does not keep.
///
/// # Panics
/// If a save would refuse an event, or no load could read it.
#[track_caller]
pub(super) fn to_loaded<E: EncodeEvent + FoldedEvent>(events: &[E]) -> Vec<E> {
    let mut loaded = Vec::with_capacity(events.len());
    for event in events {
        let saved = match event.encode() {
            Ok(saved) => saved,
            Err(error) => panic!("an event of the test cannot be saved: {error}"),
        };
        let fields = EventFields {
            event_type: saved.event_type(),
            schema_version: saved.schema_version(),
            has_sealed_fields: false,
            payload: saved.payload(),
        };
        match E::decode_fields(fields) {
            Ok(event) => loaded.push(event),
            Err(error) => panic!("an event of the test cannot be read: {error}"),
        }
    }
    loaded
}

/// A decided command; the test compares its outcome.
#[derive(derive_more::Debug)]
#[must_use = "the outcome is compared by `then`, `then_nothing` or `then_error`"]
pub struct Decided<G: Decides, X> {
    given: G,
    outcome: Result<Vec<G::Recorded>, X>,
}

impl<G: Decides, X> Decided<G, X> {
    pub(super) const fn new(given: G, outcome: Result<Vec<G::Recorded>, X>) -> Self {
        Self { given, outcome }
    }

    /// Expects exactly these events, in this order, and adds them to the given ones for the next command.
    ///
    /// # Panics
    /// If the command was refused or recorded other events; the message shows the differences, field by field:
    ///
    /// ```text
    /// `Order` recorded other events than expected (- expected, + recorded, > first difference):
    ///     ParcelShipped
    ///       carrier: "DHL"
    /// > -   tracking_number: "T-1"
    ///   +   tracking_number: "T-2"
    /// ```
    ///
    /// Also if a decision cannot decode a recorded event of a type that it lists.
    #[track_caller]
    pub fn then(self, expected: impl IntoEvents<G::Recorded>) -> G
    where
        X: Debug,
    {
        let name = self.given.name();
        let expected = EventLines::of_all(&collect(expected));
        let recorded = match self.outcome {
            Ok(recorded) => recorded,
            Err(error) => match diff(&expected, &[]) {
                Some(lines) => panic!("`{name}` refused with {error:?}, expected events:\n{lines}"),
                None => panic!("`{name}` refused with {error:?}, expected it to accept"),
            },
        };
        if let Some(lines) = diff(&expected, &EventLines::of_all(&recorded)) {
            panic!(
                "`{name}` recorded other events than expected (- expected, + recorded, > first difference):\n{lines}"
            );
        }
        let mut given = self.given;
        given.extend(recorded);
        given
    }

    /// Expects that the command was accepted and recorded no event.
    ///
    /// # Panics
    /// As [`then`](Self::then).
    #[track_caller]
    pub fn then_nothing(self) -> G
    where
        X: Debug,
    {
        self.then(())
    }

    /// Expects that the command was refused with an error for which `is_expected` returns `true`; the given events stay
    /// as they are for the next command.
    ///
    /// # Panics
    /// If the command was accepted: the message shows the events that it recorded. If the error is a different one: the
    /// message shows the error.
    #[track_caller]
    pub fn then_error(self, is_expected: impl FnOnce(&X) -> bool) -> G
    where
        X: Debug,
    {
        let name = self.given.name();
        match self.outcome {
            Err(error) if is_expected(&error) => self.given,
            Err(error) => panic!("`{name}` refused with another error than expected: {error:?}"),
            Ok(recorded) => match diff(&[], &EventLines::of_all(&recorded)) {
                Some(lines) => panic!("`{name}` accepted, expected an error; it recorded:\n{lines}"),
                None => panic!("`{name}` accepted and recorded nothing, expected an error"),
            },
        }
    }
}
