//! Appending: one statement in one round trip for all who append at once, and a second one only for those of whom it
//! stored nothing or gave no answer.
//!
//! Keep: nothing is told the caller as certain that is not. Once a statement went out without an answer, its backend
//! may still be running; only what no late commit can change is final then.

mod blocked_streams;
mod entry;
mod executor;
mod group_commit;
mod in_transaction;
mod plan;
mod retry_budget;
mod stored_at;

use async_trait::async_trait;
use eventbus::{
    ExpectedVersion, NewEvent, RecordedEvent, StreamId,
    port::{Append, AppendError, AppendEvents, check_events, check_ids},
};

pub(crate) use self::group_commit::GroupCommit;
pub use self::in_transaction::PgAppendInError;
pub(crate) use self::in_transaction::append_in_transaction;
use crate::store::PgEventStore;

/// What becomes of an append.
pub(crate) type AppendResult = Result<Vec<RecordedEvent>, AppendError>;

#[async_trait]
impl AppendEvents for PgEventStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        let append = Append { stream: stream.clone(), expected, events };
        // one result for each
        self.append_many(vec![append]).await.pop().unwrap_or_else(|| Ok(Vec::new()))
    }

    async fn append_many(&self, appends: Vec<Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
        let mut results: Vec<AppendResult> = Vec::with_capacity(appends.len());
        let mut request = self.inner().group_commit().new_request();
        for append in appends {
            let number = results.len();
            results.push(check_append(&append).map(|()| Vec::new()));
            if append.events.is_empty() || results[number].is_err() {
                continue;
            }
            if !request.has_room_for(&append) {
                // before the next ones, which may be for the same streams
                self.inner().group_commit().append(request.take(), &mut results).await;
            }
            request.push(number, append);
        }
        self.inner().group_commit().append(request.take(), &mut results).await;
        results
    }
}

/// Finds what is refused without asking the server, which would refuse all that it is sent together with.
fn check_append(append: &Append) -> Result<(), AppendError> {
    check_ids(&append.stream, &append.events)?;
    check_events(&append.stream, &append.events)
}
