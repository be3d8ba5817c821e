//! Reading one stream.

use async_trait::async_trait;
use eventbus::{
    StreamId, Version,
    port::{Direction, ReadError, ReadStream, RecordStream},
    support::{Page, StreamCursor, paged},
};
use rusqlite::Connection;

use crate::{
    checked_append,
    query::QueryError,
    row::{PAGE_EVENTS_MAX, query_page},
    store::SqliteEventStore,
};

#[async_trait]
impl ReadStream for SqliteEventStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        let stream = stream.clone();
        paged(StreamCursor::new(from), move |cursor| {
            let stream = stream.clone();
            self.readers().read(move |connection| load_page(connection, &stream, cursor, direction))
        })
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        let stream = stream.clone();
        self.readers().read(move |connection| Ok(checked_append::stream_version(connection, &stream)?)).await
    }
}

fn load_page(
    connection: &Connection,
    stream: &StreamId,
    cursor: StreamCursor,
    direction: Direction,
) -> Result<Page<StreamCursor>, QueryError> {
    let sql = match direction {
        Direction::Forward => include_str!("sql/read_forward.sql"),
        Direction::Backward => include_str!("sql/read_backward.sql"),
    };
    let (id, of_type) = (stream.aggregate_id().as_str(), stream.aggregate_type().as_str());
    let (mut events, has_more) = query_page(connection, sql, (id, of_type, cursor.start().as_i64(), PAGE_EVENTS_MAX))?;
    let next = cursor.after_page(direction, &mut events, has_more).map_err(|missing| {
        ReadError::corrupt(format!("stream `{stream}`, version {missing}"), "the event is missing")
    })?;
    Ok((events, next))
}
