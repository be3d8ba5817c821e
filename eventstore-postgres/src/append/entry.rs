//! An append on its way to its result.

use std::mem;

use eventbus::{
    BoxError, ExpectedVersion, Version,
    port::{Append, AppendError},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{AppendResult, stored_at::StoredAt};

/// An append, the one who waits for its result, and its place among those that are under way.
#[derive(Debug)]
pub(super) struct CommitEntry {
    pub(super) append: Append,
    /// Why a statement that held it has no answer: it may still be stored.
    doubt: Option<BoxError>,
    result_sender: oneshot::Sender<AppendResult>,
    _permit: OwnedSemaphorePermit,
}

impl CommitEntry {
    pub(super) fn new(append: Append, permit: OwnedSemaphorePermit) -> (Self, oneshot::Receiver<AppendResult>) {
        let (answer, receiver) = oneshot::channel();
        (Self { append, doubt: None, result_sender: answer, _permit: permit }, receiver)
    }

    /// Whether nobody waits for the result any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.result_sender.is_closed()
    }

    /// Remembers that a statement with this append went out without an answer.
    pub(super) fn mark_in_doubt(&mut self, source: BoxError) {
        self.doubt.get_or_insert(source);
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    pub(super) fn complete(self, result: AppendResult) {
        // who does not wait any more does not need it
        let _ = self.result_sender.send(result);
    }

    /// Every event was put where `stored` say.
    pub(super) fn complete_stored(mut self, stored: &[StoredAt]) {
        let events = mem::take(&mut self.append.events).into_iter();
        let records = events.zip(stored).map(|(event, place)| place.into_record(event, &self.append.stream)).collect();
        self.complete(Ok(records));
    }

    /// The server refuses it now; what a former statement without an answer did is another matter.
    pub(super) fn complete_refused(mut self, source: BoxError) {
        let stream = self.append.stream.clone();
        let refused = AppendError::Refused { stream, source };
        let error = self.doubt.take().map_or(refused, AppendError::OutcomeUnknown);
        self.complete(Err(error));
    }

    /// What is known when it is not tried any more.
    pub(super) fn give_up(mut self, source: BoxError) {
        let error = match self.doubt.take() {
            Some(doubt) => AppendError::OutcomeUnknown(doubt),
            None => AppendError::Unavailable(source),
        };
        self.complete(Err(error));
    }

    /// The stream is at `actual`: a conflict, unless a statement without an answer may still meet its expectation.
    pub(super) fn complete_conflict(mut self, actual: Version) {
        let error = match self.doubt.take() {
            Some(doubt) if !has_passed_expected(self.append.expected, actual) => AppendError::OutcomeUnknown(doubt),
            _ => conflict_error(&self.append, actual),
        };
        self.complete(Err(error));
    }
}

pub(super) fn conflict_error(append: &Append, actual: Version) -> AppendError {
    AppendError::Conflict { stream: append.stream.clone(), expected: append.expected, actual }
}

/// Whether the stream at `actual` has left the expected version behind: what is refused now is refused for ever.
fn has_passed_expected(expected: ExpectedVersion, actual: Version) -> bool {
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

    async fn entry() -> (CommitEntry, oneshot::Receiver<AppendResult>) {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let events = vec![NewEvent::new(Name::from_static("Placed"), 1, "{}")];
        let stream = StreamId::parse("Order", "a").unwrap();
        CommitEntry::new(Append { stream, expected: ExpectedVersion::Any, events }, place)
    }

    #[tokio::test]
    async fn what_may_still_be_stored_is_not_refused() {
        let (sent_once, answer) = entry().await;
        sent_once.complete_refused("no right to insert".into());
        assert!(matches!(answer.await, Ok(Err(AppendError::Refused { .. }))));

        let (mut sent_before, answer) = entry().await;
        sent_before.mark_in_doubt("no answer".into());
        sent_before.complete_refused("no right to insert".into());
        assert!(matches!(answer.await, Ok(Err(AppendError::OutcomeUnknown(_)))));
    }
}
