//! The port of appending: many appends at once, each with its own result.

use async_trait::async_trait;
use eventbus::{
    ExpectedVersion, NewEvent, RecordedEvent, StreamId,
    port::{Append, AppendError, AppendEvents},
};

use crate::{
    append::{AppendResult, check_append},
    store::PgEventStore,
};

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
        let mut request = self.group_commit().new_request();
        for append in appends {
            let number = results.len();
            results.push(check_append(&append).map(|()| Vec::new()));
            if append.events.is_empty() || results[number].is_err() {
                continue;
            }
            if !request.has_room_for(&append) {
                // before the next ones, which may be for the same streams
                self.group_commit().append(request.take(), &mut results).await;
            }
            request.push(number, append);
        }
        self.group_commit().append(request.take(), &mut results).await;
        results
    }
}
