//! The newest part of the feed in memory, for handlers that are at its end or a little behind.

use std::collections::VecDeque;

use crate::domain::{record::RecordedEvent, stream::Position};

/// The most events of the window.
const EVENTS_MAX: usize = 2_048;
/// The most bytes of their payloads; the last page may exceed it.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// The events of a range of the feed that the handlers of this process take.
#[derive(Debug, Default)]
pub(super) struct FeedWindow {
    /// Unset until the end of the feed is known.
    is_begun: bool,
    after: Position,
    through: Position,
    events: VecDeque<RecordedEvent>,
    bytes: usize,
}

impl FeedWindow {
    /// Begins an empty window at a position.
    pub(super) fn begin(&mut self, at: Position) {
        *self = Self { is_begun: true, after: at, through: at, ..Self::default() };
    }

    pub(super) const fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Forgets the events and the place in the feed: an older copy may have replaced the store.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) const fn through(&self) -> Position {
        self.through
    }

    /// Appends the events up to `through`.
    pub(super) fn push(&mut self, events: &[RecordedEvent], through: Position) {
        for event in events {
            self.bytes += event.payload().len();
            self.events.push_back(event.clone());
        }
        self.through = through;
        while self.events.len() > EVENTS_MAX.max(events.len())
            || (self.bytes > BYTES_MAX && self.events.len() > events.len())
        {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.payload().len();
            self.after = oldest.position().unwrap_or(self.after);
        }
    }

    /// Returns the events after a position; `None` if the window begins later.
    pub(super) fn after_position(&self, after: Position) -> Option<Vec<RecordedEvent>> {
        if !self.is_begun || after < self.after {
            return None;
        }
        let first = self.events.partition_point(|event| event.position().unwrap_or_default() <= after);
        Some(self.events.range(first..).cloned().collect())
    }
}
