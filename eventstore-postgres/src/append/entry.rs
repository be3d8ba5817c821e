//! An append on its way to its result.

use std::mem;

use eventbus::{
    BoxError, ExpectedVersion, Version,
    port::{Append, AppendError},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{AppendResult, settle::Place};

/// An append, the one who waits for its result, and its place among those that are under way.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) append: Append,
    /// Why a statement that held it has no answer: it may still be stored.
    doubt: Option<BoxError>,
    answer: oneshot::Sender<AppendResult>,
    _place: OwnedSemaphorePermit,
}

impl Entry {
    pub(super) fn new(append: Append, place: OwnedSemaphorePermit) -> (Self, oneshot::Receiver<AppendResult>) {
        let (answer, receiver) = oneshot::channel();
        (Self { append, doubt: None, answer, _place: place }, receiver)
    }

    /// Whether nobody waits for the result any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    /// Remembers that a statement with this append went out without an answer.
    pub(super) fn in_doubt(&mut self, source: BoxError) {
        self.doubt.get_or_insert(source);
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    pub(super) fn answer(self, result: AppendResult) {
        // who does not wait any more does not need it
        let _ = self.answer.send(result);
    }

    /// Every event was put where `places` say.
    pub(super) fn appended(mut self, places: &[Place]) {
        let events = mem::take(&mut self.append.events).into_iter();
        let records = events.zip(places).map(|(event, place)| place.record(event, &self.append.stream)).collect();
        self.answer(Ok(records));
    }

    pub(super) fn refused(self, source: BoxError) {
        let stream = self.append.stream.clone();
        self.answer(Err(AppendError::Refused { stream, source }));
    }

    /// What is known when it is not tried any more.
    pub(super) fn over(mut self, source: BoxError) {
        let error = match self.doubt.take() {
            Some(doubt) => AppendError::OutcomeUnknown(doubt),
            None => AppendError::Unavailable(source),
        };
        self.answer(Err(error));
    }

    /// The stream is at `actual`: a conflict, unless a statement without an answer may still meet its expectation.
    pub(super) fn conflict(mut self, actual: Version) {
        let error = match self.doubt.take() {
            Some(doubt) if !is_overtaken(self.append.expected, actual) => AppendError::OutcomeUnknown(doubt),
            _ => conflict(&self.append, actual),
        };
        self.answer(Err(error));
    }
}

pub(super) fn conflict(append: &Append, actual: Version) -> AppendError {
    AppendError::Conflict { stream: append.stream.clone(), expected: append.expected, actual }
}

/// Whether the stream at `actual` has left the expected version behind: what is refused now is refused for ever.
fn is_overtaken(expected: ExpectedVersion, actual: Version) -> bool {
    match expected {
        ExpectedVersion::NoStream => actual > Version::NONE,
        ExpectedVersion::Exact(version) => actual > version,
        ExpectedVersion::Any | ExpectedVersion::StreamExists => false,
    }
}
