//! The cursor of one group: the entries that it has read, that are pending or dead letters, and the progress to save.
//!
//! The states of an event of the store, for one group. A row is an [`UnfinishedDelivery`] in the event store: the state
//! of a delivery, also of a dead letter, not the event itself.
//!
//! | the delivery | in the store | after a restart |
//! |---|---|---|
//! | is not read, runs for the first time, or is ready to | after the checkpoint | delivered from the feed: see below |
//! | the same, and has fallen behind by [`HELD_BACK_MAX`] | a row, once the checkpoint passes it | delivered: see below |
//! | the same, and its group has stopped | a row, once the checkpoint passes it | delivered |
//! | has finished, and the checkpoint has not passed it | after the checkpoint | delivered once more |
//! | has failed and waits, or runs again | a row, once saved | delivered when due, with former attempts: see below |
//! | is blocked behind a waiting one of its aggregate | a row, once the checkpoint passes it | delivered behind it |
//! | is a dead letter | a row | not delivered; listed, replayed or discarded |
//! | is due and cannot be read | a row | read again, until an operator skips it: see `unreadable_events` |
//! | has attempts, and no handler here wants it or can decode it | a row | delivered; left again without a handler |
//! | has no attempts, and no handler here wants it | in a range: see `announced_types` | delivered once announced |
//! | has finished, and the checkpoint has passed it | no row | not delivered |
//!
//! A process that ends without stopping the group may have been ended by an event in flight. So the consumer saves a
//! read limit, a bit ahead, before it reads, and clears the limit when the group is stopped. After a restart, an
//! unfinished event up to the limit counts as redelivered, the first of each aggregate only. An event whose row has a
//! retry time was not in flight: the consumer removes that time before the retry runs. A redelivered event gets a row,
//! and runs alone: see `delivery::in_flight`.
//!
//! Invariant: the checkpoint passes an unfinished event only in a save that writes its row, or once its row is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use time::OffsetDateTime;

use super::{
    announced_types::{AnnouncedTypes, EventLocation},
    log_entry::LogEntry,
    unreadable_events::UnreadableTracker,
};
use crate::{
    delivery::{GroupTypes, Unhandled},
    domain::{
        record::RecordedEvent,
        stream::{Position, StreamId},
    },
    port::{UnfinishedDelivery, attempts::DeliveryAttempts},
};

/// Once an unfinished event is this far below the highest finished one, its row is written and the checkpoint passes
/// it. Otherwise an event that runs for long would have all later ones delivered again after a crash.
const HELD_BACK_MAX: u64 = 256;

/// An entry that the group has read and not acknowledged.
#[derive(Debug)]
struct PendingEntry {
    record: RecordedEvent,
    /// The position in the feed that checkpoints refer to; `None` if it came from elsewhere.
    position: Option<Position>,
    attempts: DeliveryAttempts,
    /// Set if it is a dead letter.
    dead_letter_time: Option<OffsetDateTime>,
    row_state: RowState,
    /// Set if it may have been in flight when the former process ended, and was not taken since.
    is_redelivered: bool,
    /// Set once it waits for a retry or has a row: later entries of its aggregate are blocked behind it.
    is_waiting: bool,
    /// Grows with every change: a save does not cover a change that is made during it.
    changes: u64,
}

/// The state of the row of an entry in the store; `Stored` from the start for an entry that the store brought back.
///
/// | state | event | next state |
/// |---|---|---|
/// | `Missing` | a save sends the row | `Sent` |
/// | `Sent` | the save fails | `Sent` |
/// | `Sent` | the save succeeds | `Stored` |
/// | any | the bus switches to a new feed | `Missing` |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowState {
    Missing,
    /// A save sent the row: the store may have it, also if no answer came.
    Sent,
    Stored,
}

