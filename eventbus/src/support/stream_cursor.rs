//! The place in a stream where its next page begins.

use crate::{
    domain::{record::RecordedEvent, stream::Version},
    port::Direction,
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
    /// # Errors
    /// The version of an event that is missing.
    pub fn after_page(
        self,
        direction: Direction,
        events: &[RecordedEvent],
        has_more: bool,
    ) -> Result<Option<Self>, Version> {
        let mut wanted = match direction {
            Direction::Forward => Some(self.from.max(Version::FIRST)),
            Direction::Backward => self.is_continued.then_some(self.from),
        };
        for event in events {
            if let Some(missing) = wanted.filter(|wanted| *wanted != event.version()) {
                return Err(missing);
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
