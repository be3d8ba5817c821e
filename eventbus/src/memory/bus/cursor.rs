//! How far one group has come: what it has read, what is pending or dead, which checkpoint that makes.

use std::collections::{BTreeMap, VecDeque};

use super::letters::Buried;
use crate::{domain::stream::Position, port::Tries};

/// An entry read and not acknowledged.
#[derive(Debug)]
struct Pending {
    position: Option<Position>,
    tries: Tries,
    /// Set if it is a dead letter.
    buried: Option<Buried>,
}

/// The place of one group in the log.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The number of the first entry it has not read.
    pub(super) next: u64,
    /// Pending entries to be taken again, before any new one.
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
    /// Takes an entry, and says what came of it before; `None` if the group's checkpoint says that it was handled.
    pub(super) fn take(&mut self, number: u64, position: Option<Position>) -> Option<Tries> {
        self.next = self.next.max(number + 1);
        if position.is_some() && position <= self.saved {
            self.pending.remove(&number);
            return None;
        }
        let new = || Pending { position, tries: Tries::default(), buried: None };
        Some(self.pending.entry(number).or_insert_with(new).tries.clone())
    }

    /// Acknowledges an entry.
    pub(super) fn finish(&mut self, number: u64) {
        if let Some(pending) = self.pending.remove(&number) {
            self.finished = self.finished.max(pending.position);
        }
    }

    /// Keeps what came of an entry that is tried again.
    pub(super) fn keep(&mut self, number: u64, tries: Tries) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.tries = tries;
        }
    }

    /// Makes an entry a dead letter, which the checkpoint does not pass.
    pub(super) fn bury(&mut self, number: u64, tries: Tries, buried: Buried) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.tries = tries;
            pending.buried = Some(buried);
        }
    }

    /// Has a dead letter taken again, for the handlers that have not succeeded.
    pub(super) fn revive(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            let done = std::mem::take(&mut pending.tries.done);
            pending.tries = Tries { done, ..Tries::default() };
            pending.buried = None;
            self.again.push_back(number);
        }
    }

    /// Begins anew: everything pending is taken again.
    pub(super) fn restart(&mut self) {
        let is_alive = |(number, pending): (&u64, &Pending)| pending.buried.is_none().then_some(*number);
        self.again = self.pending.iter().filter_map(is_alive).collect();
    }

    /// How many entries are pending; dead letters are not.
    pub(super) fn pending(&self) -> u64 {
        self.pending.values().filter(|pending| pending.buried.is_none()).count() as u64
    }

    /// The dead letters, by the numbers of their entries.
    pub(super) fn dead(&self) -> impl Iterator<Item = (u64, &Buried, &Tries)> {
        self.pending.iter().filter_map(|(number, pending)| Some((*number, pending.buried.as_ref()?, &pending.tries)))
    }

    /// Whether an entry is a dead letter of the group.
    pub(super) fn has_buried(&self, number: u64) -> bool {
        self.pending.get(&number).is_some_and(|pending| pending.buried.is_some())
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
