//! The run of a handler in a test.

use super::{
    event_diff::{EventLines, diff},
    new_events::{IntoNewEvents, NewEvents},
};
use crate::{domain::record::RecordedEvent, port::delivery::HandlerError};

/// The outcome of a handler and the events that it saved; see [`GivenEvents::handle`](super::GivenEvents::handle).
#[derive(Debug)]
#[must_use = "the outcome is compared by `then_ok`, `then_saved` or `then_error`"]
pub struct HandlerRun {
    handler: &'static str,
    /// The event at which it failed, and the error.
    failure: Option<(String, HandlerError)>,
    saved: Vec<RecordedEvent>,
}

impl HandlerRun {
    pub(super) const fn new(
        handler: &'static str,
        failure: Option<(String, HandlerError)>,
        saved: Vec<RecordedEvent>,
    ) -> Self {
        Self { handler, failure, saved }
    }

    /// Returns the events that the handler saved by its repositories.
    #[must_use]
    pub fn saved(&self) -> &[RecordedEvent] {
        &self.saved
    }

    /// Expects that the handler succeeded.
    ///
    /// # Panics
    /// If it failed, with its error.
    #[track_caller]
    pub fn then_ok(self) {
        if let Some((event, error)) = self.failure {
            panic!("`{}` failed at {event}: {error}", self.handler);
        }
    }

    /// Expects that the handler succeeded and saved exactly these events of the aggregate with this id, in this order;
    /// `()` is none.
    ///
    /// # Panics
    /// If it failed, or saved other events; the message shows the differences, field by field.
    #[track_caller]
    pub fn then_saved(self, id: impl AsRef<str>, expected: impl IntoNewEvents) {
        let expected = NewEvents::new(id.as_ref(), expected).into_records();
        let lines = |events: &[RecordedEvent]| events.iter().map(EventLines::of_record).collect::<Vec<_>>();
        let difference = diff(&lines(&expected), &lines(&self.saved));
        let handler = self.handler;
        self.then_ok();
        if let Some(lines) = difference {
            panic!("`{handler}` saved other events than expected (- expected, + saved, > first difference):\n{lines}");
        }
    }

    /// Expects that the handler failed with an error for which `is_expected` returns `true`.
    ///
    /// # Panics
    /// If it succeeded, or failed with a different error.
    #[track_caller]
    pub fn then_error(self, is_expected: impl FnOnce(&HandlerError) -> bool) {
        match self.failure {
            None => panic!("`{}` succeeded, expected an error", self.handler),
            Some((_, error)) if is_expected(&error) => {}
            Some((event, error)) => {
                panic!("`{}` failed at {event} with another error than expected: {error}", self.handler);
            }
        }
    }
}
