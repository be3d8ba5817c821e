//! The entries of the in-process bus and the cursor of each group; no tasks, no locks.
//!
//! Invariant: the log drops an entry only after every group with subscribers has read and acknowledged it. A group
//! without subscribers holds no entry; its checkpoint then stays, so that the store's feed delivers the entry after a
//! restart. The entry of a dead letter stays until the store has a row of it; without a store until it is discarded, or
//! replayed with success.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use time::OffsetDateTime;

use super::{dead_letter_id::DeadLetterId, group_cursor::GroupCursor, log_entry::LogEntry};
use crate::{
    delivery::{InFlightEntry, UnhandledRange, memory_of},
    domain::{clock::SharedClock, name::Name, record::RecordedEvent, stream::Position},
    port::{
        Announced, DeadLetter, DeadLetterFilter, GroupProgress, MessageId,
        attempts::DeliveryAttempts,
        stats::{GroupInfo, StreamInfo},
    },
};

/// Entries beyond the capacity that each call of `trim` pays for: a scan runs once the calls have paid for all of them.
const TRIM_CREDIT_PER_CALL: usize = 64;
/// Bytes of a published event that pay for one entry more: few large events may be many bytes beyond the capacity.
const BYTES_PER_TRIM_CREDIT: usize = 256;

/// A number of entries and their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Capacity {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

/// The entries, numbered in the order they were published, and the cursors of the groups.
#[derive(Debug, Default)]
pub(super) struct EntryLog {
    /// How many entries are kept for groups that come later, and by how many a group may lag.
    capacity: Capacity,
    entries: BTreeMap<u64, LogEntry>,
    /// The bytes of the entries.
    held_bytes: usize,
    /// The bytes of all entries that were published, also of those that were dropped.
    published_bytes: u64,
    /// The entries that were read back for one group.
    restored: BTreeSet<u64>,
    next: u64,
    last_entry_id: (u64, u64),
    groups: BTreeMap<Name, GroupCursor>,
    /// Grows with each switch to a new feed.
    feed_epoch: u64,
    /// The highest position of the dropped entries.
    highest_dropped: Option<Position>,
    /// The entries that the last scan left though the log is beyond its capacity, and how many of them the calls since
    /// have paid for.
    untrimmed: usize,
    trim_credit: usize,
    /// The time of the newest dead letter.
    last_dead_letter: Option<OffsetDateTime>,
    clock: SharedClock,
}

impl EntryLog {
    pub(super) fn new(capacity: Capacity, clock: SharedClock) -> Self {
        Self { capacity, clock, ..Self::default() }
    }

    pub(super) const fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Returns the group's cursor; a new one stands before the oldest entry.
    pub(super) fn cursor(&mut self, group: &Name) -> &mut GroupCursor {
        self.groups.entry(group.clone()).or_default()
    }

    /// Begins or resumes a group; a new one stands after the newest entry if it begins now.
    pub(super) fn begin_group(&mut self, group: &Name, begins_now: bool) {
        if begins_now && !self.groups.contains_key(group) {
            let next = self.next;
            self.cursor(group).begin_at(next);
        }
        self.cursor(group).restart();
    }

    /// Switches to a new feed, which checkpoints refer to from now on: no entry published before counts for them.
    /// Returns the epoch of the new feed.
    pub(super) fn reset_feed(&mut self) -> u64 {
        self.feed_epoch += 1;
        self.highest_dropped = None;
        for entry in self.entries.values_mut() {
            entry.position = None;
        }
        for cursor in self.groups.values_mut() {
            cursor.reset_feed();
        }
        self.feed_epoch
    }

    /// Returns `true` while the checkpoints refer to the feed of this epoch.
    pub(super) const fn is_fed_in(&self, feed_epoch: u64) -> bool {
        self.feed_epoch == feed_epoch
    }

