//! The rows of unique values, each with the number of the stream that holds the value.
//!
//! Invariant: the transaction that stores an event makes its changes, and SQLite has one writer at a time.

use eventbus::{
    StreamId,
    event::UniqueChange,
    store::{UniqueKey, unique_scope},
};
use rusqlite::Connection;

use crate::query::{execute, query_value};

/// Returns the first change that takes a value which a different stream than this one holds.
pub(crate) fn find_taken<'a>(
    connection: &Connection,
    stream: &StreamId,
    stream_no: Option<i64>,
    changes: &'a [UniqueChange],
) -> rusqlite::Result<Option<&'a UniqueChange>> {
    for change in changes {
        let Some(key) = UniqueKey::taken_by(stream, change) else { continue };
        let row = (key.value(), key.scope(), key.tenant_or_nil().into_bytes());
        let holder: Option<i64> = query_value(connection, include_str!("sql/unique_value_holder.sql"), row)?;
        if holder.is_some_and(|holder| Some(holder) != stream_no) {
            return Ok(Some(change));
        }
    }
    Ok(None)
}

/// Gives back the values of the stream that the changes are about.
pub(crate) fn give_back(
    connection: &Connection,
    stream: &StreamId,
    stream_no: i64,
    changes: &[UniqueChange],
) -> rusqlite::Result<()> {
    for change in changes {
        let row = (stream_no, unique_scope(stream.aggregate_type(), change.name()));
        execute(connection, include_str!("sql/give_back_unique_value.sql"), row)?;
    }
    Ok(())
}

/// Makes the changes for a stream, which may take all of the values.
pub(crate) fn make_changes(
    connection: &Connection,
    stream: &StreamId,
    stream_no: i64,
    changes: &[UniqueChange],
) -> rusqlite::Result<()> {
    give_back(connection, stream, stream_no, changes)?;
    for key in changes.iter().filter_map(|change| UniqueKey::taken_by(stream, change)) {
        let row = (key.value(), key.scope(), key.tenant_or_nil().into_bytes(), stream_no);
        execute(connection, include_str!("sql/take_unique_value.sql"), row)?;
    }
    Ok(())
}
