//! The versions of the streams that a read of the feed has returned.

use std::collections::{HashMap, HashSet};

use super::missing_event_error;
use crate::{
    domain::{
        record::RecordedEvent,
        stream::{Position, StreamId, Version},
    },
    port::ReadError,
};

/// The most streams whose versions a read remembers: about 3 MB.
const REMEMBERED_MAX: usize = 16_384;

/// The last version of each stream that an unfiltered read of the feed has returned.
///
/// Invariant: an event of a stream directly follows the event with the version before it, so that a missing event is an
/// error. The read knows the version before from its former events; for the first event of a page, the store looks it
/// up, so that a reader that stopped at a gap and reads again from there stops again.
#[derive(Debug, Clone)]
pub struct FeedVersions {
    last: HashMap<StreamId, Version>,
    /// Set if the read began at the first event and has forgotten no stream: then all other streams are new.
    is_complete: bool,
}

impl FeedVersions {
    /// Creates the versions of a read that has returned no events, and begins after `after`.
    #[must_use]
    pub fn new(after: Position) -> Self {
        Self { last: HashMap::new(), is_complete: after == Position::START }
    }

    /// Returns the streams of a page whose first event in a read from the start has a version above 1: their earlier
    /// events are missing, unless they were archived.
    #[must_use]
    pub fn late_starts(&self, events: &[RecordedEvent]) -> Vec<StreamId> {
        let mut met = HashSet::new();
        let streams = events.iter().filter(|event| {
            let stream = event.metadata().stream();
            self.is_complete
                && !self.last.contains_key(stream)
                && met.insert(stream)
                && event.version() > Version::FIRST
        });
        streams.map(|event| event.metadata().stream().clone()).collect()
    }

    /// Notes up to which version the events of a stream were archived.
    pub fn note_archived(&mut self, stream: StreamId, through: Version) {
        if through > Version::NONE {
            self.remember(stream, through);
        }
    }

    /// Remembers the versions of a page. Returns `true` if the page has a gap, and so ends there.
    ///
    /// `has_former` says whether the store has the event directly before the page's first one, in the stream of the
    /// first one; ignored if the first one has version 1. If an event is missing, the page ends: removes the events
    /// behind the gap, and the next page fails there.
    ///
    /// # Errors
    /// The [`missing_event_error`] if an event is missing before the first one of the page.
    pub fn end_before_gap(&mut self, events: &mut Vec<RecordedEvent>, has_former: bool) -> Result<bool, ReadError> {
        for place in 0..events.len() {
            let event = &events[place];
            let (stream, version) = (event.metadata().stream(), event.version());
            let former = self.last.get(stream).copied();
            let wanted = match former {
                Some(former) => former.next(),
                None if self.is_complete => Version::FIRST,
                None if place == 0 && !has_former && version > Version::FIRST => Version::new(version.get() - 1),
                None => version,
            };
            if version > wanted {
                let error = missing_event_error(stream, wanted);
                events.truncate(place);
                return if place == 0 { Err(error) } else { Ok(true) };
            }
            match self.last.get_mut(stream) {
                Some(last) => *last = version,
                None => self.remember(stream.clone(), version),
            }
        }
        Ok(false)
    }

    fn remember(&mut self, stream: StreamId, version: Version) {
        if self.last.len() >= REMEMBERED_MAX {
            self.last.clear();
            self.is_complete = false;
        }
        self.last.insert(stream, version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{name::Name, record::NewEvent};

    fn event(stream: &str, version: u64) -> RecordedEvent {
        let stream = StreamId::parse("Order", stream).unwrap();
        NewEvent::new(Name::from_static("Noted"), 1, "{}").recorded_as(stream, Version::new(version), None)
    }

    fn events(versions: &[(&str, u64)]) -> Vec<RecordedEvent> {
        versions.iter().map(|(stream, version)| event(stream, *version)).collect()
    }

    fn read_on(versions: &mut FeedVersions, page: &[(&str, u64)], has_former: bool) -> Result<usize, String> {
        let mut page = events(page);
        versions.end_before_gap(&mut page, has_former).map(|_| page.len()).map_err(|error| error.to_string())
    }

    fn missing(place: &str) -> Result<usize, String> {
        Err(format!("event store holds corrupt data at event {place}"))
    }

    #[test]
    fn a_gap_ends_its_page_and_fails_the_next_one() {
        let mut versions = FeedVersions::new(Position::START);
        assert_eq!(read_on(&mut versions, &[("a", 1), ("b", 1), ("a", 2)], false), Ok(3));
        assert_eq!(read_on(&mut versions, &[("b", 2), ("a", 4), ("b", 3)], true), Ok(1), "within the page");
        assert_eq!(read_on(&mut versions, &[("a", 4), ("b", 3)], true), missing("3 of stream `Order/a`"));
    }

    #[test]
    fn a_stream_begins_with_version_1_where_a_read_from_the_start_first_meets_it() {
        let mut versions = FeedVersions::new(Position::START);
        assert_eq!(read_on(&mut versions, &[("a", 1), ("b", 2)], true), Ok(1));
        assert_eq!(read_on(&mut versions, &[("b", 2)], true), missing("1 of stream `Order/b`"));
        let mut versions = FeedVersions::new(Position::new(7));
        assert_eq!(read_on(&mut versions, &[("a", 1), ("b", 2), ("b", 3), ("b", 5)], false), Ok(3));
    }

    #[test]
    fn a_stream_whose_first_events_were_archived_begins_behind_them() {
        let mut versions = FeedVersions::new(Position::START);
        let page = [("a", 6), ("b", 1), ("a", 7), ("b", 2), ("c", 3)];
        let [a, c] = ["a", "c"].map(|id| StreamId::parse("Order", id).unwrap());
        assert_eq!(versions.late_starts(&events(&page)), [a.clone(), c.clone()]);
        versions.note_archived(a, Version::new(5));
        versions.note_archived(c, Version::NONE);
        assert_eq!(read_on(&mut versions, &page, true), Ok(4));
        assert_eq!(read_on(&mut versions, &page[4..], true), missing("1 of stream `Order/c`"));
        assert_eq!(FeedVersions::new(Position::new(7)).late_starts(&events(&page)), []);
    }

    #[test]
    fn a_read_that_begins_behind_a_gap_fails_there() {
        let mut versions = FeedVersions::new(Position::new(7));
        assert_eq!(read_on(&mut versions, &[("a", 3)], false), missing("2 of stream `Order/a`"));
        assert_eq!(read_on(&mut versions, &[("a", 3)], true), Ok(1));
        assert_eq!(read_on(&mut versions, &[("a", 4)], false), Ok(1), "the read returned version 3");
    }

    #[test]
    fn a_read_remembers_a_bounded_number_of_streams() {
        let mut versions = FeedVersions::new(Position::START);
        for number in 0..REMEMBERED_MAX {
            assert_eq!(read_on(&mut versions, &[(&number.to_string(), 1)], false), Ok(1));
        }
        assert_eq!(read_on(&mut versions, &[("0", 3)], true), missing("2 of stream `Order/0`"));
        assert_eq!(read_on(&mut versions, &[("more", 1)], false), Ok(1));
        assert_eq!(versions.last.len(), 1);
        assert_eq!(read_on(&mut versions, &[("more", 2), ("0", 3)], true), Ok(2), "it was forgotten");
    }
}
