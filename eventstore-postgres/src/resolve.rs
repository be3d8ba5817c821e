//! What to make of an append that stored nothing, or perhaps did: the cold path, decided from one snapshot.

use eventbus::{
    EventId, ExpectedVersion, NewEvent, RecordedEvent, StreamId, Version,
    port::{AppendError, ReadError, first_result},
};
use sqlx::{Row, postgres::PgRow};

use crate::record;

/// One append: what is asked of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Append<'a> {
    pub(crate) stream: &'a StreamId,
    pub(crate) expected: ExpectedVersion,
    pub(crate) events: &'a [NewEvent],
}

impl Append<'_> {
    pub(crate) fn ids(&self) -> Vec<EventId> {
        self.events.iter().map(NewEvent::event_id).collect()
    }
}

/// What the store holds of an append, in one snapshot.
#[derive(Debug)]
pub(crate) struct Known {
    /// Where the stream is.
    actual: Version,
    /// The events that are stored under one of the append's ids.
    found: Vec<RecordedEvent>,
}

/// What follows from it.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The same append was stored before: this is its result.
    Stored(Vec<RecordedEvent>),
    /// The stream is elsewhere.
    Conflict(Version),
    /// Nothing speaks against it any more, or yet.
    TryAgain,
}

impl Known {
    /// Reads the rows of `resolve.sql`.
    pub(crate) fn read(rows: &[PgRow]) -> Result<Self, ReadError> {
        let unreadable = |error: sqlx::Error| ReadError::Unavailable(error.into());
        let mut known = Self { actual: Version::NONE, found: Vec::new() };
        for row in rows {
            let actual: i64 = row.try_get(0).map_err(unreadable)?;
            known.actual = Version::new(u64::try_from(actual).unwrap_or(0));
            if record::position(row, 1).map_err(unreadable)?.is_some() {
                known.found.push(record::decode(row, 1)?);
            }
        }
        Ok(known)
    }

    /// Decides; the ids first, because a repeated append usually finds its stream elsewhere too.
    pub(crate) fn judge(self, append: Append<'_>) -> Result<Verdict, AppendError> {
        Ok(match first_result(append.stream, &append.ids(), self.found)? {
            Some(records) => Verdict::Stored(records),
            None if append.expected.matches(self.actual) => Verdict::TryAgain,
            None => Verdict::Conflict(self.actual),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventbus::{Name, Position};

    fn judge(expected: ExpectedVersion, actual: u64, is_stored: bool) -> Verdict {
        let stream = StreamId::parse("Order", "a").unwrap();
        let event = NewEvent::new(Name::from_static("Placed"), 1, "{}");
        let stored = event.clone().recorded_as(stream.clone(), 4.into(), Some(Position::new(9)));
        let known = Known { actual: actual.into(), found: is_stored.then_some(stored).into_iter().collect() };
        let append = Append { stream: &stream, expected, events: &[event] };
        known.judge(append).unwrap()
    }

    #[test]
    fn what_is_stored_is_no_conflict_whatever_is_expected() {
        for expected in [ExpectedVersion::Any, ExpectedVersion::NoStream] {
            assert!(matches!(judge(expected, 9, true), Verdict::Stored(_)), "{expected}");
        }
    }

    #[test]
    fn an_expectation_that_holds_is_no_conflict() {
        let conflict = |actual: u64| Verdict::Conflict(actual.into());
        let exact = |version: u64| ExpectedVersion::Exact(version.into());
        for (expected, actual, verdict) in [
            (ExpectedVersion::Any, 7, Verdict::TryAgain),
            (exact(7), 7, Verdict::TryAgain),
            (exact(6), 7, conflict(7)),
            (ExpectedVersion::NoStream, 7, conflict(7)),
            (ExpectedVersion::NoStream, 0, Verdict::TryAgain),
            (ExpectedVersion::StreamExists, 0, conflict(0)),
            (ExpectedVersion::StreamExists, 1, Verdict::TryAgain),
        ] {
            assert_eq!(judge(expected, actual, false), verdict, "{expected}");
        }
    }
}
