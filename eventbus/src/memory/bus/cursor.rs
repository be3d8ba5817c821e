//! How far one group has come: what it has read, what is pending or dead, and what of that is to be saved.
//!
//! Where an event of the store is, for one group:
//!
//! | the delivery | in the store | after a restart |
//! |---|---|---|
//! | is not read, runs for the first time, or is ready to | after the checkpoint | delivered from the feed: see below |
//! | has finished, and the checkpoint has not passed it | after the checkpoint | delivered once more |
//! | has failed and waits, or runs again | a row | delivered when it is due, with its former tries: see below |
//! | is parked behind one of its aggregate that waits | a row, once the checkpoint passes it | delivered behind that one |
//! | is a dead letter | a row | not delivered; listed, replayed or discarded |
//! | cannot be read when it is to be delivered | a row | tried again, until an operator skips it: see `unreadable` |
//! | has tries, and no handler here wants it or can decode it | a row | delivered; left again without a handler |
//! | no handler here wants it, and it has no tries | in a range: see `types` | delivered when its type is announced |
//! | has finished, and the checkpoint has passed it | no row | not delivered |
//!
//! A process that ends without stopping the group may have ended of what it had in flight. Up to where it read is noted
//! before it reads, a bit ahead, and taken back when the group is stopped. What is up to there and not finished is left
//! over, the first of each aggregate only, unless its row has the time of a retry, which is taken out before it runs. It gets
//! a row, and runs alone: see `port::hand`.
//!
//! Invariant: the checkpoint passes an event in the step that removes or writes its row.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{
    letters::Buried,
    types::{Place, Types},
    unreadable::Unreadable,
};
use crate::{
    domain::{
        record::RecordedEvent,
        stream::{Position, StreamId},
    },
    port::{GroupTypes, Tries, UnfinishedDelivery, Unhandled},
};

/// An entry read and not acknowledged.
#[derive(Debug)]
struct Pending {
    record: RecordedEvent,
    /// Its place in the feed that checkpoints speak of; `None` if it came from elsewhere.
    position: Option<Position>,
    tries: Tries,
    /// Set if it is a dead letter.
    buried: Option<Buried>,
    row: Row,
    /// Whether it may have been in flight when the process before ended, and was not taken since.
    is_left_over: bool,
    /// Whether the entries of its aggregate that come after it are parked behind it for longer.
    is_waiting: bool,
    /// Grows with every change: a change during a save is not saved by it.
    changes: u64,
}

/// What the store has of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Missing,
    /// A row was sent: the store may have it, also where no answer came.
    Sent,
    Stored,
}

/// Progress that is to be saved.
#[derive(Debug)]
pub(super) struct Unsaved {
    pub(super) checkpoint: Option<Position>,
    pub(super) finished: Vec<Position>,
    /// The rows, with the numbers of their entries, and how often these had changed.
    rows: Vec<(u64, u64, UnfinishedDelivery)>,
}

impl Unsaved {
    /// The rows to write.
    pub(super) fn rows(&self) -> Vec<UnfinishedDelivery> {
        self.rows.iter().map(|(_, _, row)| row.clone()).collect()
    }
}

/// The place of one group in the log.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The number of the first entry it has not read.
    pub(super) next: u64,
    /// Pending entries to be taken again, before any new one.
    pub(super) again: VecDeque<u64>,
    pending: BTreeMap<u64, Pending>,
    /// The pending entries of the feed that have no row.
    without_row: BTreeSet<u64>,
    /// The pending entries whose row is to be written.
    changed: BTreeSet<u64>,
    /// How many entries of an aggregate wait for a retry or have a row.
    waiting: HashMap<StreamId, usize>,
    /// Events that have finished, and whose rows are to be removed.
    gone: BTreeSet<Position>,
    /// The rows of events that the feed brings once more.
    ahead: BTreeMap<Position, Tries>,
    /// The dead letters that the feed brings once more.
    dead_ahead: BTreeSet<Position>,
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
    /// Set if the process before did not stop the group: what it may have had in flight is up to there.
    left_over_through: Option<Position>,
    /// Up to where it may take events of the feed: a process that ends without stopping the group leaves it in the store.
    reach: Option<Position>,
    /// The highest position that it has taken.
    taken: Option<Position>,
    /// Whether events were withheld from it, so that its checkpoint must not pass them.
    misses_events: bool,
    /// The events of which the store had a row when the progress was loaded: a range that is delivered may name them once
    /// more, if the process ended between writing their rows and noting that.
    pub(super) had_row: BTreeSet<Position>,
    /// The pending entries that wait for a handler that is not here.
    left: BTreeSet<u64>,
    pub(super) types: Types,
    pub(super) unreadable: Unreadable,
    /// Events before the checkpoint that are to be delivered again, in this order: they are read back part by part.
    pub(super) revived: VecDeque<(Position, Tries)>,
}

