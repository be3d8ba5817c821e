//! The schema lock: which changes of an event's code it finds, and which it cannot see.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod changes;
mod life;
mod limits;

use std::path::PathBuf;

use eventbus::{
    DomainEvent,
    lock::{Lock, LockError},
};

/// A lock file of its own, which is removed at the end.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        Self(std::env::temp_dir().join(format!("{}.lock", eventbus::AggregateId::new())))
    }

    pub(crate) fn lock(&self) -> Lock {
        Lock::at(&self.0)
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }

    pub(crate) fn set_text(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The verdict on a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It would break stored events: the faults.
    Breaks(String),
    /// Stored events stay readable, and the file is to be written again.
    IsNew(String),
    /// The check accepts the code and the file.
    Nothing,
}

pub(crate) fn verdict(result: Result<(), LockError>) -> Verdict {
    match result {
        Ok(()) => Verdict::Nothing,
        Err(error @ LockError::Unreadable { .. }) => Verdict::Breaks(error.to_string()),
        Err(LockError::OutOfDate { news, .. }) => Verdict::IsNew(news.join("\n")),
        Err(other) => panic!("{other}"),
    }
}

/// Locks `B`, and returns the verdict on its change into `A`.
pub(crate) fn change<B: DomainEvent, A: DomainEvent>() -> Verdict {
    let place = Place::new();
    place.lock().event::<B>().write().unwrap();
    assert_eq!(verdict(place.lock().event::<B>().compare()), Verdict::Nothing, "no change is none: {}", place.text());
    verdict(place.lock().event::<A>().compare())
}
