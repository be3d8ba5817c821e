//! Ranges, the unit of publishing: all events of a feed after one position, up to a later one.
//!
//! Invariant: a range ends at its last event, or at one behind it that the relay skips; never at a position without an
//! event, which the store may assign after a crash.

use std::num::NonZeroUsize;

use crate::{
    domain::{record::RecordedEvent, stream::Position},
    port::feed_page::PageLimits,
    runtime::page_reader::ReadPage,
};

/// The limits of what one call publishes: about a millisecond of a busy Redis.
pub(super) const RANGE_LIMITS: PageLimits = PageLimits { events: NonZeroUsize::new(256).unwrap(), bytes: 256 * 1024 };

/// All events after one position, up to a later one.
#[derive(Debug)]
pub(super) struct FeedRange {
    pub(super) after: Position,
    pub(super) through: Position,
    pub(super) events: Vec<RecordedEvent>,
    /// Set if more events may follow it.
    pub(super) is_full: bool,
}

impl FeedRange {
    /// Cuts the range before this position. Returns `false` if no event is left.
    pub(super) fn truncate_before(&mut self, position: Position) -> bool {
        self.events.retain(|event| event.position() < Some(position));
        self.is_full = true;
        let last = self.events.last().and_then(RecordedEvent::position);
        self.through = last.unwrap_or(self.after);
        last.is_some()
    }

    /// Returns `true` if it moves the relay forward.
    pub(super) fn moves_position(&self) -> bool {
        self.through > self.after
    }
}

impl From<ReadPage> for FeedRange {
    fn from(page: ReadPage) -> Self {
        Self { after: page.after, through: page.last, events: page.events, is_full: page.is_full }
    }
}