impl Cursor {
    /// Takes an entry, and returns its former tries, and whether it may have been in flight when the process before ended;
    /// `None` if the group is done with its event.
    pub(super) fn take(
        &mut self,
        number: u64,
        record: &RecordedEvent,
        position: Option<Position>,
    ) -> Option<(Tries, bool)> {
        self.taken = self.taken.max(position);
        let saved = self.saved;
        if let Some(pending) = self.pending.get_mut(&number)
            && (pending.row == Row::Stored || position.is_none() || position > saved)
        {
            return Some((pending.tries.clone(), std::mem::take(&mut pending.is_left_over)));
        }
        if position.is_some() && position <= self.saved {
            self.remove(number);
            return None;
        }
        if position.is_some_and(|position| self.dead_ahead.remove(&position)) {
            self.finished = self.finished.max(position);
            return None;
        }
        let tries = position.and_then(|position| self.ahead.remove(&position));
        let row = if tries.is_some() { Row::Stored } else { Row::Missing };
        let tries = tries.unwrap_or_default();
        let is_left_over = self.is_left_over(record, position, &tries);
        self.insert(number, record, position, tries.clone(), row);
        Some((tries, is_left_over))
    }

    /// Whether an event may have been in flight when the process before ended: one that waited was not, nor was one behind
    /// another of its aggregate that has a row.
    fn is_left_over(&self, record: &RecordedEvent, position: Option<Position>, tries: &Tries) -> bool {
        position.is_some()
            && position <= self.left_over_through
            && tries.next_at.is_none()
            && !self.waiting.contains_key(record.metadata().stream())
    }

    fn insert(&mut self, number: u64, record: &RecordedEvent, position: Option<Position>, tries: Tries, row: Row) {
        let record = record.clone();
        let pending =
            Pending { record, position, tries, buried: None, row, is_left_over: false, is_waiting: false, changes: 0 };
        self.pending.insert(number, pending);
        if row == Row::Stored {
            self.waits(number);
        } else if position.is_some() {
            self.without_row.insert(number);
        }
    }

    /// Entries of its aggregate that come after it are parked behind it.
    fn waits(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number).filter(|pending| !pending.is_waiting) {
            pending.is_waiting = true;
            *self.waiting.entry(pending.record.metadata().stream().clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, number: u64) -> Option<Pending> {
        let pending = self.pending.remove(&number)?;
        self.without_row.remove(&number);
        self.changed.remove(&number);
        self.left.remove(&number);
        if pending.is_waiting {
            let stream = pending.record.metadata().stream();
            let left = self.waiting.get_mut(stream).map(|count| {
                *count -= 1;
                *count
            });
            if left == Some(0) {
                self.waiting.remove(stream);
            }
        }
        Some(pending)
    }

    /// Delivers an event of which the store had a row when the progress was loaded.
    pub(super) fn resume(&mut self, number: u64, record: &RecordedEvent, tries: Tries) {
        let is_left_over = self.is_left_over(record, record.position(), &tries);
        self.restore(number, record, tries);
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.is_left_over = is_left_over;
        }
    }

    /// Delivers an event of which the store has a row, and which the feed does not bring any more.
    pub(super) fn restore(&mut self, number: u64, record: &RecordedEvent, tries: Tries) {
        self.insert(number, record, record.position(), tries, Row::Stored);
        self.again.push_back(number);
    }

    /// Whether an event is delivered by a row, or was since the progress was loaded.
    pub(super) fn has_row(&self, position: Position) -> bool {
        let is_revived = self.revived.iter().any(|(revived, _)| *revived == position);
        is_revived
            || self.had_row.contains(&position)
            || self.pending.values().any(|pending| pending.row == Row::Stored && pending.position == Some(position))
    }

    /// The row of a dead letter waits from now on, with these tries. Returns `true` if it is delivered without being
    /// [restored](Self::restore): it is pending, or the feed brings it once more, which it must not overtake.
    pub(super) fn is_delivered_again(&mut self, position: Position, tries: &Tries) -> bool {
        // what a group misses the feed may not bring before the next start
        if !self.misses_events && self.dead_ahead.remove(&position) {
            self.ahead.insert(position, tries.clone());
        }
        let is_pending = |pending: &Pending| pending.row != Row::Missing && pending.position == Some(position);
        self.ahead.contains_key(&position) || self.pending.values().any(is_pending)
    }

