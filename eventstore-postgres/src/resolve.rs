//! What to make of an append that stored nothing, or perhaps did: the cold path, decided from one snapshot.

use eventbus::{
    EventId, ExpectedVersion, NewEvent, RecordedEvent, StreamId, Version, port::ReadError,
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

/// What the store holds of an append, in one snapshot.
#[derive(Debug)]
pub(crate) struct Known {
    /// Where the stream is.
    actual: Version,
    /// The event stored under each of the append's ids, in their order.
    stored: Vec<Option<RecordedEvent>>,
}

/// What follows from it.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The same append was stored before: this is its result.
    Stored(Vec<RecordedEvent>),
    /// Another append used this id.
    EventIdTaken(EventId),
    /// The stream is elsewhere.
    Conflict(Version),
    /// Nothing speaks against it any more, or yet.
    TryAgain,
}

impl Known {
    /// Reads the rows of `resolve.sql`.
    pub(crate) fn read(rows: &[PgRow]) -> Result<Self, ReadError> {
        let unreadable = |error: sqlx::Error| ReadError::Unavailable(error.into());
        let actual: i64 = match rows.first() {
            Some(row) => row.try_get(0).map_err(unreadable)?,
            None => 0,
        };
        let stored = rows
            .iter()
            .map(|row| match record::position(row, 1).map_err(unreadable)? {
                Some(_) => record::decode(row, 1).map(Some),
                None => Ok(None),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            actual: Version::new(u64::try_from(actual).unwrap_or(0)),
            stored,
        })
    }

    /// Decides; the ids first, because a repeated append usually finds its stream elsewhere too.
    pub(crate) fn judge(self, append: Append<'_>) -> Verdict {
        let found: Vec<_> = self.stored.into_iter().flatten().collect();
        if let Some(first) = found.first() {
            let is_repeat = found.len() == append.events.len()
                && found
                    .iter()
                    .all(|event| event.metadata().stream() == append.stream)
                && found
                    .windows(2)
                    .all(|pair| pair[0].version().next() == pair[1].version());
            return match is_repeat {
                true => Verdict::Stored(found),
                false => Verdict::EventIdTaken(first.metadata().event_id()),
            };
        }
        if append.expected.matches(self.actual) {
            Verdict::TryAgain
        } else {
            Verdict::Conflict(self.actual)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventbus::{Name, Position};

    fn stream(id: &str) -> StreamId {
        StreamId::parse("Order", id).unwrap()
    }

    fn events(number: usize) -> Vec<NewEvent> {
        let event = || NewEvent::new(Name::from_static("Placed"), 1, "{}");
        (0..number).map(|_| event()).collect()
    }

    fn stored(event: &NewEvent, id: &str, version: u64) -> Option<RecordedEvent> {
        let position = Position::new(version + 10);
        Some(
            event
                .clone()
                .recorded_as(stream(id), version.into(), Some(position)),
        )
    }

    fn judge(
        events: &[NewEvent],
        expected: ExpectedVersion,
        actual: u64,
        stored: Vec<Option<RecordedEvent>>,
    ) -> Verdict {
        let known = Known {
            actual: actual.into(),
            stored,
        };
        known.judge(Append {
            stream: &stream("a"),
            expected,
            events,
        })
    }

    #[test]
    fn a_repeat_is_known_by_all_its_ids_in_their_order() {
        let new = events(2);
        let both = vec![stored(&new[0], "a", 4), stored(&new[1], "a", 5)];
        for expected in [ExpectedVersion::Any, ExpectedVersion::NoStream] {
            let verdict = judge(&new, expected, 9, both.clone());
            assert_eq!(
                verdict,
                Verdict::Stored(both.iter().flatten().cloned().collect())
            );
        }
    }

    #[test]
    fn an_id_of_another_append_is_taken() {
        let new = events(2);
        let taken = Verdict::EventIdTaken(new[0].event_id());
        for stored in [
            vec![stored(&new[0], "a", 4), None],
            vec![stored(&new[0], "a", 4), stored(&new[1], "b", 5)],
            vec![stored(&new[0], "a", 4), stored(&new[1], "a", 6)],
            vec![stored(&new[0], "a", 5), stored(&new[1], "a", 4)],
        ] {
            assert_eq!(judge(&new, ExpectedVersion::Any, 9, stored), taken);
        }
    }

    #[test]
    fn an_expectation_that_holds_is_no_conflict() {
        let new = events(1);
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
            assert_eq!(
                judge(&new, expected, actual, vec![None]),
                verdict,
                "{expected}"
            );
        }
    }
}