    /// Returns `true` if one of these groups lags by the capacity.
    pub(super) fn is_full(&self, groups: &[Name]) -> bool {
        groups.iter().any(|group| {
            self.unread(group) >= self.capacity.entries || self.unread_bytes(group) >= self.capacity.bytes as u64
        })
    }

    /// Adds entries, and drops old ones that none of `groups` needs.
    pub(super) fn append(&mut self, events: &[RecordedEvent], groups: &[Name]) -> Vec<MessageId> {
        let ids = events.iter().map(|record| {
            let id = self.next_id();
            let bytes = self.insert(id.clone(), record, record.position(), false);
            self.published_bytes += bytes as u64;
            self.trim_credit += bytes / BYTES_PER_TRIM_CREDIT;
            id
        });
        let ids = ids.collect();
        self.trim(groups);
        ids
    }

    /// Returns the next id, `ms-seq`: the time, and a count within one millisecond; a clock that is set back does not
    /// set ids back.
    fn next_id(&mut self) -> MessageId {
        let now = self.clock.unix_millis();
        let (ms, seq) = self.last_entry_id;
        self.last_entry_id = if now > ms { (now, 0) } else { (ms, seq + 1) };
        MessageId::new(format!("{}-{}", self.last_entry_id.0, self.last_entry_id.1))
    }

    /// Takes the next entry for a group, with its number: first those to be redelivered, then the unread ones. Passes
    /// over entries that the group's checkpoint covers.
    pub(super) fn take(&mut self, group: &Name) -> Option<(u64, InFlightEntry)> {
        let cursor = self.groups.entry(group.clone()).or_default();
        if !cursor.has_redeliveries() && (cursor.has_events_to_load() || cursor.is_at_read_limit(&self.entries)) {
            return None; // skipped events and replayed dead letters come first, or a save of the read limit
        }
        while let Some(number) = cursor.next_number(&self.entries) {
            let entry = self.entries.get(&number)?;
            if let Some((attempts, was_in_flight)) = cursor.take(number, &entry.record, entry.position) {
                let (id, record) = (entry.id.clone(), entry.record.clone());
                return Some((number, InFlightEntry { id, record, attempts, is_redelivered: was_in_flight }));
            }
        }
        None
    }

    /// Reads an entry again after its wait, with its attempts so far; `None` if it is gone, or a dead letter.
    pub(super) fn read_again(&mut self, group: &Name, number: u64) -> Option<InFlightEntry> {
        let attempts = self.cursor(group).attempts(number)?;
        let entry = self.entries.get(&number)?;
        Some(InFlightEntry { id: entry.id.clone(), record: entry.record.clone(), attempts, is_redelivered: false })
    }

    /// Redelivers an event to a group that has a row in the store and that the feed does not bring any more.
    pub(super) fn restore(&mut self, group: &Name, record: &RecordedEvent, attempts: DeliveryAttempts) {
        let number = self.insert_restored(record);
        self.cursor(group).restore(number, record, attempts);
    }

    /// As [`restore`](Self::restore), when the progress of a group is loaded: the event may have been in flight.
    pub(super) fn restore_loaded(&mut self, group: &Name, record: &RecordedEvent, attempts: DeliveryAttempts) {
        let number = self.insert_restored(record);
        self.cursor(group).restore_loaded(number, record, attempts);
    }

    fn insert_restored(&mut self, record: &RecordedEvent) -> u64 {
        let (id, number) = (self.next_id(), self.next);
        self.insert(id, record, None, true);
        self.restored.insert(number);
        number
    }

    /// Adds an entry; returns its bytes.
    fn insert(
        &mut self,
        id: MessageId,
        record: &RecordedEvent,
        position: Option<Position>,
        is_restored: bool,
    ) -> usize {
        let (record, bytes, bytes_before) = (record.clone(), memory_of(record), self.published_bytes);
        self.entries.insert(self.next, LogEntry { id, record, position, bytes, bytes_before, is_restored });
        self.next += 1;
        self.held_bytes += bytes;
        bytes
    }