    /// Whether there are events to be read back for the group.
    pub(super) fn is_to_be_brought(&self) -> bool {
        !self.revived.is_empty() || self.types.due().is_some()
    }

    /// Lets go of an event that cannot be read. Returns `true` if it is one of those.
    pub(super) fn skip_unreadable(&mut self, position: Position) -> bool {
        let is_one = self.unreadable.remove(position).is_some();
        self.gone.extend(is_one.then_some(position));
        is_one
    }

    /// Acknowledges an entry.
    pub(super) fn finish(&mut self, number: u64) {
        if let Some(pending) = self.remove(number) {
            self.finished = self.finished.max(pending.position);
            self.gone.extend(pending.position.filter(|_| pending.row != Row::Missing));
        }
    }

    /// Notes an entry that no handler wants. It is finished, or left with its tries for a handler that is not here.
    pub(super) fn pass(&mut self, number: u64, tries: Tries, now: u64) -> Option<Unhandled> {
        let pending = self.pending.get(&number)?;
        let event_type = pending.record.event_type().clone();
        if self.types.has_announced(&event_type) && (pending.row == Row::Stored || !tries.is_empty()) {
            self.leave(number, tries);
            return Some(Unhandled::Left { is_first: false });
        }
        let place = pending.position.map_or(Place::Held(number), Place::Stored);
        let passed = self.types.pass(&event_type, place, now);
        self.finish(number);
        Some(passed)
    }

    /// Leaves an entry for a handler that is not here.
    pub(super) fn leave(&mut self, number: u64, tries: Tries) {
        if let Some(pending) = self.pending.get_mut(&number) {
            self.left.insert(number);
            if pending.row != Row::Stored || pending.tries != tries {
                pending.tries = tries;
                self.has_changed(number);
            }
        }
    }

    /// Forgets that a type was announced, and has what was left taken again; returns `true` if it was.
    pub(super) fn forget(&mut self, event_type: &str) -> bool {
        self.take_left();
        self.types.forget(event_type)
    }

    /// Has the entries taken again that were left, as there are other handlers now.
    pub(super) fn take_left(&mut self) {
        self.again.extend(std::mem::take(&mut self.left));
    }

    /// Has an entry taken again that was finished without a handler.
    pub(super) fn take_again(&mut self, number: u64, record: &RecordedEvent) {
        if !self.pending.contains_key(&number) {
            self.insert(number, record, None, Tries::default(), Row::Missing);
            self.again.push_back(number);
        }
    }

    /// What came of a pending entry so far; `None` if it is not pending, or a dead letter.
    pub(super) fn tries(&self, number: u64) -> Option<Tries> {
        let pending = self.pending.get(&number).filter(|pending| pending.buried.is_none())?;
        Some(pending.tries.clone())
    }

