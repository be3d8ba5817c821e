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
    announced_types::{AnnouncedTypes, EventLocation},
    dead_letters::DeadLetterTime,
    unreadable_events::UnreadableTracker,
};
use crate::{
    domain::{
        record::RecordedEvent,
        stream::{Position, StreamId},
    },
    port::{DeliveryAttempts, GroupTypes, UnfinishedDelivery, Unhandled},
};

/// An entry read and not acknowledged.
#[derive(Debug)]
struct PendingEntry {
    record: RecordedEvent,
    /// Its place in the feed that checkpoints speak of; `None` if it came from elsewhere.
    position: Option<Position>,
    attempts: DeliveryAttempts,
    /// Set if it is a dead letter.
    dead_letter_time: Option<DeadLetterTime>,
    row_state: RowState,
    /// Whether it may have been in flight when the process before ended, and was not taken since.
    is_redelivered: bool,
    /// Whether the entries of its aggregate that come after it are parked behind it for longer.
    is_waiting: bool,
    /// Grows with every change: a change during a save is not saved by it.
    changes: u64,
}

/// What the store has of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowState {
    Missing,
    /// A row was sent: the store may have it, also where no answer came.
    Sent,
    Stored,
}

/// Progress that is to be saved.
#[derive(Debug)]
pub(super) struct UnsavedProgress {
    pub(super) checkpoint: Option<Position>,
    pub(super) finished: Vec<Position>,
    /// The rows, with the numbers of their entries, and how often these had changed.
    rows: Vec<(u64, u64, UnfinishedDelivery)>,
}

impl UnsavedProgress {
    /// The rows to write.
    pub(super) fn rows(&self) -> Vec<UnfinishedDelivery> {
        self.rows.iter().map(|(_, _, row_state)| row_state.clone()).collect()
    }
}

/// The place of one group in the log.
#[derive(Debug, Default)]
pub(super) struct GroupCursor {
    /// The number of the first entry it has not read.
    pub(super) next_unread: u64,
    /// Pending entries to be taken again, before any new one.
    pub(super) redelivery_queue: VecDeque<u64>,
    pending: BTreeMap<u64, PendingEntry>,
    /// The pending entries of the feed that have no row.
    without_row: BTreeSet<u64>,
    /// The pending entries whose row is to be written.
    changed_rows: BTreeSet<u64>,
    /// How many entries of an aggregate wait for a retry or have a row.
    waiting_by_stream: HashMap<StreamId, usize>,
    /// Events that have finished, and whose rows are to be removed.
    rows_to_remove: BTreeSet<Position>,
    /// The rows of events that the feed brings once more.
    rows_ahead: BTreeMap<Position, DeliveryAttempts>,
    /// The dead letters that the feed brings once more.
    dead_letters_ahead: BTreeSet<Position>,
    /// The highest position it has finished.
    highest_finished: Option<Position>,
    /// The checkpoint as it was loaded or saved last.
    saved_checkpoint: Option<Position>,
    /// The checkpoint that was to be saved last: it may be stored though the answer was lost.
    attempted_checkpoint: Option<Position>,
    /// Whether someone else was seen to move the checkpoint.
    has_other_writer: bool,
    /// Whether `saved` was loaded.
    pub(super) is_loaded: bool,
    /// Set if the process before did not stop the group: what it may have had in flight is up to there.
    in_flight_through: Option<Position>,
    /// Up to where it may take events of the feed: a process that ends without stopping the group leaves it in the store.
    read_limit: Option<Position>,
    /// The highest position that it has taken.
    highest_read: Option<Position>,
    /// Whether events were withheld from it, so that its checkpoint must not pass them.
    misses_events: bool,
    /// The events of which the store had a row when the progress was loaded: a range that is delivered may name them once
    /// more, if the process ended between writing their rows and noting that.
    pub(super) rows_at_load: BTreeSet<Position>,
    /// The pending entries that wait for a handler that is not here.
    without_handler: BTreeSet<u64>,
    pub(super) types: AnnouncedTypes,
    pub(super) unreadable: UnreadableTracker,
    /// Events before the checkpoint that are to be delivered again, in this order: they are read back part by part.
    pub(super) replayed: VecDeque<(Position, DeliveryAttempts)>,
}