    /// Returns the read limit that the consumer of a group has to save now, if any: see
    /// [`GroupCursor::next_read_limit`].
    pub(super) fn next_read_limit(&self, group: &Name, ahead: u64) -> Option<Position> {
        let cursor = self.groups.get(group)?;
        cursor.next_read_limit(&self.entries, ahead)
    }

    /// Returns `true` if a group may take no more events before its consumer saves a higher read limit.
    pub(super) fn is_at_read_limit(&self, group: &Name) -> bool {
        self.groups
            .get(group)
            .is_some_and(|cursor| !cursor.has_redeliveries() && cursor.is_at_read_limit(&self.entries))
    }

    /// Announces the types that a group handles, and redelivers the entries that it left; returns the undecided ranges.
    pub(super) fn announce(
        &mut self,
        group: &Name,
        announced: &[Announced],
        within: Duration,
    ) -> Vec<(String, UnhandledRange)> {
        let now = self.clock.unix_millis();
        let cursor = self.groups.entry(group.clone()).or_default();
        let undecided = cursor.types_mut().announce(announced, within, now);
        while let Some((event_type, numbers)) = cursor.types_mut().take_log_range() {
            let of_type =
                |entry: &LogEntry| entry.position.is_none() && entry.record.event_type().as_str() == event_type;
            for (number, entry) in self.entries.range(numbers).filter(|(_, entry)| of_type(entry)) {
                cursor.redeliver_unhandled(*number, &entry.record);
            }
        }
        cursor.requeue_left();
        undecided
    }

    /// Returns the ranges for which [`announce`](Self::announce) would need a decision.
    pub(super) fn undecided(
        &self,
        group: &Name,
        announced: &[Announced],
        within: Duration,
    ) -> Vec<(String, UnhandledRange)> {
        let now = self.clock.unix_millis();
        self.groups.get(group).map(|cursor| cursor.types().undecided(announced, within, now)).unwrap_or_default()
    }

    /// Drops the oldest entries beyond the capacity that none of `groups` needs any more.
    pub(super) fn trim(&mut self, groups: &[Name]) {
        let Capacity { entries: most, bytes: most_bytes } = self.capacity;
        let (mut left, mut bytes_left) = (self.entries.len(), self.held_bytes);
        // a scan may pass over all that the last one left, so the calls share its cost
        self.trim_credit += TRIM_CREDIT_PER_CALL;
        if (left <= most && bytes_left <= most_bytes) || self.trim_credit < self.untrimmed {
            return;
        }
        self.trim_credit = 0;
        let cursors: Option<Vec<&GroupCursor>> = groups.iter().map(|group| self.groups.get(group)).collect();
        let Some(cursors) = cursors else {
            return; // a group that has not begun needs them all
        };
        let read = cursors.iter().map(|cursor| cursor.next_unread()).min().unwrap_or(self.next);
        let free: Vec<u64> = self
            .entries
            .range(..read)
            .map(|(number, _)| *number)
            // only the group that these were read back for has to read them
            .chain(self.restored.range(read..).copied())
            .filter(|number| !cursors.iter().any(|cursor| cursor.is_pending(*number)))
            .filter(|number| !self.groups.values().any(|cursor| cursor.has_dead_letter(*number)))
            .take_while(|number| {
                let is_excess = left > most || bytes_left > most_bytes;
                left -= 1;
                bytes_left = bytes_left.saturating_sub(self.entries.get(number).map_or(0, |entry| entry.bytes));
                is_excess
            })
            .collect();
        for number in free {
            self.drop_entry(number);
        }
        self.untrimmed = match self.held_bytes > most_bytes {
            true => self.entries.len(),
            false => self.entries.len().saturating_sub(most),
        };
    }

    fn drop_entry(&mut self, number: u64) {
        let Some(entry) = self.entries.remove(&number) else {
            return;
        };
        self.restored.remove(&number);
        self.held_bytes -= entry.bytes;
        let position = entry.position;
        self.highest_dropped = self.highest_dropped.max(position);
        for cursor in self.groups.values_mut() {
            cursor.entry_dropped(number, position);
        }
    }

