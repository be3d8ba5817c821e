//! Appending events.

use async_trait::async_trait;
use eventbus::{
    ExpectedVersion, NewEvent, RecordedEvent, StreamId,
    port::{self, AppendError, AppendEvents},
};

use crate::store::SqliteEventStore;

#[async_trait]
impl AppendEvents for SqliteEventStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        match self.writer().check(port::Append { stream: stream.clone(), expected, events })? {
            Some(append) => self.writer().append(append).await,
            None => Ok(Vec::new()),
        }
    }

    async fn append_many(&self, appends: Vec<port::Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
        let mut sound = Vec::with_capacity(appends.len());
        let checked: Vec<_> =
            appends.into_iter().map(|append| Ok(self.writer().check(append)?.map(|it| sound.push(it)))).collect();
        let mut results = self.writer().append_many(sound).await.into_iter();
        let result = |checked| match checked {
            Ok(Some(())) => results.next().unwrap_or_else(|| Ok(Vec::new())),
            Ok(None) => Ok(Vec::new()),
            Err(refused) => Err(refused),
        };
        checked.into_iter().map(result).collect()
    }
}
