//! The entries of the in-process bus and the cursor of each group; no tasks, no locks.
//!
//! Invariant: the log drops an entry only after every group with subscribers has read and acknowledged it. A group
//! without subscribers holds no entry. The entry of a dead letter stays until it is discarded, or replayed with success.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::{dead_letter_id::DeadLetterId, group_cursor::GroupCursor, log_entry::LogEntry};
use crate::{
    delivery::{InFlightEntry, memory_of},
    domain::{clock::SharedClock, name::Name, record::RecordedEvent},
    port::{
        DeadLetter, DeadLetterFilter, GroupProgress, MessageId,
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
    next: u64,
    last_entry_id: (u64, u64),
    groups: BTreeMap<Name, GroupCursor>,
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
            let bytes = self.insert(id.clone(), record);
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

    /// Takes the next entry for a group, with its number.
    pub(super) fn take(&mut self, group: &Name) -> Option<(u64, InFlightEntry)> {
        let (number, attempts) = self.groups.entry(group.clone()).or_default().take(&self.entries)?;
        Some((number, self.in_flight_entry(number, attempts)?))
    }

    fn in_flight_entry(&self, number: u64, attempts: DeliveryAttempts) -> Option<InFlightEntry> {
        let entry = self.entries.get(&number)?;
        Some(InFlightEntry::new(entry.id.clone(), entry.record.clone()).with_attempts(attempts))
    }

    /// Adds an entry; returns its bytes.
    fn insert(&mut self, id: MessageId, record: &RecordedEvent) -> usize {
        let (record, bytes, bytes_before) = (record.clone(), memory_of(record), self.published_bytes);
        self.entries.insert(self.next, LogEntry { id, record, bytes, bytes_before });
        self.next += 1;
        self.held_bytes += bytes;
        bytes
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
        self.held_bytes -= entry.bytes;
        for cursor in self.groups.values_mut() {
            cursor.remove(number);
        }
    }

    /// Counts the entries that a group has not read.
    pub(super) fn unread(&self, group: &Name) -> usize {
        let next = self.groups.get(group).map_or(0, |cursor| cursor.next_unread());
        let at_most = usize::try_from(self.next.saturating_sub(next)).unwrap_or(usize::MAX);
        if at_most < self.capacity.entries {
            // the log dropped no entry that a group with subscribers has yet to read, so the numbers have no gaps
            return at_most.min(self.entries.len());
        }
        self.entries.range(next..).count()
    }

    /// Returns the time since the oldest entry that a group has not read was published, in milliseconds; 0 without one.
    fn oldest_unread_age(&self, group: &Name) -> u64 {
        let next = self.groups.get(group).map_or(0, |cursor| cursor.next_unread());
        self.entries.range(next..).next().map_or(0, |(_, entry)| self.age(entry))
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

    /// Returns the progress of a group.
    pub(super) fn progress(&self, group: &Name) -> GroupProgress {
        let described = |cursor: &GroupCursor| (cursor.next_unread(), cursor.pending());
        let (next, pending) = self.groups.get(group).map(described).unwrap_or_default();
        GroupProgress { unread: self.entries.range(next..).count() as u64, pending, ..GroupProgress::default() }
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
        self.cursor(group).move_to_dead_letters(number, delivery_attempts, time);
        let dead_letter = DeadLetterId::new(group, time, number);
        if let Some(entry) = self.entries.get(&number) {
            let (event_type, aggregate) = (entry.record.event_type(), entry.record.metadata().stream());
            tracing::error!(
                %group, id = %entry.id, %dead_letter, handler, error, attempts, %event_type, %aggregate,
                "delivery given up: it is a dead letter now"
            );
        }
    }

    /// Returns the dead letters after `after` that match, oldest first.
    pub(super) fn list_dead_letters(
        &self,
        after: Option<&DeadLetterId>,
        filter: &DeadLetterFilter,
    ) -> impl Iterator<Item = (DeadLetterId, DeadLetter)> {
        let ids = self.groups.iter().flat_map(|(group, cursor)| {
            cursor.dead_letters().map(|(number, time, attempts)| (DeadLetterId::new(group, time, number), attempts))
        });
        let mut ids: Vec<_> = ids.filter(|(id, _)| after.is_none_or(|after| id > after)).collect();
        ids.sort_unstable_by(|(one, _), (two, _)| one.cmp(two));
        let dead_letters = ids.into_iter().filter_map(|(id, attempts)| {
            let dead_letter = id.to_dead_letter(self.entries.get(&id.number())?, attempts);
            Some((id, dead_letter))
        });
        dead_letters.filter(|(_, dead_letter)| filter.matches(dead_letter))
    }

    /// Returns a dead letter; `None` if it is gone.
    pub(super) fn dead_letter(&self, id: &DeadLetterId) -> Option<DeadLetter> {
        Some(id.to_dead_letter(self.entries.get(&id.number())?, self.attempts_of(id)?))
    }

    /// Replays or discards a dead letter; returns `false` if it is gone.
    pub(super) fn end_dead_letter(&mut self, id: &DeadLetterId, is_replay: bool) -> bool {
        if self.attempts_of(id).is_none() {
            return false;
        }
        let cursor = self.cursor(id.group());
        match is_replay {
            true => cursor.replay(id.number()),
            false => cursor.remove(id.number()),
        }
        true
    }

    /// Returns the attempts at a dead letter.
    fn attempts_of(&self, id: &DeadLetterId) -> Option<&DeliveryAttempts> {
        self.groups.get(id.group())?.dead_letter(id.number(), id.since())
    }
}
