//! Reading one stream.

use async_trait::async_trait;
use eventbus::{
    RecordedEvent, StreamId, Version,
    port::{Direction, ReadError, ReadStream, RecordStream},
    support::{Page, paged},
};
use rusqlite::Connection;

use crate::{
    checked_append,
    error::read_error,
    readers::{PAGE_EVENTS_MAX, read_page},
    store::SqliteEventStore,
};

#[async_trait]
impl ReadStream for SqliteEventStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        let stream = stream.clone();
        let start = Cursor { from, is_continued: false };
        paged(start, move |cursor| {
            let stream = stream.clone();
            self.readers().read(move |connection| cursor.load_page(connection, &stream, direction))
        })
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        let stream = stream.clone();
        let ask = move |connection: &Connection| checked_append::stream_version(connection, &stream);
        self.readers().read(move |connection| ask(connection).map_err(read_error)).await
    }
}

/// Start of a page.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    from: Version,
    /// Set if a page was read before, so that an event with exactly this version must exist.
    is_continued: bool,
}

impl Cursor {
    fn load_page(
        self,
        connection: &Connection,
        stream: &StreamId,
        direction: Direction,
    ) -> Result<Page<Self>, ReadError> {
        let sql = match direction {
            Direction::Forward => include_str!("sql/read_forward.sql"),
            Direction::Backward => include_str!("sql/read_backward.sql"),
        };
        let mut statement = connection.prepare_cached(sql).map_err(read_error)?;
        let rows = statement
            .query((
                stream.aggregate_id().as_str(),
                stream.aggregate_type().as_str(),
                self.from.as_i64(),
                PAGE_EVENTS_MAX,
            ))
            .map_err(read_error)?;
        let (events, more) = read_page(rows)?;
        let wanted = self.check_versions(stream, &events, direction)?;
        let ended = match (direction, wanted) {
            (_, Some(Version::NONE)) => true,
            (Direction::Backward, Some(wanted)) if !more => return Err(missing_event_error(stream, wanted)),
            _ => !more,
        };
        let next = wanted.filter(|_| !ended).map(|from| Self { from, is_continued: true });
        Ok((events, next))
    }

    /// Returns the version that comes next; an error at a gap, which would make an aggregate that never existed.
    fn check_versions(
        self,
        stream: &StreamId,
        events: &[RecordedEvent],
        direction: Direction,
    ) -> Result<Option<Version>, ReadError> {
        let mut wanted = match direction {
            Direction::Forward => Some(self.from.max(Version::FIRST)),
            Direction::Backward => self.is_continued.then_some(self.from),
        };
        for event in events {
            match wanted {
                Some(wanted) if wanted != event.version() => return Err(missing_event_error(stream, wanted)),
                _ => {}
            }
            wanted = Some(match direction {
                Direction::Forward => event.version().next(),
                Direction::Backward => Version::new(event.version().get().saturating_sub(1)),
            });
        }
        Ok(wanted)
    }
}

fn missing_event_error(stream: &StreamId, version: Version) -> ReadError {
    ReadError::corrupt(format!("stream `{stream}`, version {version}"), "the event is missing")
}