/// One save: the checkpoint, the finished events whose rows it removes, and the rows that it writes.
#[derive(Debug)]
pub(super) struct UnsavedProgress {
    pub(super) checkpoint: Option<Position>,
    pub(super) finished: Vec<Position>,
    /// The rows, with the numbers of their entries and the numbers of these entries' changes.
    rows: Vec<(u64, u64, UnfinishedDelivery)>,
}

impl UnsavedProgress {
    /// Returns the rows to write.
    pub(super) fn rows(&self) -> Vec<UnfinishedDelivery> {
        self.rows.iter().map(|(_, _, row)| row.clone()).collect()
    }
}

/// The cursor of one group in the log.
#[derive(Debug, Default)]
pub(super) struct GroupCursor {
    /// The number of the first unread entry.
    next_unread: u64,
    /// Pending entries to take again, before any new one.
    redelivery_queue: VecDeque<u64>,
    pending: BTreeMap<u64, PendingEntry>,
    /// The pending entries of the feed that have no row.
    without_row: BTreeSet<u64>,
    /// The pending entries whose row the next save writes.
    changed_rows: BTreeSet<u64>,
    /// The number of entries of each aggregate that wait for a retry or have a row.
    waiting_by_stream: HashMap<StreamId, usize>,
    /// Finished events whose rows the next save removes.
    rows_to_remove: BTreeSet<Position>,
    /// The rows of waiting events after the loaded checkpoint, which the feed brings once more.
    rows_ahead: BTreeMap<Position, DeliveryAttempts>,
    /// The dead letters after the loaded checkpoint, which the feed brings once more.
    dead_letters_ahead: BTreeSet<Position>,
    /// The highest position of a finished event or a dead letter.
    highest_finished: Option<Position>,
    /// The checkpoint that was loaded or saved last.
    saved_checkpoint: Option<Position>,
    /// The checkpoint of the last save: the store may have it even if the answer was lost.
    attempted_checkpoint: Option<Position>,
    /// Set once a different writer has moved the checkpoint.
    has_other_writer: bool,
    /// Set once the progress was loaded from a store.
    is_loaded: bool,
    /// Set if the former process did not stop the group: events up to here may have been in flight.
    in_flight_through: Option<Position>,
    /// The group may take events of the feed up to here. A process that ends without stopping the group leaves the
    /// limit in the store.
    read_limit: Option<Position>,
    /// The highest position that the group has taken.
    highest_read: Option<Position>,
    /// Set if the log lacks events that the group needs: its checkpoint must not pass them.
    misses_events: bool,
    /// The events up to the checkpoint that had a row when the progress was loaded, and that no range contains since. A
    /// due range may contain them once more, if the former process ended between writing their rows and saving the
    /// announcement, or how far it had delivered the range.
    rows_at_load: BTreeSet<Position>,
    /// Set once the group stops: the last save writes a row for each unfinished entry that the checkpoint passes. Else
    /// the next process would read events once more that are finished or were discarded, and might take them for events
    /// of a range.
    is_stopping: bool,
    /// The pending entries that wait for a handler that is not here.
    without_handler: BTreeSet<u64>,
    types: AnnouncedTypes,
    unreadable: UnreadableTracker,
    /// Events before the checkpoint to deliver again, in this order: the consumer reads them back page by page.
    replayed: VecDeque<(Position, DeliveryAttempts)>,
    /// The dead letters that were replayed while the progress is loaded: the load may have read the rows before that.
    replayed_during_load: Vec<(Position, DeliveryAttempts)>,
}

impl GroupCursor {
    /// Returns the number of the first unread entry.
    pub(super) const fn next_unread(&self) -> u64 {
        self.next_unread
    }

    /// Passes over all entries before this number.
    pub(super) const fn begin_at(&mut self, number: u64) {
        self.next_unread = number;
    }

    /// Returns `true` if there are pending entries to take again.
    pub(super) fn has_redeliveries(&self) -> bool {
        !self.redelivery_queue.is_empty()
    }

