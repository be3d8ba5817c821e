//! The place in a stream where its next page begins.

use crate::{
    domain::{
        record::RecordedEvent,
        stream::{StreamId, Version},
    },
    port::{Direction, MissingEvent, ReadError},
};

/// The place in a stream where its next page begins.
///
/// Invariant: versions have no gaps, so a missing event is an error: a fold without it would make an aggregate that
/// never existed.
#[derive(Debug, Clone, Copy)]
pub struct StreamCursor {
    from: Version,
    /// Set if a page was read before, so that an event with exactly this version must exist.
    is_continued: bool,
}

impl StreamCursor {
    /// Creates the cursor of the first page of a stream read from version `from` on.
    #[must_use]
    pub const fn new(from: Version) -> Self {
        Self { from, is_continued: false }
    }

    /// Returns the version from which the page is to be read.
    #[must_use]
    pub const fn start(self) -> Version {
        self.from
    }

    /// Returns the cursor of the page after `events`, the page of this cursor; `None` if it is the last page.
    ///
    /// If an event is missing, the page ends: removes the events behind the gap, and returns the cursor at which the
    /// next page fails. Backward, a page of events is the last one only if it ends with version 1.
    ///
    /// # Errors
    /// The version of an event that is missing, if it is the first one of the page.
    pub fn after_page(
        self,
        direction: Direction,
        events: &mut Vec<RecordedEvent>,
        has_more: bool,
    ) -> Result<Option<Self>, Version> {
        let mut wanted = match direction {
            Direction::Forward => Some(self.from.max(Version::FIRST)),
            Direction::Backward => self.is_continued.then_some(self.from),
        };
        for (place, event) in events.iter().enumerate() {
            if let Some(missing) = wanted.filter(|wanted| *wanted != event.version()) {
                events.truncate(place);
                return if place == 0 { Err(missing) } else { Ok(Some(Self { from: missing, is_continued: true })) };
            }
            wanted = Some(match direction {
                Direction::Forward => event.version().next(),
                Direction::Backward => Version::new(event.version().get().saturating_sub(1)),
            });
        }
        match (wanted, direction) {
            (None | Some(Version::NONE), _) => Ok(None),
            (Some(missing), Direction::Backward) if events.is_empty() => Err(missing),
            (Some(_), Direction::Forward) if !has_more => Ok(None),
            (Some(from), _) => Ok(Some(Self { from, is_continued: true })),
        }
    }
}

/// Returns the error of a store that lacks an event of a stream but has later ones.
///
/// # Examples
/// ```
/// use eventbus::{StreamId, support::missing_event_error};
/// let error = missing_event_error(&StreamId::parse("Order", "1")?, 3.into());
/// assert_eq!(error.to_string(), "event store holds corrupt data at event 3 of stream `Order/1`");
/// # Ok::<(), eventbus::Error>(())
/// ```
#[must_use]
pub fn missing_event_error(stream: &StreamId, version: Version) -> ReadError {
    ReadError::corrupt(
        MissingEvent { stream: stream.clone(), version }.to_string(),
        "the event is missing, and later ones are there: it was archived, or other software removed it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{name::Name, record::NewEvent};

    fn events(versions: &[u64]) -> Vec<RecordedEvent> {
        let stream = StreamId::parse("Order", "1").unwrap();
        let recorded = |&version: &u64| {
            let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
            event.recorded_as(stream.clone(), version.into(), Some(version.into()))
        };
        versions.iter().map(recorded).collect()
    }

    /// Reads a stream of events with `versions` in pages of `page_len`; returns the versions read, and the missing one.
    fn read(direction: Direction, versions: &[u64], page_len: usize) -> (Vec<u64>, Option<u64>) {
        let from = if direction == Direction::Forward { Version::FIRST } else { Version::MAX };
        let (mut next, mut returned) = (Some(StreamCursor::new(from)), Vec::new());
        while let Some(cursor) = next {
            let mut page = events(versions);
            if direction == Direction::Forward {
                page.retain(|event| event.version() >= cursor.start());
            } else {
                page.retain(|event| event.version() <= cursor.start());
                page.reverse();
            }
            page.truncate(page_len);
            let has_more = page.len() == page_len;
            next = match cursor.after_page(direction, &mut page, has_more) {
                Ok(next) => next,
                Err(missing) => return (returned, Some(missing.get())),
            };
            returned.extend(page.iter().map(|event| event.version().get()));
        }
        (returned, None)
    }

    #[test]
    fn the_events_before_a_gap_are_returned_then_the_missing_version() {
        for page_len in [1, 2, 3, 4, 5, 10] {
            let both_ways = |versions: &[u64]| {
                [Direction::Forward, Direction::Backward].map(|direction| read(direction, versions, page_len))
            };
            assert_eq!(both_ways(&[]), [(vec![], None), (vec![], None)]);
            assert_eq!(both_ways(&[1, 2, 3, 4]), [(vec![1, 2, 3, 4], None), (vec![4, 3, 2, 1], None)]);
            assert_eq!(both_ways(&[1, 3, 4]), [(vec![1], Some(2)), (vec![4, 3], Some(2))]);
            assert_eq!(both_ways(&[2, 3, 4]), [(vec![], Some(1)), (vec![4, 3, 2], Some(1))]);
            assert_eq!(both_ways(&[3, 4]), [(vec![], Some(1)), (vec![4, 3], Some(2))]);
        }
    }
}
