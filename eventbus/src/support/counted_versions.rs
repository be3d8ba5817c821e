//! The search for missing events in a store whose table of streams numbers them.

/// Versions of one stream, and the number of their events.
///
/// A search counts them window by window; only the last stream of a window may end before its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedVersions {
    /// The number of the stream.
    pub stream_no: i64,
    /// The first version that was counted.
    pub first: i64,
    /// The last version that was counted.
    pub last: i64,
    /// The version of the stream.
    pub version: i64,
    /// The number of events with these versions.
    pub found: i64,
}

impl CountedVersions {
    /// Returns `true` if one of the versions has no event.
    #[must_use]
    pub const fn is_incomplete(&self) -> bool {
        self.found <= self.last.saturating_sub(self.first)
    }

    /// Returns the stream and the version with which the next window begins.
    #[must_use]
    pub const fn next(&self) -> (i64, i64) {
        if self.last < self.version {
            (self.stream_no, self.last.saturating_add(1))
        } else {
            (self.stream_no.saturating_add(1), 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_goes_on_where_the_one_before_ended() {
        let counted = CountedVersions { stream_no: 7, first: 1, last: 100, version: 250, found: 100 };
        assert_eq!((counted.is_incomplete(), counted.next()), (false, (7, 101)));
        let counted = CountedVersions { first: 201, last: 250, found: 49, ..counted };
        assert_eq!((counted.is_incomplete(), counted.next()), (true, (8, 1)));
        let without_events = CountedVersions { stream_no: 7, first: 1, last: 0, version: 0, found: 0 };
        assert_eq!((without_events.is_incomplete(), without_events.next()), (false, (8, 1)));
        let archived = CountedVersions { stream_no: 7, first: 6, last: 5, version: 5, found: 0 };
        assert_eq!((archived.is_incomplete(), archived.next()), (false, (8, 1)));
    }
}
