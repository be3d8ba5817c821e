//! One append on its way to its result, as the queue, the leader and the executor pass it on.

use std::mem;

use eventbus::{
    BoxError, ExpectedVersion, NewEvent, RecordedEvent, Version,
    port::{Append, AppendError},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{AppendResult, stored_at::StoredAt};

/// The bytes of an event beside its payload, roughly.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// An append, the sender of its result to the caller, and its permit.
///
/// "Resolving" reads the event ids and the stream's version in one snapshot. "In doubt" is no state but a mark that
/// stays: a statement with this append got no answer.
///
/// | State | Event | Next state |
/// |---|---|---|
/// | blocked (no entry yet) | the last statement that blocks its stream ends | waits for a permit |
/// | waits for a permit | a permit is free, the queue has no leader | batch; its caller is the leader |
/// | waits for a permit | a permit is free, the queue has a leader | queued |
/// | queued | the leader fills its batch | batch |
/// | queued | the caller stopped waiting | dropped, never sent |
/// | batch | the plan has room for it | sent |
/// | batch | it depends on an append of the plan, or shares an event id with one | batch, for the next statement |
/// | sent | rows with its events | stored: `Ok` |
/// | sent | no rows with its events, or an event id of the statement is stored | resolving |
/// | sent | no answer | in doubt, resolving |
/// | sent | conflict with another transaction | batch after a delay; given up when the retry time is over |
/// | sent | refused, or lock timeout; several streams | batch, split into halves |
/// | sent | lock timeout; one stream | batch; the stream is blocked |
/// | sent | refused; several appends to one stream | batch, one append per stream |
/// | sent | refused; alone | `Refused`; in doubt: `OutcomeUnknown` |
/// | sent | not sent after all, or the server failed | given up |
/// | sent | its caller, the leader, is dropped | dropped; its connection closes, its events may still be stored |
/// | resolving | its event ids are stored | stored: `Ok`, or an error if not as this append |
/// | resolving | a stored record is corrupt | `Refused`; in doubt: `OutcomeUnknown` |
/// | resolving | its stream is elsewhere, no earlier append to it is retried | `Conflict`, see `complete_conflict` |
/// | resolving | otherwise | batch, at once or after a delay; given up when the retry time is over |
/// | given up | | `Unavailable`; in doubt: `OutcomeUnknown` |
/// | any | the runtime shuts down and drops its task | `OutcomeUnknown` |
#[derive(Debug)]
pub(super) struct CommitEntry {
    pub(super) append: Append,
    /// In doubt if set: why a statement with it got no answer. Its events may still be stored.
    doubt: Option<BoxError>,
    result_sender: oneshot::Sender<AppendResult>,
    _permit: OwnedSemaphorePermit,
}

impl CommitEntry {
    pub(super) fn new(append: Append, permit: OwnedSemaphorePermit) -> (Self, oneshot::Receiver<AppendResult>) {
        let (result_sender, receiver) = oneshot::channel();
        (Self { append, doubt: None, result_sender, _permit: permit }, receiver)
    }

    /// Returns `true` if the caller no longer waits for the result.
    pub(super) fn is_abandoned(&self) -> bool {
        self.result_sender.is_closed()
    }

    /// Notes that a statement with this append was sent and got no answer. The first such error stays.
    pub(super) fn mark_in_doubt(&mut self, source: BoxError) {
        self.doubt.get_or_insert(source);
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    pub(super) fn complete(self, result: AppendResult) {
        // a caller that no longer waits needs no result
        let _ = self.result_sender.send(result);
    }

    /// Takes the events of the append, which the server put where `stored` says.
    pub(super) fn take_records(&mut self, stored: &[StoredAt]) -> Vec<RecordedEvent> {
        let events = mem::take(&mut self.append.events).into_iter();
        events.zip(stored).map(|(event, place)| place.into_record(event, &self.append.stream)).collect()
    }

    /// Completes the append as refused.
    pub(super) fn complete_refused(self, source: BoxError) {
        let stream = self.append.stream.clone();
        self.fail(AppendError::Refused { stream, source });
    }

    /// Completes the append without a further attempt, as unavailable.
    pub(super) fn give_up(self, source: BoxError) {
        self.fail(AppendError::Unavailable(source));
    }

    /// Completes the append with an error; in doubt, as of unknown outcome: an earlier statement may have stored it.
    fn fail(mut self, error: AppendError) {
        let error = self.doubt.take().map_or(error, AppendError::OutcomeUnknown);
        self.complete(Err(error));
    }

    /// Completes the append as a conflict with a stream at `actual`.
    ///
    /// Its outcome is unknown if it is in doubt and the stream may still reach the expected version: the statement
    /// without an answer may then store it.
    pub(super) fn complete_conflict(mut self, actual: Version) {
        self.doubt = self.doubt.take().filter(|_| !has_passed_expected(self.append.expected, actual));
        let conflict = conflict_error(&self.append, actual);
        self.fail(conflict);
    }
}

/// Returns the bytes of an append in a statement, roughly.
pub(super) fn approximate_bytes(append: &Append) -> usize {
    let of_event =
        |event: &NewEvent| EVENT_OVERHEAD_BYTES + event.payload().len() + event.context().attributes.as_json().len();
    append.events.iter().map(of_event).sum()
}

pub(super) fn conflict_error(append: &Append, actual: Version) -> AppendError {
    AppendError::Conflict { stream: append.stream.clone(), expected: append.expected, actual }
}

/// Returns `true` if a stream at `actual` can never match `expected` again, so that a conflict is final.
pub(super) fn has_passed_expected(expected: ExpectedVersion, actual: Version) -> bool {
    match expected {
        ExpectedVersion::NoStream => actual > Version::NONE,
        ExpectedVersion::Exact(version) => actual > version,
        ExpectedVersion::Any | ExpectedVersion::StreamExists => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eventbus::{Name, StreamId};
    use tokio::sync::Semaphore;

    use super::*;

    async fn entry() -> (CommitEntry, oneshot::Receiver<AppendResult>) {
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let events = vec![NewEvent::new(Name::from_static("Placed"), 1, "{}")];
        let stream = StreamId::parse("Order", "a").unwrap();
        CommitEntry::new(Append { stream, expected: ExpectedVersion::Any, events }, permit)
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
