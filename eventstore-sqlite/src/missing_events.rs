//! The search for events that were removed.

use eventbus::{
    BoxError, StreamId, Version,
    port::{MissingEvent, ReadError},
    support::CountedVersions,
};
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::{
    query::{QueryError, query_rows, query_value},
    readers::Readers,
    row::{get_stream, stream_columns},
};

/// The most streams and the most versions that are counted in one read: the connection also serves other reads.
const WINDOW_STREAMS: i64 = 1_024;
const WINDOW_VERSIONS: i64 = 8_192;

/// Finds an event of any stream, or of one stream, that is missing.
pub(crate) async fn find_missing_event(
    readers: &Readers,
    stream: Option<&StreamId>,
) -> Result<Option<MissingEvent>, ReadError> {
    let (mut from, last) = match stream {
        None => ((1, 1), i64::MAX),
        Some(stream) => {
            let stream = stream.clone();
            match readers.read(move |connection| find_stream_no(connection, &stream)).await? {
                Some(number) => ((number, 1), number),
                None => return Ok(None),
            }
        }
    };
    loop {
        match readers.read(move |connection| search_window(connection, from, last)).await? {
            Window::Missing(missing) => return Ok(Some(missing)),
            Window::Whole(Some(next)) => from = next,
            Window::Whole(None) => return Ok(None),
        }
    }
}

/// The result of searching some streams.
enum Window {
    /// No event is missing. Holds the stream and version at which the next window begins, if there is one.
    Whole(Option<(i64, i64)>),
    Missing(MissingEvent),
}

fn find_stream_no(connection: &Connection, stream: &StreamId) -> Result<Option<i64>, QueryError> {
    Ok(query_value(connection, include_str!("sql/find_stream.sql"), stream_columns(stream))?)
}

fn search_window(connection: &Connection, from: (i64, i64), last: i64) -> Result<Window, QueryError> {
    let parameters = (from.0, from.1, last, WINDOW_STREAMS, WINDOW_VERSIONS);
    let window: Vec<CountedVersions> =
        query_rows(connection, include_str!("sql/count_versions.sql"), parameters, decode)?;
    for incomplete in window.iter().filter(|counted| counted.is_incomplete()) {
        if let Some(missing) = find_in(connection, incomplete)? {
            return Ok(Window::Missing(missing));
        }
    }
    Ok(Window::Whole(window.last().map(CountedVersions::next)))
}

fn decode(row: &Row<'_>) -> rusqlite::Result<CountedVersions> {
    Ok(CountedVersions {
        stream_no: row.get(0)?,
        first: row.get(1)?,
        last: row.get(2)?,
        version: row.get(3)?,
        found: row.get(4)?,
    })
}

/// Finds the version without an event; `None` if each has one by now.
fn find_in(connection: &Connection, counted: &CountedVersions) -> Result<Option<MissingEvent>, QueryError> {
    let parameters = (counted.stream_no, counted.first, counted.last);
    let versions: Vec<i64> =
        query_rows::<_, rusqlite::Error>(connection, include_str!("sql/read_versions.sql"), parameters, |row| {
            row.get(0)
        })?;
    let mut wanted = counted.first..=counted.last;
    let mut versions = versions.into_iter();
    let Some(version) = wanted.find(|wanted| versions.next() != Some(*wanted)) else {
        return Ok(None);
    };
    let corrupt = |source: BoxError| ReadError::corrupt(format!("an event that is missing, version {version}"), source);
    let mut statement = connection.prepare_cached(include_str!("sql/stream_by_number.sql"))?;
    let stream = statement.query_row([counted.stream_no], |row| Ok(get_stream(row, [0, 1, 2]))).optional()?;
    let stream = stream.unwrap_or_else(|| Err("the table of streams has no such row".into())).map_err(corrupt)?;
    Ok(Some(MissingEvent { stream, version: Version::new(version.unsigned_abs()) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::SqliteEventStoreConfig, connection::open_writer, location::DatabaseLocation};

    /// Streams 1 to 1,500 with two events each, stream 1,501 with 20,000, and ten more with two each.
    fn database() -> Connection {
        let connection = open_writer(&DatabaseLocation::new_memory(), &SqliteEventStoreConfig::default()).unwrap();
        let events = "
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1511)
            INSERT INTO eventbus_streams (stream_no, version, recorded_at, tenant_id, aggregate_id, aggregate_type)
            SELECT i, CASE WHEN i = 1501 THEN 20000 ELSE 2 END, 0, zeroblob(16), 'id-' || i, 'Account' FROM n;
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
            INSERT INTO eventbus_events (stream_no, version, occurred_at, recorded_at, event_id, correlation_id,
                schema_version, event_type, payload)
            SELECT stream_no, i, 0, 0, randomblob(16), zeroblob(16), 1, 'Common', '{}'
            FROM eventbus_streams JOIN n ON i <= version";
        connection.execute_batch(events).unwrap();
        connection
    }

    /// Searches all streams; returns the number of windows, and what is missing.
    fn search(connection: &Connection) -> (u64, Option<MissingEvent>) {
        let (mut windows, mut from) = (1, (1, 1));
        loop {
            match search_window(connection, from, i64::MAX).unwrap() {
                Window::Missing(missing) => return (windows, Some(missing)),
                Window::Whole(Some(next)) => (windows, from) = (windows + 1, next),
                Window::Whole(None) => return (windows, None),
            }
        }
    }

    #[test]
    fn a_search_holds_a_connection_for_short_windows_and_leaves_out_no_version() {
        let connection = database();
        // 1,024 streams; 477 streams, of the last one 8,192 versions; 8,192; 3,616 and ten streams; none
        assert_eq!(search(&connection), (5, None));
        for (stream, version) in
            [(1, 1), (1_024, 2), (1_025, 1), (1_501, 8_192), (1_501, 8_193), (1_501, 16_385), (1_502, 1)]
        {
            let at = format!("WHERE stream_no = {stream} AND version = {version}");
            let removal = format!("SAVEPOINT whole; DELETE FROM eventbus_events {at}");
            connection.execute_batch(&removal).unwrap();
            let missing = search(&connection).1.unwrap();
            let aggregate_id = format!("id-{stream}");
            assert_eq!((missing.stream.aggregate_id().as_str(), missing.version.get()), (&*aggregate_id, version));
            connection.execute_batch("ROLLBACK TO whole; RELEASE whole").unwrap();
        }
    }

    #[test]
    fn archived_events_are_not_missing() {
        let connection = database();
        let archive = "
            DELETE FROM eventbus_events WHERE version <= 9000 AND stream_no IN (1, 7, 1501);
            UPDATE eventbus_streams SET archived_through = min(version, 9000) WHERE stream_no IN (1, 7, 1501)";
        connection.execute_batch(archive).unwrap();
        assert_eq!(search(&connection).1, None);
        connection.execute_batch("DELETE FROM eventbus_events WHERE version = 9001").unwrap();
        assert_eq!(search(&connection).1.unwrap().version.get(), 9_001);
    }
}
