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

    /// The server refuses it now; what a former statement without an answer did is another matter.
    pub(super) fn refused(mut self, source: BoxError) {
        let stream = self.append.stream.clone();
        let refused = AppendError::Refused { stream, source };
        let error = self.doubt.take().map_or(refused, AppendError::OutcomeUnknown);
        self.answer(Err(error));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eventbus::{Name, NewEvent, StreamId};
    use tokio::sync::Semaphore;

    use super::*;

    async fn entry() -> (Entry, oneshot::Receiver<AppendResult>) {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let events = vec![NewEvent::new(Name::from_static("Placed"), 1, "{}")];
        let stream = StreamId::parse("Order", "a").unwrap();
        Entry::new(Append { stream, expected: ExpectedVersion::Any, events }, place)
    }

    #[tokio::test]
    async fn what_may_still_be_stored_is_not_refused() {
        let (sent_once, answer) = entry().await;
        sent_once.refused("no right to insert".into());
        assert!(matches!(answer.await, Ok(Err(AppendError::Refused { .. }))));

        let (mut sent_before, answer) = entry().await;
        sent_before.in_doubt("no answer".into());
        sent_before.refused("no right to insert".into());
        assert!(matches!(answer.await, Ok(Err(AppendError::OutcomeUnknown(_)))));
    }
}
