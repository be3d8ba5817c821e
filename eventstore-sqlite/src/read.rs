//! Reading one stream.

use async_trait::async_trait;
use eventbus::{
    StreamId, Version,
    port::{Direction, ReadError, ReadStream, RecordStream},
    store::VisitEvent,
    support::{Page, StreamCursor, missing_event_error, paged},
};
use rusqlite::Connection;

use crate::{
    checked_append,
    query::QueryError,
    row::{PAGE_EVENTS_MAX, query_page, stream_columns},
    store::SqliteEventStore,
    visit,
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

    async fn visit_stream(
        &self,
        stream: &StreamId,
        from: Version,
        visit: &mut VisitEvent<'_>,
    ) -> Result<(), ReadError> {
        visit::visit_stream(self, stream, from, visit).await
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        let stream = stream.clone();
        self.readers().read(move |connection| checked_append::stream_version(connection, &stream)).await
    }
}

/// Loads the page at a cursor of a stream.
pub(crate) fn load_page(
    connection: &Connection,
    stream: &StreamId,
    cursor: StreamCursor,
    direction: Direction,
) -> Result<Page<StreamCursor>, QueryError> {
    let sql = match direction {
        Direction::Forward => include_str!("sql/read_forward.sql"),
        Direction::Backward => include_str!("sql/read_backward.sql"),
    };
    let (id, of_type, tenant) = stream_columns(stream);
    let parameters = (id, of_type, tenant, cursor.start().as_i64(), PAGE_EVENTS_MAX);
    let (mut events, has_more) = query_page(connection, sql, parameters)?;
    let next = cursor.after_page(direction, &mut events, has_more);
    Ok((events, next.map_err(|missing| missing_event_error(stream, missing))?))
}