impl GroupCursor {
    /// Takes an entry, and returns its former tries, and whether it may have been in flight when the process before ended;
    /// `None` if the group is done with its event.
    pub(super) fn take(
        &mut self,
        number: u64,
        record: &RecordedEvent,
        position: Option<Position>,
    ) -> Option<(DeliveryAttempts, bool)> {
        self.highest_read = self.highest_read.max(position);
        let saved = self.saved_checkpoint;
        if let Some(pending) = self.pending.get_mut(&number)
            && (pending.row_state == RowState::Stored || position.is_none() || position > saved)
        {
            return Some((pending.attempts.clone(), std::mem::take(&mut pending.is_redelivered)));
        }
        if position.is_some() && position <= self.saved_checkpoint {
            self.remove(number);
            return None;
        }
        if position.is_some_and(|position| self.dead_letters_ahead.remove(&position)) {
            self.highest_finished = self.highest_finished.max(position);
            return None;
        }
        let attempts = position.and_then(|position| self.rows_ahead.remove(&position));
        let row_state = if attempts.is_some() { RowState::Stored } else { RowState::Missing };
        let attempts = attempts.unwrap_or_default();
        let was_in_flight = self.was_in_flight(record, position, &attempts);
        self.insert(number, record, position, attempts.clone(), row_state);
        Some((attempts, was_in_flight))
    }

    /// Whether an event may have been in flight when the process before ended: one that waited was not, nor was one behind
    /// another of its aggregate that has a row.
    fn was_in_flight(&self, record: &RecordedEvent, position: Option<Position>, attempts: &DeliveryAttempts) -> bool {
        position.is_some()
            && position <= self.in_flight_through
            && attempts.next_at.is_none()
            && !self.waiting_by_stream.contains_key(record.metadata().stream())
    }

    fn insert(
        &mut self,
        number: u64,
        record: &RecordedEvent,
        position: Option<Position>,
        attempts: DeliveryAttempts,
        row_state: RowState,
    ) {
        let record = record.clone();
        let pending = PendingEntry {
            record,
            position,
            attempts,
            dead_letter_time: None,
            row_state,
            is_redelivered: false,
            is_waiting: false,
            changes: 0,
        };
        self.pending.insert(number, pending);
        if row_state == RowState::Stored {
            self.mark_waiting(number);
        } else if position.is_some() {
            self.without_row.insert(number);
        }
    }

    /// Entries of its aggregate that come after it are parked behind it.
    fn mark_waiting(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number).filter(|pending| !pending.is_waiting) {
            pending.is_waiting = true;
            *self.waiting_by_stream.entry(pending.record.metadata().stream().clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, number: u64) -> Option<PendingEntry> {
        let pending = self.pending.remove(&number)?;
        self.without_row.remove(&number);
        self.changed_rows.remove(&number);
        self.without_handler.remove(&number);
        if pending.is_waiting {
            let stream = pending.record.metadata().stream();
            let remaining = self.waiting_by_stream.get_mut(stream).map(|count| {
                *count -= 1;
                *count
            });
            if remaining == Some(0) {
                self.waiting_by_stream.remove(stream);
            }
        }
        Some(pending)
    }

    /// Delivers an event of which the store had a row when the progress was loaded.
    pub(super) fn restore_loaded(&mut self, number: u64, record: &RecordedEvent, attempts: DeliveryAttempts) {
        let was_in_flight = self.was_in_flight(record, record.position(), &attempts);
        self.restore(number, record, attempts);
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.is_redelivered = was_in_flight;
        }
    }

    /// Delivers an event of which the store has a row, and which the feed does not bring any more.
    pub(super) fn restore(&mut self, number: u64, record: &RecordedEvent, attempts: DeliveryAttempts) {
        self.insert(number, record, record.position(), attempts, RowState::Stored);
        self.redelivery_queue.push_back(number);
    }

