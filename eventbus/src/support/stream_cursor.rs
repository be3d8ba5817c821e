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
/// Invariant: versions have no gaps, so that a missing event is an error: without it, an aggregate would be one that
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
    /// Where an event is missing the page ends: removes the events behind the gap, and returns the cursor at which the
    /// next page fails.
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
        match wanted {
            None | Some(Version::NONE) => Ok(None),
            Some(missing) if direction == Direction::Backward && !has_more => Err(missing),
            Some(from) => Ok(has_more.then_some(Self { from, is_continued: true })),
        }
    }
}

/// Returns the error of a store that misses an event of a stream which has later ones.
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
