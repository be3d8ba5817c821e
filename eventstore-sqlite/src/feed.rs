//! Reading all events in position order, which is the order of their commits.

use async_trait::async_trait;
use eventbus::{
    Position, RecordedEvent,
    port::{AppendSignal, Page, ReadError, ReadFeed, RecordStream, paged},
};
use rusqlite::Connection;

use crate::{
    error::read_error,
    readers::{PAGE_EVENTS, read_page},
    store::SqliteEventStore,
};

#[async_trait]
impl ReadFeed for SqliteEventStore {
    fn read_all(&self, after: Position) -> RecordStream<'_> {
        paged(after, |after| self.readers().read(move |connection| page(connection, after)))
    }

    async fn head(&self) -> Result<Position, ReadError> {
        self.readers().read(head).await
    }

    fn appended(&self) -> &AppendSignal {
        self.writer().appended()
    }
}

fn page(connection: &Connection, after: Position) -> Result<Page<Position>, ReadError> {
    let sql = include_str!("sql/read_feed.sql");
    let mut statement = connection.prepare_cached(sql).map_err(read_error)?;
    let rows = statement.query((after.as_i64(), PAGE_EVENTS)).map_err(read_error)?;
    let (events, more) = read_page(rows)?;
    let last = events.last().and_then(RecordedEvent::position);
    Ok((events, last.filter(|_| more)))
}

fn head(connection: &Connection) -> Result<Position, ReadError> {
    let head: i64 = connection
        .prepare_cached(include_str!("sql/head.sql"))
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(read_error)?;
    match u64::try_from(head) {
        Ok(head) => Ok(Position::new(head)),
        Err(source) => Err(ReadError::Corrupt { place: format!("position {head}"), source: source.into() }),
    }
}
