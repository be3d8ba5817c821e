//! How far one group has come: what it has read, what is pending, which checkpoint that makes.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    domain::{record::RecordedEvent, stream::Position},
    port::MessageId,
};

/// An entry handed over to a group.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) number: u64,
    pub(super) attempt: u32,
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
}

/// An entry read and not acknowledged: in hand, or failed.
#[derive(Debug)]
struct Pending {
    position: Option<Position>,
    attempts: u32,
    failed: bool,
}

/// The place of one group in the log.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The number of the first entry it has not read.
    pub(super) next: u64,
    /// Pending entries to be handled again, before any new one.
    pub(super) again: VecDeque<u64>,
    pending: BTreeMap<u64, Pending>,
    /// The highest position it has finished.
    finished: Option<Position>,
    /// The checkpoint as it was loaded or saved last.
    saved: Option<Position>,
    /// The checkpoint that was to be saved last: it may be stored though the answer was lost.
    tried: Option<Position>,
    /// Whether someone else was seen to move the checkpoint.
    has_rival: bool,
    /// Whether `saved` was loaded.
    pub(super) is_loaded: bool,
    /// Whether events were withheld from it, so that its checkpoint must not pass them.
    misses_events: bool,
}

impl Cursor {
    /// Takes an entry; `None` if the group's checkpoint says that it was handled before.
    pub(super) fn take(&mut self, number: u64, position: Option<Position>) -> Option<u32> {
        self.next = self.next.max(number + 1);
        if position.is_some() && position <= self.saved {
            self.pending.remove(&number);
            return None;
        }
        let pending = self.pending.entry(number).or_insert(Pending { position, attempts: 0, failed: false });
        pending.attempts += 1;
        pending.failed = false;
        Some(pending.attempts)
    }

    /// Acknowledges an entry.
    pub(super) fn finish(&mut self, number: u64) {
        if let Some(pending) = self.pending.remove(&number) {
            self.finished = self.finished.max(pending.position);
        }
    }

    /// Has an entry that nobody tried to handle taken again, before all others.
    pub(super) fn put_back(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.attempts = pending.attempts.saturating_sub(1);
            self.again.push_front(number);
        }
    }

    /// Leaves an entry pending because a handler failed.
    pub(super) fn fail(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.failed = true;
        }
    }

    /// Begins anew: everything pending is handled again.
    pub(super) fn restart(&mut self) {
        self.again = self.pending.keys().copied().collect();
    }

    /// Pending entries, and how many of them failed.
    pub(super) fn pending(&self) -> (u64, u64) {
        let failed = self.pending.values().filter(|pending| pending.failed);
        (self.pending.len() as u64, failed.count() as u64)
    }

    /// Whether the group has not read, or not acknowledged, an entry.
    pub(super) fn needs(&self, number: u64) -> bool {
        number >= self.next || self.pending.contains_key(&number)
    }

    /// An entry is gone; the group may have needed it.
    pub(super) fn entry_dropped(&mut self, number: u64, position: Option<Position>) {
        let needed = self.needs(number) && position.is_some() && position > self.saved;
        self.misses_events |= needed;
        self.pending.remove(&number);
    }

    /// From now on checkpoints speak of another feed: what was read and saved before says nothing about it.
    pub(super) fn leave_feed(&mut self) {
        for pending in self.pending.values_mut() {
            pending.position = None;
        }
        self.finished = None;
        self.saved = None;
        self.is_loaded = false;
        self.misses_events = false;
    }

    /// Takes over the checkpoint that a store kept; `None` in it is before the first event.
    ///
    /// Everything after `fed_from` passes through the log, `None` if that is not known. A group that was further
    /// behind misses events until the next start.
    pub(super) fn load(&mut self, saved: Option<Position>, fed_from: Option<Position>) {
        let from = saved.unwrap_or(Position::START);
        self.misses_events |= fed_from.is_none_or(|fed_from| from < fed_from);
        self.saved = saved;
        self.is_loaded = true;
    }

    /// The checkpoint to be saved: everything up to it is finished. `None` if there is nothing new.
    pub(super) fn checkpoint(&self) -> Option<Position> {
        let finished = self.finished.filter(|_| self.is_loaded && !self.misses_events)?;
        let before = |position: Position| Position::new(position.get().saturating_sub(1));
        let unfinished = self.pending.values().filter_map(|pending| pending.position);
        let checkpoint = match unfinished.min() {
            Some(first) => finished.min(before(first)),
            None => finished,
        };
        Some(checkpoint).filter(|_| Some(checkpoint) > self.saved.or(Some(Position::START)))
    }

    /// The checkpoint is about to be saved, and the store has `stored`. True the first time that someone else moved it.
    pub(super) fn sees_rival(&mut self, stored: Option<Position>, checkpoint: Position) -> bool {
        let is_ours = stored <= self.saved || stored == self.tried;
        self.tried = Some(checkpoint);
        !is_ours && !std::mem::replace(&mut self.has_rival, true)
    }

    /// The checkpoint was saved.
    pub(super) fn saved(&mut self, checkpoint: Position) {
        self.saved = Some(checkpoint);
    }
}
