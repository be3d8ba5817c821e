//! The core's traits for appending and reading events, implemented by the store on Redis.

use async_trait::async_trait;
use eventbus::{
    ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId, Uuid, Version,
    port::{
        Append, AppendError, AppendEvents, AppendSignal, Direction, FeedFilter, MissingEvent, MultiStreamAppends as _,
        ReadError, ReadFeed, ReadStream, RecordStream,
    },
    store::MultiStreamAppend,
};
use time::OffsetDateTime;

use crate::{RedisEventStore, append, feed, missing_events, read};

#[async_trait]
impl AppendEvents for RedisEventStore {
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
        let mut results = Vec::with_capacity(appends.len());
        let mut plain = Vec::new();
        for append in appends {
            if !append.changes_indexes() {
                plain.push(append);
                continue;
            }
            results.extend(append::append_many(self.inner(), std::mem::take(&mut plain)).await);
            results.push(append_with_indexes(self, append).await);
        }
        results.extend(append::append_many(self.inner(), plain).await);
        results
    }
}

/// Appends events that take or give back unique values; refuses tags.
async fn append_with_indexes(store: &RedisEventStore, append: Append) -> Result<Vec<RecordedEvent>, AppendError> {
    Ok(store.append_streams(MultiStreamAppend::single(append)).await?.into_records())
}

#[async_trait]
impl ReadStream for RedisEventStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        read::read_stream(self.inner(), stream, from, direction)
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        read::stream_version(self.inner(), stream).await
    }
}

#[async_trait]
impl ReadFeed for RedisEventStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        feed::read_feed(self.inner(), after, through, filter)
    }

    async fn head(&self) -> Result<Position, ReadError> {
        feed::head(self.inner()).await
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        feed::count_events(self.inner(), after, through, filter).await
    }

    async fn first_recorded_after(&self, after: Position) -> Result<Option<OffsetDateTime>, ReadError> {
        feed::first_recorded_after(self.inner(), after).await
    }

    async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
        missing_events::find_missing_event(self.inner(), stream).await
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        Ok(self.inner().id())
    }

    fn appended(&self) -> &AppendSignal {
        self.inner().append_signal()
    }
}
