//! Resolving appends that were not stored, or are in doubt: the cold path, decided from one snapshot.

use eventbus::{
    BoxError, EventId, NewEvent, RecordedEvent, StreamId, Version,
    port::{Append, AppendError, ReadError},
    support::first_result,
};
use sqlx::postgres::PgRow;

use crate::{pool::Query, record, statements::Statements};

/// The decision about an append, from what one snapshot shows of its events and its stream.
#[derive(Debug)]
pub(crate) enum AppendResolution {
    /// The same append was stored before: this is its result.
    Stored(Vec<RecordedEvent>),
    /// One of its event ids is stored, but not by the same append.
    Taken(AppendError),
    /// The record of one of its event ids is corrupt.
    Corrupt(ReadError),
    /// The stream is at this version, not the expected one.
    Conflict(Version),
    /// Not stored, and the stream is at the expected version.
    Retry,
}

/// Returns the statement for the state of the appends; [`decide`] reads its rows.
pub(crate) fn query<'a>(statements: &Statements, appends: impl Iterator<Item = &'a Append>) -> Query<'a> {
    let (mut ids, mut aggregate_ids, mut aggregate_types, mut tenants) = <(Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
    for Append { stream, events, .. } in appends {
        for event in events {
            ids.push(event.event_id().as_uuid());
            aggregate_ids.push(stream.aggregate_id().as_str());
            aggregate_types.push(stream.aggregate_type().as_str());
            tenants.push(stream.tenant_or_nil());
        }
    }
    let query = statements.query(include_str!("sql/resolve.sql"));
    query.bind(ids).bind(aggregate_ids).bind(aggregate_types).bind(tenants)
}

/// Decides about each append, from the rows of [`query`].
///
/// # Errors
/// If the rows do not fit the statement.
pub(crate) fn decide<'a>(
    mut rows: &[PgRow],
    appends: impl Iterator<Item = &'a Append>,
) -> Result<Vec<AppendResolution>, BoxError> {
    let mut all = Vec::new();
    for append in appends {
        let (own, rest) = rows.split_at_checked(append.events.len()).ok_or("fewer rows than asked for")?;
        rows = rest;
        all.push(match decode_state(own, &append.stream) {
            Ok((actual, stored)) => AppendResolution::new(append, actual, stored),
            Err(ReadError::Unavailable(source)) => return Err(source),
            Err(corrupt) => AppendResolution::Corrupt(corrupt),
        });
    }
    Ok(all)
}

/// Returns the version of the stream, and the events that are stored under one of the append's ids.
fn decode_state(rows: &[PgRow], stream: &StreamId) -> Result<(Version, Vec<RecordedEvent>), ReadError> {
    let unreadable = |error: sqlx::Error| ReadError::Unavailable(error.into());
    let (mut actual, mut stored) = (Version::NONE, Vec::new());
    for row in rows {
        actual = record::decode_stream_version(row, stream)?;
        if record::read_position(row, 1).map_err(unreadable)?.is_some() {
            stored.push(record::decode_event(row, 1, stream)?);
        }
    }
    Ok((actual, stored))
}

impl AppendResolution {
    /// Decides, by the event ids first: a repeated append usually finds its stream at a later version too.
    fn new(append: &Append, actual: Version, stored: Vec<RecordedEvent>) -> Self {
        let ids: Vec<EventId> = append.events.iter().map(NewEvent::event_id).collect();
        match first_result(&append.stream, &ids, stored) {
            Err(taken) => Self::Taken(taken),
            Ok(Some(records)) => Self::Stored(records),
            Ok(None) if append.expected.matches(actual) => Self::Retry,
            Ok(None) => Self::Conflict(actual),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventbus::{ExpectedVersion, Name, Position};

    fn resolve(expected: ExpectedVersion, actual: u64, is_stored: bool) -> AppendResolution {
        let stream = StreamId::parse("Order", "a").unwrap();
        let event = NewEvent::new(Name::from_static("Placed"), 1, "{}");
        let stored = event.clone().recorded_as(stream.clone(), 4.into(), Some(Position::new(9)));
        let append = Append { stream, expected, events: vec![event] };
        AppendResolution::new(&append, actual.into(), is_stored.then_some(stored).into_iter().collect())
    }

    #[test]
    fn what_is_stored_is_no_conflict_whatever_is_expected() {
        for expected in [ExpectedVersion::Any, ExpectedVersion::NoStream] {
            assert!(matches!(resolve(expected, 9, true), AppendResolution::Stored(_)), "{expected}");
        }
    }

    #[test]
    fn an_expectation_that_holds_is_no_conflict() {
        let exact = |version: u64| ExpectedVersion::Exact(version.into());
        for (expected, actual, is_conflict) in [
            (ExpectedVersion::Any, 7, false),
            (exact(7), 7, false),
            (exact(6), 7, true),
            (ExpectedVersion::NoStream, 7, true),
            (ExpectedVersion::NoStream, 0, false),
            (ExpectedVersion::StreamExists, 0, true),
            (ExpectedVersion::StreamExists, 1, false),
        ] {
            match resolve(expected, actual, false) {
                AppendResolution::Conflict(found) => assert!(is_conflict && found.get() == actual, "{expected}"),
                AppendResolution::Retry => assert!(!is_conflict, "{expected}"),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
