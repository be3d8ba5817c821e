//! The newest part of the feed in memory, for handlers that are at its end or a little behind.

use std::collections::VecDeque;

use super::slots::Slots;
use crate::domain::{record::RecordedEvent, stream::Position};

/// The most events of the window.
const EVENTS_MAX: usize = 2_048;
/// The most bytes of their payloads; the last page may exceed it.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Events of the feed: all in a range that the handlers of this process take, of streams in `slots`.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) after: Position,
    /// The feed is read up to here.
    pub(super) through: Position,
    pub(super) events: Vec<RecordedEvent>,
    pub(super) slots: Slots,
}

/// The events of a range of the feed that the handlers of this process take, of streams in its slots.
#[derive(Debug, Default)]
pub(super) struct FeedWindow {
    /// Unset until the end of the feed is known.
    is_begun: bool,
    after: Position,
    through: Position,
    slots: Slots,
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

    /// Appends a page. If it is of other slots, the window begins anew with it.
    pub(super) fn push(&mut self, page: &Page) {
        if self.slots != page.slots {
            let is_begun = self.is_begun;
            *self = Self { is_begun, after: page.after, slots: page.slots, ..Self::default() };
        }
        for event in &page.events {
            self.bytes += event.payload().len();
            self.events.push_back(event.clone());
        }
        self.through = page.through;
        let events = &page.events;
        while self.events.len() > EVENTS_MAX.max(events.len())
            || (self.bytes > BYTES_MAX && self.events.len() > events.len())
        {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.payload().len();
            self.after = oldest.position().unwrap_or(self.after);
        }
    }

    /// Returns the rest of the window after a position; `None` if the window begins later, or lacks some of these slots.
    pub(super) fn page_after(&self, after: Position, slots: Slots) -> Option<Page> {
        if !self.is_begun || after < self.after || (!self.slots.covers(slots) && after < self.through) {
            return None;
        }
        let first = self.events.partition_point(|event| event.position().unwrap_or_default() <= after);
        let events = self.events.range(first..).cloned().collect();
        Some(Page { after, through: self.through, events, slots: self.slots })
    }
}
