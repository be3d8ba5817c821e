//! What a subscriber is handling, and what it failed at last: for those who wait for it in vain.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::HandlerError;
use crate::domain::{name::Name, record::RecordedEvent};

/// What a subscriber is handling, and what it failed at last.
#[derive(Debug, Default)]
pub(crate) struct Activity(Mutex<Now>);

#[derive(Debug, Default)]
struct Now {
    /// What it is handling, the oldest first.
    handling: Vec<RecordedEvent>,
    failed: Option<(RecordedEvent, String)>,
}

impl Activity {
    /// Says that `record` is being handled, until the result is dropped.
    pub(super) fn begin<'a>(&'a self, record: &'a RecordedEvent) -> Handling<'a> {
        self.now().handling.push(record.clone());
        Handling(self, record)
    }

    pub(super) fn failed(&self, record: &RecordedEvent, error: &HandlerError) {
        self.now().failed = Some((record.clone(), error.to_string()));
    }

    /// What failed before has succeeded.
    pub(super) fn succeeded(&self, record: &RecordedEvent) {
        let event_id = record.metadata().event_id();
        self.now().failed.take_if(|(failed, _)| failed.metadata().event_id() == event_id);
    }

    /// What the subscriber called `name` is handling, in words.
    pub(crate) fn handling(&self, name: &Name) -> Option<String> {
        let now = self.now();
        now.handling.first().map(|record| words(name, record))
    }

    /// What the subscriber called `name` failed at last and has not succeeded with since, and why, in words.
    pub(crate) fn failure(&self, name: &Name) -> Option<String> {
        let now = self.now();
        let (record, error) = now.failed.as_ref()?;
        Some(format!("{}: {error}", words(name, record)))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn words(name: &Name, record: &RecordedEvent) -> String {
    let (event_type, stream) = (record.event_type(), record.metadata().stream());
    format!("`{name}` with `{event_type}` of `{stream}`")
}

/// While it is there, an event is being handled.
pub(super) struct Handling<'a>(&'a Activity, &'a RecordedEvent);

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        let mut now = self.0.now();
        let event_id = self.1.metadata().event_id();
        if let Some(at) = now.handling.iter().position(|record| record.metadata().event_id() == event_id) {
            now.handling.remove(at);
        }
    }
}