    /// Whether an event is delivered by a row, or was since the progress was loaded.
    pub(super) fn has_row(&self, position: Position) -> bool {
        let is_revived = self.replayed.iter().any(|(revived, _)| *revived == position);
        is_revived
            || self.rows_at_load.contains(&position)
            || self
                .pending
                .values()
                .any(|pending| pending.row_state == RowState::Stored && pending.position == Some(position))
    }

    /// The row of a dead letter waits from now on, with these tries. Returns `true` if it is delivered without being
    /// [restored](Self::restore): it is pending, or the feed brings it once more, which it must not overtake.
    pub(super) fn replay_in_place(&mut self, position: Position, attempts: &DeliveryAttempts) -> bool {
        // what a group misses the feed may not bring before the next start
        if !self.misses_events && self.dead_letters_ahead.remove(&position) {
            self.rows_ahead.insert(position, attempts.clone());
        }
        let is_pending =
            |pending: &PendingEntry| pending.row_state != RowState::Missing && pending.position == Some(position);
        self.rows_ahead.contains_key(&position) || self.pending.values().any(is_pending)
    }

    /// Whether there are events to be read back for the group.
    pub(super) fn has_events_to_load(&self) -> bool {
        !self.replayed.is_empty() || self.types.due().is_some()
    }

    /// Lets go of an event that cannot be read. Returns `true` if it is one of those.
    pub(super) fn skip_unreadable(&mut self, position: Position) -> bool {
        let is_one = self.unreadable.remove(position).is_some();
        self.rows_to_remove.extend(is_one.then_some(position));
        is_one
    }

    /// Acknowledges an entry.
    pub(super) fn acknowledge(&mut self, number: u64) {
        if let Some(pending) = self.remove(number) {
            self.highest_finished = self.highest_finished.max(pending.position);
            self.rows_to_remove.extend(pending.position.filter(|_| pending.row_state != RowState::Missing));
        }
    }

    /// Notes an entry that no handler wants. It is finished, or left with its tries for a handler that is not here.
    pub(super) fn pass_unhandled(&mut self, number: u64, attempts: DeliveryAttempts, now: u64) -> Option<Unhandled> {
        let pending = self.pending.get(&number)?;
        let event_type = pending.record.event_type().clone();
        if self.types.has_announced(&event_type) && (pending.row_state == RowState::Stored || !attempts.is_empty()) {
            self.leave_for_handler(number, attempts);
            return Some(Unhandled::LeftPending { is_first: false });
        }
        let location = pending.position.map_or(EventLocation::OnlyInLog(number), EventLocation::Stored);
        let passed = self.types.pass_unhandled(&event_type, location, now);
        self.acknowledge(number);
        Some(passed)
    }

    /// Leaves an entry for a handler that is not here.
    pub(super) fn leave_for_handler(&mut self, number: u64, attempts: DeliveryAttempts) {
        if let Some(pending) = self.pending.get_mut(&number) {
            self.without_handler.insert(number);
            if pending.row_state != RowState::Stored || pending.attempts != attempts {
                pending.attempts = attempts;
                self.mark_changed(number);
            }
        }
    }

    /// Forgets that a type was announced, and has what was left taken again; returns `true` if it was.
    pub(super) fn forget_type(&mut self, event_type: &str) -> bool {
        self.requeue_left();
        self.types.forget(event_type)
    }

    /// Has the entries taken again that were left, as there are other handlers now.
    pub(super) fn requeue_left(&mut self) {
        self.redelivery_queue.extend(std::mem::take(&mut self.without_handler));
    }

    /// Has an entry taken again that was finished without a handler.
    pub(super) fn redeliver_unhandled(&mut self, number: u64, record: &RecordedEvent) {
        if !self.pending.contains_key(&number) {
            self.insert(number, record, None, DeliveryAttempts::default(), RowState::Missing);
            self.redelivery_queue.push_back(number);
        }
    }