    /// Keeps what came of an entry that is tried again.
    pub(super) fn keep(&mut self, number: u64, tries: Tries) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.tries = tries;
            self.has_changed(number);
            self.waits(number);
        }
    }

    /// Has it written down that an entry waits no more: it is in flight from now on. Returns `true` if that is new; of a
    /// suspect it is written down when it begins.
    pub(super) fn ends_waiting(&mut self, number: u64) -> bool {
        let waited = |pending: &&mut Pending| pending.tries.next_at.is_some() && !pending.tries.is_suspect();
        let Some(pending) = self.pending.get_mut(&number).filter(waited) else {
            return false;
        };
        pending.tries.next_at = None;
        self.has_changed(number);
        self.is_loaded
    }

    /// Whether an entry was in flight when its process ended, and has not been handled since.
    pub(super) fn is_suspect(&self, number: u64) -> bool {
        self.pending.get(&number).is_some_and(|pending| pending.tries.is_suspect())
    }

    /// Up to where the group may take events from now on, if that is to be noted: about `ahead` more than it has taken.
    /// `next` is the next one it would take.
    pub(super) fn next_reach(&self, next: Option<Position>, ahead: u64) -> Option<Position> {
        let from = self.taken.max(self.saved).max(next).unwrap_or(Position::START).get();
        let is_near = self.reach.is_none_or(|reach| reach.get() < from.saturating_add(ahead / 2));
        (self.is_loaded && is_near).then(|| Position::new(from.saturating_add(ahead)))
    }

    /// The group may take events up to there.
    pub(super) const fn extend(&mut self, reach: Position) {
        self.reach = Some(reach);
    }

    /// Whether an event is beyond what the group may take.
    pub(super) fn is_beyond_reach(&self, position: Option<Position>) -> bool {
        self.is_loaded && position > self.reach
    }

    /// Nothing is in flight any more. Returns `true` if the store was to know that something is.
    pub(super) const fn ends_reach(&mut self) -> bool {
        self.reach.take().is_some()
    }

    /// Makes an entry a dead letter, and returns its place in the feed, if it came from there.
    pub(super) fn bury(&mut self, number: u64, tries: Tries, buried: Buried) -> Option<Position> {
        let pending = self.pending.get_mut(&number)?;
        let position = pending.position;
        pending.tries = tries;
        pending.buried = Some(buried);
        self.finished = self.finished.max(position);
        self.has_changed(number);
        position
    }

    /// Has a dead letter taken again, for the handlers that have not succeeded.
    pub(super) fn revive(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            let done = std::mem::take(&mut pending.tries.done);
            pending.tries = Tries::anew(done);
            pending.buried = None;
            self.again.push_back(number);
            self.has_changed(number);
        }
    }

    fn has_changed(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.changes += 1;
            if pending.position.is_some() {
                self.changed.insert(number);
            }
        }
    }

    /// Begins anew: everything pending is taken again.
    pub(super) fn restart(&mut self) {
        let is_alive = |(number, pending): (&u64, &Pending)| pending.buried.is_none().then_some(*number);
        self.again = self.pending.iter().filter_map(is_alive).collect();
        self.left.clear();
    }

    /// How many entries are pending; dead letters are not, nor is what was left: no handler of it can come in time.
    pub(super) fn pending(&self) -> u64 {
        let is_pending = |(number, pending): &(&u64, &Pending)| pending.buried.is_none() && !self.left.contains(number);
        self.pending.iter().filter(is_pending).count() as u64 + self.unreadable.count() + self.revived.len() as u64
    }

    /// The dead letters that the store has no row of, by the numbers of their entries.
    pub(super) fn dead(&self) -> impl Iterator<Item = (u64, &Buried, &Tries, Option<Position>)> {
        self.pending
            .iter()
            .filter_map(|(number, pending)| Some((*number, pending.buried.as_ref()?, &pending.tries, pending.position)))
    }

    /// Whether an entry is a dead letter of the group.
    pub(super) fn has_buried(&self, number: u64) -> bool {
        self.pending.get(&number).is_some_and(|pending| pending.buried.is_some())
    }

    /// Whether the group has not acknowledged an entry that it has read.
    pub(super) fn is_pending(&self, number: u64) -> bool {
        self.pending.contains_key(&number)
    }

    /// Whether the group has not read, or not acknowledged, an entry.
    fn needs(&self, number: u64) -> bool {
        number >= self.next || self.pending.contains_key(&number)
    }

    /// An entry is gone; the group may have needed it.
    pub(super) fn entry_dropped(&mut self, number: u64, position: Option<Position>) {
        let needed = self.needs(number) && position.is_some() && position > self.saved;
        self.misses_events |= needed;
        self.remove(number);
    }

    /// From now on checkpoints speak of another feed: what was read and saved before says nothing about it.
    pub(super) fn leave_feed(&mut self) {
        for pending in self.pending.values_mut() {
            (pending.position, pending.row) = (None, Row::Missing);
        }
        self.without_row.clear();
        self.changed.clear();
        self.gone.clear();
        self.ahead.clear();
        self.dead_ahead.clear();
        self.finished = None;
        self.saved = None;
        self.is_loaded = false;
        (self.left_over_through, self.reach, self.taken) = (None, None, None);
        self.misses_events = false;
        self.types.load(GroupTypes::default());
        self.unreadable.clear();
        self.revived.clear();
    }

    /// Takes over the checkpoint that a store kept; `None` in it is before the first event.
    ///
    /// Everything after `fed_from` passes through the log, `None` if that is not known. A group that was further
    /// behind misses events until the next start.
    ///
    /// Events up to `left_over` may have been in flight when the process before ended.
    pub(super) fn load(&mut self, saved: Option<Position>, fed_from: Option<Position>, left_over: Option<Position>) {
        (self.left_over_through, self.reach, self.taken) = (left_over, None, None);
        let from = saved.unwrap_or(Position::START);
        self.misses_events |= fed_from.is_none_or(|fed_from| from < fed_from);
        self.saved = saved;
        self.is_loaded = true;
    }

    /// Takes over the rows of events that the feed brings once more: those that wait, and the dead letters.
    pub(super) fn load_ahead(&mut self, waiting: impl IntoIterator<Item = UnfinishedDelivery>, dead: Vec<Position>) {
        self.ahead = waiting.into_iter().map(|row| (row.position, row.tries)).collect();
        self.dead_ahead = dead.into_iter().collect();
    }

    /// The checkpoint to be saved: everything up to it is finished or gets a row. `None` if there is nothing new.
    fn checkpoint(&self) -> Option<Position> {
        let finished = self.finished.filter(|_| self.is_loaded && !self.misses_events)?;
        let before = |position: Position| Position::new(position.get().saturating_sub(1));
        let unfinished = self.without_row.iter().filter_map(|number| Some((*number, self.pending.get(number)?)));
        let free = |(number, pending): &(u64, &Pending)| !self.is_held(*number, pending);
        let first = unfinished.filter(free).find_map(|(_, pending)| pending.position);
        let checkpoint = first.map_or(finished, |first| finished.min(before(first)));
        Some(checkpoint).filter(|_| Some(checkpoint) > self.saved.or(Some(Position::START)))
    }

    /// Whether it gets a row where the checkpoint passes it: it waits, is dead or left, or is behind one that waits.
    fn is_held(&self, number: u64, pending: &Pending) -> bool {
        pending.buried.is_some()
            || self.left.contains(&number)
            || self.waiting.contains_key(pending.record.metadata().stream())
    }

    /// Whether there is something to do though no entry comes.
    pub(super) fn is_to_be_looked_after(&self) -> bool {
        self.is_behind() || !self.unreadable.is_empty()
    }

    /// Whether there is progress that is not saved.
    pub(super) fn is_behind(&self) -> bool {
        self.is_loaded && (self.types.is_changed() || self.has_progress())
    }

    fn has_progress(&self) -> bool {
        !self.changed.is_empty() || !self.gone.is_empty() || self.checkpoint().is_some()
    }

    /// The progress that is to be saved now, if there is any.
    pub(super) fn unsaved(&mut self) -> Option<Unsaved> {
        if !self.is_loaded || !self.has_progress() {
            return None;
        }
        let checkpoint = self.checkpoint();
        let passed = |number: &&u64| {
            let pending = self.pending.get(number);
            pending.is_some_and(|pending| pending.position <= checkpoint && self.is_held(**number, pending))
        };
        let numbers: BTreeSet<u64> =
            self.changed.iter().chain(self.without_row.iter().filter(passed)).copied().collect();
        let row = |number: u64| {
            let pending = self.pending.get_mut(&number)?;
            let (position, tries) = (pending.position?, pending.tries.clone());
            if pending.row == Row::Missing {
                pending.row = Row::Sent;
            }
            let dead_since = pending.buried.as_ref().map(Buried::since);
            Some((number, pending.changes, UnfinishedDelivery { position, tries, dead_since }))
        };
        let rows = numbers.into_iter().filter_map(row).collect();
        Some(Unsaved { checkpoint, finished: self.gone.iter().copied().collect(), rows })
    }

    /// The checkpoint is about to be saved, and the store has `stored`. True the first time that someone else moved it.
    pub(super) fn sees_rival(&mut self, stored: Option<Position>, checkpoint: Position) -> bool {
        let is_ours = stored <= self.saved || stored == self.tried;
        self.tried = Some(checkpoint);
        !is_ours && !std::mem::replace(&mut self.has_rival, true)
    }

    /// The progress was saved. What changed meanwhile stays to be saved, and dead letters are the store's from now on.
    pub(super) fn saved(&mut self, saved: Unsaved) {
        self.saved = saved.checkpoint.or(self.saved);
        for position in &saved.finished {
            self.gone.remove(position);
        }
        for (number, changes, _) in saved.rows {
            let Some(pending) = self.pending.get_mut(&number) else {
                continue; // it finished meanwhile, so that its row is to be removed, or its entry is gone
            };
            pending.row = Row::Stored;
            self.without_row.remove(&number);
            if pending.changes != changes {
                self.waits(number);
                continue;
            }
            self.changed.remove(&number);
            if pending.buried.is_some() {
                self.remove(number);
            } else {
                self.waits(number);
            }
        }
    }
}
