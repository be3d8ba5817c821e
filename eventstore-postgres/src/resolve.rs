//! Resolving appends that were not stored, or are in doubt: the cold path, decided from one snapshot.

use eventbus::{
    BoxError, EventId, NewEvent, RecordedEvent, Version,
    port::{Append, AppendError, ReadError},
    support::first_result,
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{pool::Query, record, statements::Statements};

/// The stored events and the stream's version of an append, in one snapshot.
#[derive(Debug)]
pub(crate) struct StoredState {
    /// The version of the stream.
    actual: Version,
    /// The events that are stored under one of the append's ids.
    stored_events: Vec<RecordedEvent>,
}

/// The decision about an append, from its [`StoredState`].
#[derive(Debug, PartialEq)]
pub(crate) enum AppendResolution {
    /// The same append was stored before: this is its result.
    Stored(Vec<RecordedEvent>),
    /// The stream is at this version, not the expected one.
    Conflict(Version),
    /// Not stored, and the stream is at the expected version.
    Retry,
}

/// Returns the statement for the state of the appends; [`decode_states`] reads its rows.
pub(crate) fn query<'a>(statements: &Statements, appends: impl Iterator<Item = &'a Append>) -> Query<'a> {
    let (mut ids, mut aggregate_ids, mut aggregate_types) = (Vec::new(), Vec::new(), Vec::new());
    for Append { stream, events, .. } in appends {
        for event in events {
            ids.push(event.event_id().as_uuid());
            aggregate_ids.push(stream.aggregate_id().as_str());
            aggregate_types.push(stream.aggregate_type().as_str());
        }
    }
    statements.query(include_str!("sql/resolve.sql")).bind(ids).bind(aggregate_ids).bind(aggregate_types)
}

/// Decodes the state of each append; a corrupt record is the error of that append only.
///
/// # Errors
/// If the rows do not fit the statement.
pub(crate) fn decode_states<'a>(
    mut rows: &[PgRow],
    appends: impl Iterator<Item = &'a Append>,
) -> Result<Vec<Result<StoredState, ReadError>>, BoxError> {
    let mut all = Vec::new();
    for append in appends {
        let (own, rest) = rows.split_at_checked(append.events.len()).ok_or("fewer rows than asked for")?;
        rows = rest;
        all.push(match StoredState::decode(own) {
            Err(ReadError::Unavailable(source)) => return Err(source),
            known => known,
        });
    }
    Ok(all)
}

impl StoredState {
    fn decode(rows: &[PgRow]) -> Result<Self, ReadError> {
        let unreadable = |error: sqlx::Error| ReadError::Unavailable(error.into());
        let mut known = Self { actual: Version::NONE, stored_events: Vec::new() };
        for row in rows {
            let actual: i64 = row.try_get(0).map_err(unreadable)?;
            known.actual = Version::new(u64::try_from(actual).unwrap_or(0));
            if record::read_position(row, 1).map_err(unreadable)?.is_some() {
                known.stored_events.push(record::decode_event(row, 1)?);
            }
        }
        Ok(known)
    }

    /// Decides, by the event ids first: a repeated append usually finds its stream at a later version too.
    pub(crate) fn resolve(self, append: &Append) -> Result<AppendResolution, AppendError> {
        let ids: Vec<EventId> = append.events.iter().map(NewEvent::event_id).collect();
        Ok(match first_result(&append.stream, &ids, self.stored_events)? {
            Some(records) => AppendResolution::Stored(records),
            None if append.expected.matches(self.actual) => AppendResolution::Retry,
            None => AppendResolution::Conflict(self.actual),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventbus::{ExpectedVersion, Name, Position, StreamId};

    fn resolve(expected: ExpectedVersion, actual: u64, is_stored: bool) -> AppendResolution {
        let stream = StreamId::parse("Order", "a").unwrap();
        let event = NewEvent::new(Name::from_static("Placed"), 1, "{}");
        let stored = event.clone().recorded_as(stream.clone(), 4.into(), Some(Position::new(9)));
        let known =
            StoredState { actual: actual.into(), stored_events: is_stored.then_some(stored).into_iter().collect() };
        known.resolve(&Append { stream, expected, events: vec![event] }).unwrap()
    }

    #[test]
    fn what_is_stored_is_no_conflict_whatever_is_expected() {
        for expected in [ExpectedVersion::Any, ExpectedVersion::NoStream] {
            assert!(matches!(resolve(expected, 9, true), AppendResolution::Stored(_)), "{expected}");
        }
    }

    #[test]
    fn an_expectation_that_holds_is_no_conflict() {
        let conflict = |actual: u64| AppendResolution::Conflict(actual.into());
        let exact = |version: u64| ExpectedVersion::Exact(version.into());
        for (expected, actual, resolution) in [
            (ExpectedVersion::Any, 7, AppendResolution::Retry),
            (exact(7), 7, AppendResolution::Retry),
            (exact(6), 7, conflict(7)),
            (ExpectedVersion::NoStream, 7, conflict(7)),
            (ExpectedVersion::NoStream, 0, AppendResolution::Retry),
            (ExpectedVersion::StreamExists, 0, conflict(0)),
            (ExpectedVersion::StreamExists, 1, AppendResolution::Retry),
        ] {
            assert_eq!(resolve(expected, actual, false), resolution, "{expected}");
        }
    }
}