    /// Returns the highest position that a group which begins now can no longer get.
    pub(super) const fn highest_dropped(&self) -> Option<Position> {
        self.highest_dropped
    }

    /// Counts the entries that a group has not read.
    pub(super) fn unread(&self, group: &Name) -> usize {
        let next = self.groups.get(group).map_or(0, |cursor| cursor.next_unread());
        let at_most = usize::try_from(self.next.saturating_sub(next)).unwrap_or(usize::MAX);
        // the bus read these back for one group: no other group has to read them
        let at_most = at_most.saturating_sub(self.restored.range(next..).count());
        if at_most < self.capacity.entries {
            // the log dropped no entry that a group with subscribers has yet to read, so the numbers have no gaps
            return at_most.min(self.entries.len());
        }
        self.entries.range(next..).count()
    }

    /// Returns the time since the oldest entry that a group has not read was published, in milliseconds; 0 without one.
    fn oldest_unread_age(&self, group: &Name) -> u64 {
        let next = self.groups.get(group).map_or(0, |cursor| cursor.next_unread());
        let oldest = self.entries.range(next..).find(|(_, entry)| !entry.is_restored);
        oldest.map_or(0, |(_, entry)| self.age(entry))
    }

    /// Returns the time since an entry was published, in milliseconds.
    fn age(&self, entry: &LogEntry) -> u64 {
        let published = entry.id.as_str().split('-').next().and_then(|published| published.parse::<u64>().ok());
        published.map_or(0, |published| self.clock.unix_millis().saturating_sub(published))
    }

    /// Adds up the bytes of the entries that a group has not read.
    fn unread_bytes(&self, group: &Name) -> u64 {
        let next = self.groups.get(group).map_or(0, |cursor| cursor.next_unread());
        let first = self.entries.range(next..).next();
        first.map_or(0, |(_, entry)| self.published_bytes - entry.bytes_before)
    }

    /// Returns the progress of a group. Unsaved progress counts as one pending entry: the next start would deliver
    /// events again.
    pub(super) fn progress(&self, group: &Name) -> GroupProgress {
        let described =
            |cursor: &GroupCursor| (cursor.next_unread(), cursor.pending() + u64::from(cursor.is_save_pending()));
        let (next, pending) = self.groups.get(group).map(described).unwrap_or_default();
        GroupProgress { unread: self.entries.range(next..).count() as u64, pending, exhausted: 0 }
    }

    /// Describes the stream and its groups; a group in `consumed` has one consumer.
    pub(super) fn describe(&self, info: &mut StreamInfo, consumed: &[Name]) {
        info.stream.length = self.entries.len() as u64;
        let id = |entry: &LogEntry| entry.id.to_string();
        info.stream.first_entry_id = self.entries.values().next().map(id);
        info.stream.last_entry_id = self.entries.values().next_back().map(id);
        for (name, cursor) in &self.groups {
            let consumers = u64::from(consumed.contains(name));
            let pending = cursor.pending();
            info.dlq_messages += cursor.dead_letters().count() as u64;
            info.active_consumers += consumers;
            info.pending_messages += pending;
            let mut group = GroupInfo::new(name.to_string(), consumers, pending);
            if consumers > 0 {
                group.lag = Some(self.unread(name) as u64);
                group.oldest_unread_age_ms = Some(self.oldest_unread_age(name));
                let oldest = cursor.oldest_pending().and_then(|number| self.entries.get(&number));
                group.oldest_pending_id = oldest.map(|entry| entry.id.to_string());
                group.oldest_pending_age_ms = oldest.map(|entry| self.age(entry));
            }
            group.unreadable = cursor.unreadable().report(name);
            info.consumer_groups.push(group);
        }
    }