    /// Returns `true` once the progress was loaded from a store.
    pub(super) const fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    pub(super) const fn types(&self) -> &AnnouncedTypes {
        &self.types
    }

    pub(super) const fn types_mut(&mut self) -> &mut AnnouncedTypes {
        &mut self.types
    }

    pub(super) const fn unreadable(&self) -> &UnreadableTracker {
        &self.unreadable
    }

    pub(super) const fn unreadable_mut(&mut self) -> &mut UnreadableTracker {
        &mut self.unreadable
    }

    /// Takes an entry. Returns its former attempts, and `true` if it may have been in flight when the former process
    /// ended; `None` if the group has finished its event, or it is a dead letter.
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
            // the feed brings it for a group that is further behind
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

    /// Returns `true` if an event may have been in flight when the former process ended. An event that waited was not,
    /// nor was one behind an event of its aggregate that has a row.
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

    /// Marks an entry as waiting: later entries of its aggregate are blocked behind it.
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

    /// Redelivers an event that had a row in the store when the progress was loaded.
    pub(super) fn restore_loaded(&mut self, number: u64, record: &RecordedEvent, attempts: DeliveryAttempts) {
        let was_in_flight = self.was_in_flight(record, record.position(), &attempts);
        self.restore(number, record, attempts);
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.is_redelivered = was_in_flight;
        }
    }

    /// Redelivers an event that has a row in the store, and that the feed does not bring any more.
    pub(super) fn restore(&mut self, number: u64, record: &RecordedEvent, attempts: DeliveryAttempts) {
        self.insert(number, record, record.position(), attempts, RowState::Stored);
        self.redelivery_queue.push_back(number);
    }

    /// Returns `true` if an event is pending, also as a dead letter that is not saved yet, or was delivered by its row
    /// since the progress was loaded.
    pub(super) fn has_delivery(&self, position: Position) -> bool {
        let is_replayed = self.replayed.iter().any(|(replayed, _)| *replayed == position);
        is_replayed
            || self.rows_at_load.contains(&position)
            || self.pending.values().any(|pending| pending.position == Some(position))
    }

    /// Queues a stored dead letter for redelivery with these attempts. The consumer reads its event back, unless the
    /// event is pending, or the feed brings it once more: then the feed's order is kept.
    pub(super) fn replay_stored(&mut self, position: Position, attempts: DeliveryAttempts) {
        if !self.is_loaded {
            self.replayed_during_load.push((position, attempts));
            return;
        }
        // the feed may not bring events that the group misses before the next start
        if !self.misses_events && self.dead_letters_ahead.remove(&position) {
            self.rows_ahead.insert(position, attempts.clone());
        }
        let is_pending =
            |pending: &PendingEntry| pending.row_state != RowState::Missing && pending.position == Some(position);
        let is_queued = self.replayed.iter().any(|(queued, _)| *queued == position);
        if !is_queued && !self.rows_ahead.contains_key(&position) && !self.pending.values().any(is_pending) {
            self.replayed.push_back((position, attempts));
        }
    }

    /// Forgets the dead letters that were replayed until now: the load that begins finds their rows.
    pub(super) fn begin_load(&mut self) {
        self.replayed_during_load.clear();
    }

    /// Queues the dead letters that were replayed during the load, unless it has found their rows.
    pub(super) fn end_load(&mut self) {
        for (position, attempts) in std::mem::take(&mut self.replayed_during_load) {
            if !self.has_delivery(position) {
                self.replay_stored(position, attempts);
            }
        }
    }

    /// Returns the next replayed dead letter to read back.
    pub(super) fn next_replayed(&self) -> Option<Position> {
        self.replayed.front().map(|(position, _)| *position)
    }

    /// Takes the next replayed dead letter; `None` if it is a different one, as the bus resumed from a store again
    /// meanwhile.
    pub(super) fn take_replayed(&mut self, position: Position) -> Option<DeliveryAttempts> {
        self.replayed.pop_front_if(|(front, _)| *front == position).map(|(_, attempts)| attempts)
    }

    /// Returns `true` if the consumer has to read back events for the group.
    pub(super) fn has_events_to_load(&self) -> bool {
        !self.replayed.is_empty() || self.types.due().is_some()
    }

    /// Skips an event if it is unreadable. Returns `true` if it was.
    pub(super) fn skip_unreadable(&mut self, position: Position) -> bool {
        let is_unreadable = self.unreadable.remove(position).is_some();
        self.rows_to_remove.extend(is_unreadable.then_some(position));
        is_unreadable
    }

    /// Acknowledges an entry; the next save removes its row, if the store may have one.
    pub(super) fn acknowledge(&mut self, number: u64) {
        if let Some(pending) = self.remove(number) {
            self.highest_finished = self.highest_finished.max(pending.position);
            self.rows_to_remove.extend(pending.position.filter(|_| pending.row_state != RowState::Missing));
        }
    }

    /// Finishes an entry that no handler wants, or leaves it with its attempts for a handler that is not here.
    pub(super) fn pass_unhandled(&mut self, number: u64, attempts: DeliveryAttempts, now: u64) -> Option<Unhandled> {
        let pending = self.pending.get(&number)?;
        let event_type = pending.record.event_type().clone();
        if self.types.has_announced(&event_type) && (pending.row_state == RowState::Stored || !attempts.is_empty()) {
            self.leave_for_handler(number, attempts);
            return Some(Unhandled::LeftPending { is_first: false });
        }
        let location = pending.position.map_or(EventLocation::OnlyInLog(number), EventLocation::Stored);
        if let Some(position) = pending.position {
            self.rows_at_load.remove(&position);
        }
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

    /// Forgets that a type was announced, and redelivers the entries that were left; returns `true` if it was
    /// announced.
    pub(super) fn forget_type(&mut self, event_type: &str) -> bool {
        self.requeue_left();
        self.types.forget(event_type)
    }

    /// Redelivers the entries that were left, as the handlers have changed.
    pub(super) fn requeue_left(&mut self) {
        self.redelivery_queue.extend(std::mem::take(&mut self.without_handler));
    }

    /// Redelivers an entry that was finished without a handler.
    pub(super) fn redeliver_unhandled(&mut self, number: u64, record: &RecordedEvent) {
        if !self.pending.contains_key(&number) {
            self.insert(number, record, None, DeliveryAttempts::default(), RowState::Missing);
            self.redelivery_queue.push_back(number);
        }
    }

    /// Returns the attempts of a pending entry; `None` if it is not pending, or a dead letter.
    pub(super) fn attempts(&self, number: u64) -> Option<DeliveryAttempts> {
        let pending = self.pending.get(&number).filter(|pending| pending.dead_letter_time.is_none())?;
        Some(pending.attempts.clone())
    }

    /// Records the attempts of an entry that is retried.
    pub(super) fn record_attempts(&mut self, number: u64, attempts: DeliveryAttempts) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.attempts = attempts;
            self.mark_changed(number);
            self.mark_waiting(number);
        }
    }

    /// Ends the wait of an entry, which is in flight from now on. Returns `true` if the caller has to save that. A
    /// suspect keeps its retry time until its start is saved.
    pub(super) fn end_waiting(&mut self, number: u64) -> bool {
        let waited = |pending: &&mut PendingEntry| pending.attempts.next_at.is_some() && !pending.attempts.is_suspect();
        let Some(pending) = self.pending.get_mut(&number).filter(waited) else {
            return false;
        };
        pending.attempts.next_at = None;
        self.mark_changed(number);
        self.is_loaded
    }

    /// Returns `true` if an entry was in flight when its process ended, and has not been handled since.
    pub(super) fn is_suspect(&self, number: u64) -> bool {
        self.pending.get(&number).is_some_and(|pending| pending.attempts.is_suspect())
    }

    /// Returns a higher read limit if the group is near the current one: `ahead` positions after those that the group
    /// has taken or would take next.
    pub(super) fn next_read_limit(&self, entries: &BTreeMap<u64, LogEntry>, ahead: u64) -> Option<Position> {
        let next = self.next_feed_position(entries);
        let from = self.highest_read.max(self.saved_checkpoint).max(next).unwrap_or(Position::START).get();
        // from halfway on, so that the group need not wait at the limit for the save
        let is_near = self.read_limit.is_none_or(|read_limit| read_limit.get() < from.saturating_add(ahead / 2));
        (self.is_loaded && is_near).then(|| Position::new(from.saturating_add(ahead)))
    }

    /// Lets the group take events up to `read_limit`.
    pub(super) const fn set_read_limit(&mut self, read_limit: Position) {
        self.read_limit = Some(read_limit);
    }

    /// Clears the read limit, as no event is in flight any more. Returns `true` if there was one.
    pub(super) const fn clear_read_limit(&mut self) -> bool {
        self.read_limit.take().is_some()
    }

    /// Makes an entry a dead letter, and returns its position, if it came from the feed.
    pub(super) fn move_to_dead_letters(
        &mut self,
        number: u64,
        attempts: DeliveryAttempts,
        dead_letter_time: OffsetDateTime,
    ) -> Option<Position> {
        let pending = self.pending.get_mut(&number)?;
        let position = pending.position;
        pending.attempts = attempts;
        pending.dead_letter_time = Some(dead_letter_time);
        // its row lets the checkpoint pass
        self.highest_finished = self.highest_finished.max(position);
        self.mark_changed(number);
        position
    }

    /// Redelivers a dead letter, for the handlers that have not succeeded.
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

    /// Redelivers all pending entries except dead letters, as the group begins or resumes.
    pub(super) fn restart(&mut self) {
        let is_alive = |(number, pending): (&u64, &PendingEntry)| pending.dead_letter_time.is_none().then_some(*number);
        self.redelivery_queue = self.pending.iter().filter_map(is_alive).collect();
        self.without_handler.clear();
        self.is_stopping = false;
    }

    /// Stops the group: no event is in flight any more.
    pub(super) const fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Returns the pending entries without dead letters, and without entries left for a handler, which may not come
    /// before the next start.
    fn alive(&self) -> impl Iterator<Item = (u64, &PendingEntry)> {
        let is_alive = |(number, pending): &(u64, &PendingEntry)| {
            pending.dead_letter_time.is_none() && !self.without_handler.contains(number)
        };
        self.pending.iter().map(|(number, pending)| (*number, pending)).filter(is_alive)
    }

    /// Counts the pending entries that are [alive](Self::alive), and the unreadable and replayed events.
    pub(super) fn pending(&self) -> u64 {
        self.alive().count() as u64 + self.unreadable.count() + self.replayed.len() as u64
    }

    /// Returns the number of the oldest pending entry that is [alive](Self::alive).
    pub(super) fn oldest_pending(&self) -> Option<u64> {
        self.alive().next().map(|(number, _)| number)
    }

    /// Returns the dead letters without a row in the store, with the numbers of their entries.
    pub(super) fn dead_letters(
        &self,
    ) -> impl Iterator<Item = (u64, OffsetDateTime, &DeliveryAttempts, Option<Position>)> {
        self.pending.iter().filter_map(|(number, pending)| {
            Some((*number, pending.dead_letter_time?, &pending.attempts, pending.position))
        })
    }

    /// Returns `true` if an entry is a dead letter of the group.
    pub(super) fn has_dead_letter(&self, number: u64) -> bool {
        self.pending.get(&number).is_some_and(|pending| pending.dead_letter_time.is_some())
    }

    /// Returns `true` if the group has read and not acknowledged an entry, also if it is a dead letter without a stored
    /// row.
    pub(super) fn is_pending(&self, number: u64) -> bool {
        self.pending.contains_key(&number)
    }

    /// Returns `true` if the group has not read, or not acknowledged, an entry.
    fn needs(&self, number: u64) -> bool {
        number >= self.next_unread || self.pending.contains_key(&number)
    }

    /// Removes an entry that the log dropped; the group may have needed it.
    pub(super) fn entry_dropped(&mut self, number: u64, position: Option<Position>) {
        let needed = self.needs(number) && position.is_some() && position > self.saved_checkpoint;
        self.misses_events |= needed;
        self.remove(number);
    }

    /// Switches to a new feed, which checkpoints refer to from now on: the former progress does not apply to it.
    pub(super) fn reset_feed(&mut self) {
        for pending in self.pending.values_mut() {
            (pending.position, pending.row_state) = (None, RowState::Missing);
        }
        self.without_row.clear();
        self.changed_rows.clear();
        self.rows_to_remove.clear();
        self.rows_ahead.clear();
        self.rows_at_load.clear();
        self.dead_letters_ahead.clear();
        self.highest_finished = None;
        (self.saved_checkpoint, self.attempted_checkpoint, self.has_other_writer) = (None, None, false);
        self.is_loaded = false;
        (self.in_flight_through, self.read_limit, self.highest_read) = (None, None, None);
        self.misses_events = false;
        self.types.load(GroupTypes::default());
        self.unreadable.clear();
        self.replayed.clear();
    }

    /// Takes over the checkpoint that a store kept; `saved` is `None` before the first event.
    ///
    /// The log gets all events after `fed_from`; `None` if that position is unknown. A group that was further behind,
    /// or may have been, misses events until the next start.
    ///
    /// Events up to `in_flight_through` may have been in flight when the former process ended.
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

    /// Takes over the rows of waiting events and dead letters that the feed brings once more.
    pub(super) fn load_rows_ahead(
        &mut self,
        waiting: impl IntoIterator<Item = UnfinishedDelivery>,
        dead: Vec<Position>,
    ) {
        self.rows_ahead = waiting.into_iter().map(|row| (row.position, row.attempts)).collect();
        self.dead_letters_ahead = dead.into_iter().collect();
    }

    /// Loads the types. `restored` are the events with a row up to the checkpoint: a due range may contain them.
    pub(super) fn load_types(&mut self, types: GroupTypes, restored: impl Iterator<Item = Position>) {
        self.types.load(types);
        self.rows_at_load = restored.collect();
    }

    /// Returns the checkpoint to save: all events up to it are finished or get a row. `None` if it has not moved.
    fn next_checkpoint(&self) -> Option<Position> {
        let finished = self.highest_finished.filter(|_| self.is_loaded && !self.misses_events)?;
        let before = |position: Position| Position::new(position.get().saturating_sub(1));
        let unfinished = self.without_row.iter().filter_map(|number| Some((*number, self.pending.get(number)?)));
        // an entry that gets no row holds the checkpoint back
        let free = |(number, pending): &(u64, &PendingEntry)| !self.gets_row(*number, pending);
        let first = unfinished.filter(free).find_map(|(_, pending)| pending.position);
        let checkpoint = first.map_or(finished, |first| finished.min(before(first)));
        Some(checkpoint).filter(|_| Some(checkpoint) > self.saved_checkpoint.or(Some(Position::START)))
    }

    /// Returns `true` if an entry gets a row when the checkpoint passes it: it waits, is a dead letter or left, is behind
    /// one that waits, or has fallen behind; or the group stops.
    fn gets_row(&self, number: u64, pending: &PendingEntry) -> bool {
        let behind = |(highest, position): (Position, Position)| highest.get().saturating_sub(position.get());
        self.is_stopping
            || pending.dead_letter_time.is_some()
            || self.without_handler.contains(&number)
            || self.waiting_by_stream.contains_key(pending.record.metadata().stream())
            || self.highest_finished.zip(pending.position).map(behind) >= Some(HELD_BACK_MAX)
    }

    /// Returns `true` if the consumer has work to do though no entry comes.
    pub(super) fn needs_periodic_work(&self) -> bool {
        self.is_save_pending() || !self.unreadable.is_empty()
    }

    /// Returns `true` if there is unsaved progress.
    pub(super) fn is_save_pending(&self) -> bool {
        self.is_loaded && (self.types.is_changed() || self.has_unsaved_rows())
    }

    fn has_unsaved_rows(&self) -> bool {
        !self.changed_rows.is_empty() || !self.rows_to_remove.is_empty() || self.next_checkpoint().is_some()
    }

    /// Returns the progress to save now, if there is any.
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
        let row = |number: u64| {
            let pending = self.pending.get_mut(&number)?;
            let (position, attempts) = (pending.position?, pending.attempts.clone());
            // the store may have the row from now on, so the end of the entry has to remove it
            if pending.row_state == RowState::Missing {
                pending.row_state = RowState::Sent;
            }
            let dead_since = pending.dead_letter_time;
            Some((number, pending.changes, UnfinishedDelivery { position, attempts, dead_since }))
        };
        let rows = numbers.into_iter().filter_map(row).collect();
        Some(UnsavedProgress { checkpoint, finished: self.rows_to_remove.iter().copied().collect(), rows })
    }

    /// Compares the stored checkpoint before `checkpoint` is saved. Returns `true` the first time that a different
    /// writer has moved it.
    pub(super) fn detect_other_writer(&mut self, stored: Option<Position>, checkpoint: Position) -> bool {
        // the last save may be stored though its answer was lost
        let is_ours = stored <= self.saved_checkpoint || stored == self.attempted_checkpoint;
        self.attempted_checkpoint = Some(checkpoint);
        !is_ours && !std::mem::replace(&mut self.has_other_writer, true)
    }

    /// Applies a successful save. Changes made during it stay unsaved, and dead letters are the store's from now on.
    pub(super) fn mark_saved(&mut self, saved: UnsavedProgress) {
        self.saved_checkpoint = saved.checkpoint.or(self.saved_checkpoint);
        for position in &saved.finished {
            self.rows_to_remove.remove(position);
        }
        for (number, changes, _) in saved.rows {
            let Some(pending) = self.pending.get_mut(&number) else {
                continue; // it finished meanwhile, so that its row is to be removed, or the log dropped its entry
            };
            pending.row_state = RowState::Stored;
            self.without_row.remove(&number);
            if pending.changes != changes {
                // changed during the save: the next save writes its row again
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

    /// Returns the position of the next unread entry.
    fn next_feed_position(&self, entries: &BTreeMap<u64, LogEntry>) -> Option<Position> {
        let mut unread = entries.range(self.next_unread..);
        unread.find(|(_, entry)| !entry.is_restored).and_then(|(_, entry)| entry.position)
    }

    /// Returns `true` if the next unread entry is beyond the read limit: the group may not take it yet.
    pub(super) fn is_at_read_limit(&self, entries: &BTreeMap<u64, LogEntry>) -> bool {
        self.is_loaded && self.next_feed_position(entries) > self.read_limit
    }

    /// Returns the number of the next entry for the group; entries that were read back come only from the
    /// `redelivery_queue` of their group.
    pub(super) fn next_number(&mut self, entries: &BTreeMap<u64, LogEntry>) -> Option<u64> {
        if let Some(number) = self.redelivery_queue.pop_front() {
            return Some(number);
        }
        for (number, entry) in entries.range(self.next_unread..) {
            self.next_unread = number + 1;
            if !entry.is_restored {
                return Some(*number);
            }
        }
        None
    }
}
