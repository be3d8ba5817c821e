//! Snapshots of streams.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, StreamId, Version,
    port::{Direction, ReadError, SnapshotError, SnapshotRead, Snapshots, StoredSnapshot},
    support::{StreamCursor, paged_after, source_chain},
};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _};

use crate::{
    error::{SqliteTransactionError, is_caused_by_events},
    query::{execute, query_value},
    read::load_page,
    row::stream_columns,
    store::SqliteEventStore,
};

/// The most snapshots, of any fold, that one batch of [`Snapshots::remove_snapshots`] reads: their data may be large.
const REMOVAL_BATCH_MAX: i64 = 100;

/// The most bytes that a caller's task writes by itself.
const INLINE_BYTES_MAX: usize = 16 * 1024;

#[async_trait]
impl Snapshots for SqliteEventStore {
    async fn read_from_snapshot<'s>(&'s self, stream: &StreamId, fold: &Name) -> Result<SnapshotRead<'s>, ReadError> {
        let (stream, fold) = (stream.clone(), fold.clone());
        let of_stream = stream.clone();
        let read = self.readers().read(move |connection| {
            // before the events: all events up to the snapshot are stored, and the read begins after them
            let snapshot = load_snapshot(connection, &of_stream, &fold).unwrap_or_else(|error| {
                tracing::debug!(stream = %of_stream, %fold, %error, "a snapshot cannot be read: reading all events");
                None
            });
            let after = snapshot.as_ref().map_or(Version::NONE, |snapshot| snapshot.version);
            let page = load_page(connection, &of_stream, StreamCursor::new(after.next()), Direction::Forward)?;
            Ok((snapshot, page))
        });
        let (snapshot, first) = read.await?;
        let events = paged_after(first, move |cursor| {
            let stream = stream.clone();
            self.readers().read(move |connection| load_page(connection, &stream, cursor, Direction::Forward))
        });
        Ok(SnapshotRead { snapshot, events })
    }

    async fn save_snapshot(
        &self,
        stream: &StreamId,
        fold: &Name,
        snapshot: &StoredSnapshot,
    ) -> Result<bool, SnapshotError> {
        if snapshot.version == Version::NONE {
            return Ok(false);
        }
        let is_large = snapshot.data.len() > INLINE_BYTES_MAX;
        let (stream, key, snapshot) = (stream.clone(), fold.clone(), snapshot.clone());
        let save = move |connection: &Connection| {
            let (id, of_type, tenant) = stream_columns(&stream);
            let StoredSnapshot { version, data } = &snapshot;
            let parameters = (id, of_type, tenant, key.as_str(), version.as_i64(), data);
            execute(connection, include_str!("sql/save_snapshot.sql"), parameters)
        };
        let saved = match is_large {
            true => self.writer().write_large(save).await,
            false => self.writer().write(save).await,
        };
        saved.map(|rows| rows > 0).map_err(|error| snapshot_error(fold, error))
    }

    async fn remove_snapshot(&self, stream: &StreamId, fold: &Name) -> Result<bool, SnapshotError> {
        let (stream, key) = (stream.clone(), fold.clone());
        let remove = move |connection: &Connection| {
            let (id, of_type, tenant) = stream_columns(&stream);
            execute(connection, include_str!("sql/forget_snapshot.sql"), (id, of_type, tenant, key.as_str()))
        };
        let removed = self.writer().write(remove).await;
        removed.map(|rows| rows > 0).map_err(|error| snapshot_error(fold, error))
    }

    async fn remove_snapshots(&self, fold: &Name) -> Result<u64, SnapshotError> {
        let (mut after, mut removed) = (i64::MIN, 0);
        loop {
            let key = fold.clone();
            let remove = move |connection: &Connection| remove_batch(connection, after, &key);
            let batch = self.writer().write_large(remove).await;
            match batch.map_err(|error| snapshot_error(fold, error))? {
                Some((last, rows)) => (after, removed) = (last, removed + rows as u64),
                None => return Ok(removed),
            }
        }
    }
}

fn load_snapshot(connection: &Connection, stream: &StreamId, fold: &Name) -> rusqlite::Result<Option<StoredSnapshot>> {
    let (id, of_type, tenant) = stream_columns(stream);
    let mut statement = connection.prepare_cached(include_str!("sql/load_snapshot.sql"))?;
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get(1)?));
    let found = statement.query_row((id, of_type, tenant, fold.as_str()), row).optional()?;
    // the statement returns no negative version
    Ok(found.map(|(version, data)| StoredSnapshot { version: Version::new(version.cast_unsigned()), data }))
}

/// Removes the snapshots of `fold` among the next snapshots after stream number `after`; returns the last stream number
/// and the number of removed snapshots, `None` if there are none after `after`.
fn remove_batch(connection: &Connection, after: i64, fold: &Name) -> rusqlite::Result<Option<(i64, usize)>> {
    let last: Option<Option<i64>> =
        query_value(connection, include_str!("sql/snapshot_batch.sql"), (after, REMOVAL_BATCH_MAX))?;
    let Some(last) = last.flatten() else {
        return Ok(None);
    };
    let removed = execute(connection, include_str!("sql/forget_snapshots.sql"), (after, last, fold.as_str()))?;
    Ok(Some((last, removed)))
}

/// Converts the error of a write; a retry does not help if the call itself is at fault.
fn snapshot_error(fold: &Name, error: BoxError) -> SnapshotError {
    let is_refusal = source_chain(&*error).any(|error| {
        let shared = error.downcast_ref::<std::sync::Arc<rusqlite::Error>>().map(|error| &**error);
        error.is::<SqliteTransactionError>()
            || error.downcast_ref::<rusqlite::Error>().or(shared).is_some_and(|error| {
                is_caused_by_events(error) || error.sqlite_error_code() == Some(ErrorCode::ReadOnly)
            })
    });
    if is_refusal { SnapshotError::refused(fold, error) } else { SnapshotError::unavailable(fold, error) }
}