    /// Makes an entry of a group a dead letter.
    pub(super) fn move_to_dead_letters(&mut self, group: &Name, number: u64, delivery_attempts: DeliveryAttempts) {
        let (handler, error, attempts) =
            (delivery_attempts.handlers(), delivery_attempts.errors(), delivery_attempts.most_attempts());
        // ids have no times before 1970
        let now = self.clock.now().max(OffsetDateTime::UNIX_EPOCH);
        // unique, also in one microsecond and after the clock was set back
        let time = self.last_dead_letter.map_or(now, |last| now.max(last + time::Duration::MICROSECOND));
        self.last_dead_letter = Some(time);
        let position = self.cursor(group).move_to_dead_letters(number, delivery_attempts, time);
        let dead_letter = DeadLetterId::of_entry(group, time, number, position);
        if let Some(entry) = self.entries.get(&number) {
            let (event_type, aggregate) = (entry.record.event_type(), entry.record.metadata().stream());
            tracing::error!(
                %group, id = %entry.id, %dead_letter, handler, error, attempts, %event_type, %aggregate,
                "delivery given up: it is a dead letter now"
            );
        }
    }

    /// Returns the time of the newest dead letter, at least now; later ones are newer, also after the clock was set back.
    pub(super) fn newest_dead_letter(&mut self) -> OffsetDateTime {
        self.raise_dead_letter(self.clock.now())
    }

    /// Makes later dead letters newer than `time`; returns the time of the newest one.
    pub(super) fn raise_dead_letter(&mut self, time: OffsetDateTime) -> OffsetDateTime {
        *self.last_dead_letter.insert(self.last_dead_letter.map_or(time, |last| last.max(time)))
    }

    /// Returns up to `limit` dead letters in the log after `after` that match, oldest first.
    pub(super) fn list_dead_letters(
        &self,
        after: Option<&DeadLetterId>,
        filter: &DeadLetterFilter,
        limit: usize,
    ) -> Vec<(DeadLetterId, DeadLetter)> {
        let ids = self.groups.iter().flat_map(|(group, cursor)| {
            cursor.dead_letters().map(|(number, time, delivery_attempts, position)| {
                (DeadLetterId::of_entry(group, time, number, position), number, delivery_attempts)
            })
        });
        let mut ids: Vec<_> = ids.filter(|(id, ..)| after.is_none_or(|after| id > after)).collect();
        ids.sort_unstable_by(|(one, ..), (two, ..)| one.cmp(two));
        let dead_letters = ids.into_iter().filter_map(|(id, number, delivery_attempts)| {
            let entry = self.entries.get(&number)?;
            let dead_letter = id.to_dead_letter(Some(&entry.record), Some(&entry.id), delivery_attempts);
            Some((id, dead_letter))
        });
        dead_letters.filter(|(_, dead_letter)| filter.matches(dead_letter)).take(limit).collect()
    }

    /// Returns a dead letter in the log.
    pub(super) fn dead_letter(&self, id: &DeadLetterId) -> Option<DeadLetter> {
        let (number, delivery_attempts) = self.find_dead_letter(id)?;
        let entry = self.entries.get(&number)?;
        Some(id.to_dead_letter(Some(&entry.record), Some(&entry.id), delivery_attempts))
    }

    /// Replays or discards a dead letter in the log; returns `false` if it is not there.
    pub(super) fn end_dead_letter(&mut self, id: &DeadLetterId, is_replay: bool) -> bool {
        let Some((number, _)) = self.find_dead_letter(id) else {
            return false;
        };
        let cursor = self.cursor(id.group());
        if is_replay {
            cursor.replay(number)
        } else {
            cursor.acknowledge(number)
        }
        true
    }

    /// Returns the number of a dead letter in the log, and the attempts of its handlers.
    fn find_dead_letter(&self, id: &DeadLetterId) -> Option<(u64, &DeliveryAttempts)> {
        let mut dead = self.groups.get(id.group())?.dead_letters();
        dead.find_map(|(number, time, delivery_attempts, position)| {
            (DeadLetterId::of_entry(id.group(), time, number, position) == *id).then_some((number, delivery_attempts))
        })
    }
}