    /// What came of a pending entry so far; `None` if it is not pending, or a dead letter.
    pub(super) fn attempts(&self, number: u64) -> Option<DeliveryAttempts> {
        let pending = self.pending.get(&number).filter(|pending| pending.dead_letter_time.is_none())?;
        Some(pending.attempts.clone())
    }

    /// Keeps what came of an entry that is tried again.
    pub(super) fn record_attempts(&mut self, number: u64, attempts: DeliveryAttempts) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.attempts = attempts;
            self.mark_changed(number);
            self.mark_waiting(number);
        }
    }

    /// Has it written down that an entry waits no more: it is in flight from now on. Returns `true` if that is new; of a
    /// suspect it is written down when it begins.
    pub(super) fn end_waiting(&mut self, number: u64) -> bool {
        let waited = |pending: &&mut PendingEntry| pending.attempts.next_at.is_some() && !pending.attempts.is_suspect();
        let Some(pending) = self.pending.get_mut(&number).filter(waited) else {
            return false;
        };
        pending.attempts.next_at = None;
        self.mark_changed(number);
        self.is_loaded
    }

    /// Whether an entry was in flight when its process ended, and has not been handled since.
    pub(super) fn is_suspect(&self, number: u64) -> bool {
        self.pending.get(&number).is_some_and(|pending| pending.attempts.is_suspect())
    }

    /// Up to where the group may take events from now on, if that is to be noted: about `ahead` more than it has taken.
    /// `next` is the next one it would take.
    pub(super) fn next_read_limit(&self, next: Option<Position>, ahead: u64) -> Option<Position> {
        let from = self.highest_read.max(self.saved_checkpoint).max(next).unwrap_or(Position::START).get();
        let is_near = self.read_limit.is_none_or(|read_limit| read_limit.get() < from.saturating_add(ahead / 2));
        (self.is_loaded && is_near).then(|| Position::new(from.saturating_add(ahead)))
    }

    /// The group may take events up to there.
    pub(super) const fn set_read_limit(&mut self, read_limit: Position) {
        self.read_limit = Some(read_limit);
    }

    /// Whether an event is beyond what the group may take.
    pub(super) fn is_beyond_read_limit(&self, position: Option<Position>) -> bool {
        self.is_loaded && position > self.read_limit
    }

    /// Nothing is in flight any more. Returns `true` if the store was to know that something is.
    pub(super) const fn clear_read_limit(&mut self) -> bool {
        self.read_limit.take().is_some()
    }

    /// Makes an entry a dead letter, and returns its place in the feed, if it came from there.
    pub(super) fn move_to_dead_letters(
        &mut self,
        number: u64,
        attempts: DeliveryAttempts,
        dead_letter_time: DeadLetterTime,
    ) -> Option<Position> {
        let pending = self.pending.get_mut(&number)?;
        let position = pending.position;
        pending.attempts = attempts;
        pending.dead_letter_time = Some(dead_letter_time);
        self.highest_finished = self.highest_finished.max(position);
        self.mark_changed(number);
        position
    }

    /// Has a dead letter taken again, for the handlers that have not succeeded.
    pub(super) fn replay(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            let done = std::mem::take(&mut pending.attempts.done);
            pending.attempts = DeliveryAttempts::replayed(done);
            pending.dead_letter_time = None;
            self.redelivery_queue.push_back(number);
            self.mark_changed(number);
        }
    }

    fn mark_changed(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.changes += 1;
            if pending.position.is_some() {
                self.changed_rows.insert(number);
            }
        }
    }

    /// Begins anew: everything pending is taken again.
    pub(super) fn restart(&mut self) {
        let is_alive = |(number, pending): (&u64, &PendingEntry)| pending.dead_letter_time.is_none().then_some(*number);
        self.redelivery_queue = self.pending.iter().filter_map(is_alive).collect();
        self.without_handler.clear();
    }

    /// How many entries are pending; dead letters are not, nor is what was left: no handler of it can come in time.
    pub(super) fn pending(&self) -> u64 {
        let is_pending = |(number, pending): &(&u64, &PendingEntry)| {
            pending.dead_letter_time.is_none() && !self.without_handler.contains(number)
        };
        self.pending.iter().filter(is_pending).count() as u64 + self.unreadable.count() + self.replayed.len() as u64
    }

    /// The dead letters that the store has no row of, by the numbers of their entries.
    pub(super) fn dead_letters(
        &self,
    ) -> impl Iterator<Item = (u64, &DeadLetterTime, &DeliveryAttempts, Option<Position>)> {
        self.pending.iter().filter_map(|(number, pending)| {
            Some((*number, pending.dead_letter_time.as_ref()?, &pending.attempts, pending.position))
        })
    }

    /// Whether an entry is a dead letter of the group.
    pub(super) fn has_dead_letter(&self, number: u64) -> bool {
        self.pending.get(&number).is_some_and(|pending| pending.dead_letter_time.is_some())
    }

    /// Whether the group has not acknowledged an entry that it has read.
    pub(super) fn is_pending(&self, number: u64) -> bool {
        self.pending.contains_key(&number)
    }

    /// Whether the group has not read, or not acknowledged, an entry.
    fn needs(&self, number: u64) -> bool {
        number >= self.next_unread || self.pending.contains_key(&number)
    }

    /// An entry is gone; the group may have needed it.
    pub(super) fn entry_dropped(&mut self, number: u64, position: Option<Position>) {
        let needed = self.needs(number) && position.is_some() && position > self.saved_checkpoint;
        self.misses_events |= needed;
        self.remove(number);
    }

    /// From now on checkpoints speak of another feed: what was read and saved before says nothing about it.
    pub(super) fn reset_feed(&mut self) {
        for pending in self.pending.values_mut() {
            (pending.position, pending.row_state) = (None, RowState::Missing);
        }
        self.without_row.clear();
        self.changed_rows.clear();
        self.rows_to_remove.clear();
        self.rows_ahead.clear();
        self.dead_letters_ahead.clear();
        self.highest_finished = None;
        self.saved_checkpoint = None;
        self.is_loaded = false;
        (self.in_flight_through, self.read_limit, self.highest_read) = (None, None, None);
        self.misses_events = false;
        self.types.load(GroupTypes::default());
        self.unreadable.clear();
        self.replayed.clear();
    }

    /// Takes over the checkpoint that a store kept; `None` in it is before the first event.
    ///
    /// Everything after `fed_from` passes through the log, `None` if that is not known. A group that was further
    /// behind misses events until the next start.
    ///
    /// Events up to `in_flight_through` may have been in flight when the process before ended.
    pub(super) fn load_checkpoint(
        &mut self,
        saved: Option<Position>,
        fed_from: Option<Position>,
        in_flight_through: Option<Position>,
    ) {
        (self.in_flight_through, self.read_limit, self.highest_read) = (in_flight_through, None, None);
        let from = saved.unwrap_or(Position::START);
        self.misses_events |= fed_from.is_none_or(|fed_from| from < fed_from);
        self.saved_checkpoint = saved;
        self.is_loaded = true;
    }

    /// Takes over the rows of events that the feed brings once more: those that wait, and the dead letters.
    pub(super) fn load_rows_ahead(
        &mut self,
        waiting: impl IntoIterator<Item = UnfinishedDelivery>,
        dead: Vec<Position>,
    ) {
        self.rows_ahead = waiting.into_iter().map(|row_state| (row_state.position, row_state.attempts)).collect();
        self.dead_letters_ahead = dead.into_iter().collect();
    }

    /// The checkpoint to be saved: everything up to it is finished or gets a row. `None` if there is nothing new.
    fn next_checkpoint(&self) -> Option<Position> {
        let finished = self.highest_finished.filter(|_| self.is_loaded && !self.misses_events)?;
        let before = |position: Position| Position::new(position.get().saturating_sub(1));
        let unfinished = self.without_row.iter().filter_map(|number| Some((*number, self.pending.get(number)?)));
        let free = |(number, pending): &(u64, &PendingEntry)| !self.gets_row(*number, pending);
        let first = unfinished.filter(free).find_map(|(_, pending)| pending.position);
        let checkpoint = first.map_or(finished, |first| finished.min(before(first)));
        Some(checkpoint).filter(|_| Some(checkpoint) > self.saved_checkpoint.or(Some(Position::START)))
    }

    /// Whether it gets a row where the checkpoint passes it: it waits, is dead or left, or is behind one that waits.
    fn gets_row(&self, number: u64, pending: &PendingEntry) -> bool {
        pending.dead_letter_time.is_some()
            || self.without_handler.contains(&number)
            || self.waiting_by_stream.contains_key(pending.record.metadata().stream())
    }

    /// Whether there is something to do though no entry comes.
    pub(super) fn needs_periodic_work(&self) -> bool {
        self.is_save_pending() || !self.unreadable.is_empty()
    }

    /// Whether there is progress that is not saved.
    pub(super) fn is_save_pending(&self) -> bool {
        self.is_loaded && (self.types.is_changed() || self.has_unsaved_rows())
    }

    fn has_unsaved_rows(&self) -> bool {
        !self.changed_rows.is_empty() || !self.rows_to_remove.is_empty() || self.next_checkpoint().is_some()
    }

    /// The progress that is to be saved now, if there is any.
    pub(super) fn begin_save(&mut self) -> Option<UnsavedProgress> {
        if !self.is_loaded || !self.has_unsaved_rows() {
            return None;
        }
        let checkpoint = self.next_checkpoint();
        let passed = |number: &&u64| {
            let pending = self.pending.get(number);
            pending.is_some_and(|pending| pending.position <= checkpoint && self.gets_row(**number, pending))
        };
        let numbers: BTreeSet<u64> =
            self.changed_rows.iter().chain(self.without_row.iter().filter(passed)).copied().collect();
        let row_state = |number: u64| {
            let pending = self.pending.get_mut(&number)?;
            let (position, attempts) = (pending.position?, pending.attempts.clone());
            if pending.row_state == RowState::Missing {
                pending.row_state = RowState::Sent;
            }
            let dead_since = pending.dead_letter_time.as_ref().map(DeadLetterTime::as_date_time);
            Some((number, pending.changes, UnfinishedDelivery { position, attempts, dead_since }))
        };
        let rows = numbers.into_iter().filter_map(row_state).collect();
        Some(UnsavedProgress { checkpoint, finished: self.rows_to_remove.iter().copied().collect(), rows })
    }

    /// The checkpoint is about to be saved, and the store has `stored`. True the first time that someone else moved it.
    pub(super) fn detect_other_writer(&mut self, stored: Option<Position>, checkpoint: Position) -> bool {
        let is_ours = stored <= self.saved_checkpoint || stored == self.attempted_checkpoint;
        self.attempted_checkpoint = Some(checkpoint);
        !is_ours && !std::mem::replace(&mut self.has_other_writer, true)
    }

    /// The progress was saved. What changed meanwhile stays to be saved, and dead letters are the store's from now on.
    pub(super) fn mark_saved(&mut self, saved: UnsavedProgress) {
        self.saved_checkpoint = saved.checkpoint.or(self.saved_checkpoint);
        for position in &saved.finished {
            self.rows_to_remove.remove(position);
        }
        for (number, changes, _) in saved.rows {
            let Some(pending) = self.pending.get_mut(&number) else {
                continue; // it finished meanwhile, so that its row is to be removed, or its entry is gone
            };
            pending.row_state = RowState::Stored;
            self.without_row.remove(&number);
            if pending.changes != changes {
                self.mark_waiting(number);
                continue;
            }
            self.changed_rows.remove(&number);
            if pending.dead_letter_time.is_some() {
                self.remove(number);
            } else {
                self.mark_waiting(number);
            }
        }
    }
}
