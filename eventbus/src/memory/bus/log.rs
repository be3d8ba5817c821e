//! The entries of the in-process bus and how far each group has come; no tasks, no locks.
//!
//! Keep: an entry goes only when every group that matters has read and acknowledged it, or when a group that nobody
//! subscribes to held it; the checkpoint of that group then stays, so that the store's feed delivers it after a restart.
//! A dead letter's entry stays until the store has a row of it; without a store until it is discarded, or replayed with
//! success.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::cursor::Cursor;
use crate::{
    domain::{clock::SharedClock, name::Name, record::RecordedEvent, stream::Position},
    port::{Announced, GroupInfo, GroupProgress, MessageId, StreamInfo, Taken, Tries, UnhandledRange},
};

/// At how many entries beyond the capacity it may look for each time it is trimmed.
const TRIM_STEP: usize = 64;

/// One published event.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
    /// Its place in the feed that checkpoints speak of; `None` if it came from elsewhere.
    position: Option<Position>,
    /// Whether it was read back for a group that had not finished it: no other group gets it.
    is_restored: bool,
}

/// The entries, numbered in the order they were published, and the cursors of the groups.
#[derive(Debug)]
pub(super) struct Log {
    /// How many entries are kept for groups that come later, and how far a group may lag.
    capacity: usize,
    pub(super) entries: BTreeMap<u64, Entry>,
    /// Those of them that were read back for one group.
    restored: BTreeSet<u64>,
    next: u64,
    last_id: (u64, u64),
    pub(super) groups: BTreeMap<Name, Cursor>,
    /// The highest position of the entries that are gone.
    dropped: Option<Position>,
    /// How many entries beyond the capacity had to stay when it was trimmed last, and how much of the work of looking at
    /// them again is paid by the calls since.
    kept_by_trim: usize,
    trims_put_off: usize,
    /// When an entry became a dead letter last, in microseconds since 1970.
    pub(super) last_death: u64,
    pub(super) clock: SharedClock,
}

impl Log {
    pub(super) fn new(capacity: usize, clock: SharedClock) -> Self {
        Self {
            capacity,
            entries: BTreeMap::new(),
            restored: BTreeSet::new(),
            next: 0,
            last_id: (0, 0),
            groups: BTreeMap::new(),
            dropped: None,
            kept_by_trim: 0,
            trims_put_off: 0,
            last_death: 0,
            clock,
        }
    }

    /// The group's cursor; a new one stands before the oldest entry.
    pub(super) fn cursor(&mut self, group: &Name) -> &mut Cursor {
        self.groups.entry(group.clone()).or_default()
    }

    /// Has a group begin, or go on; a new one stands after the newest entry if it begins now.
    pub(super) fn begin(&mut self, group: &Name, begins_now: bool) {
        if begins_now && !self.groups.contains_key(group) {
            self.cursor(group).next = self.next;
        }
        self.cursor(group).restart();
    }

    /// From now on checkpoints speak of another feed: nothing published before counts for them.
    pub(super) fn leave_feed(&mut self) {
        self.dropped = None;
        for entry in self.entries.values_mut() {
            entry.position = None;
        }
        for cursor in self.groups.values_mut() {
            cursor.leave_feed();
        }
    }

    /// Whether one of these groups lags as far as it may.
    pub(super) fn is_full(&self, groups: &[Name]) -> bool {
        groups.iter().any(|group| self.unread(group) >= self.capacity)
    }

    /// Adds entries, and lets go of old ones that none of `groups` needs.
    pub(super) fn append(&mut self, events: &[RecordedEvent], groups: &[Name]) -> Vec<MessageId> {
        let ids = events.iter().map(|record| {
            let id = self.next_id();
            let entry =
                Entry { id: id.clone(), record: record.clone(), position: record.position(), is_restored: false };
            self.entries.insert(self.next, entry);
            self.next += 1;
            id
        });
        let ids = ids.collect();
        self.trim(groups);
        ids
    }

    /// `ms-seq`: the time, and a count within one millisecond; a clock that is set back does not set ids back.
    fn next_id(&mut self) -> MessageId {
        let now = self.clock.unix_millis();
        let (ms, seq) = self.last_id;
        self.last_id = if now > ms { (now, 0) } else { (ms, seq + 1) };
        MessageId::new(format!("{}-{}", self.last_id.0, self.last_id.1))
    }

    /// Takes the next entry for a group, with its number: first those to be taken again, then those it has not read.
    /// Entries that the group's checkpoint covers are passed over.
    pub(super) fn take(&mut self, group: &Name) -> Option<(u64, Taken)> {
        let cursor = self.groups.entry(group.clone()).or_default();
        if cursor.again.is_empty() && (cursor.is_to_be_brought() || cursor.is_at_its_reach(&self.entries)) {
            return None; // what the group skipped or gave up comes first, or it is to be noted how far it reads
        }
        while let Some(number) = cursor.next_number(&self.entries) {
            let entry = self.entries.get(&number)?;
            if let Some((tries, is_left_over)) = cursor.take(number, &entry.record, entry.position) {
                let (id, record) = (entry.id.clone(), entry.record.clone());
                return Some((number, Taken { id, record, tries, is_left_over }));
            }
        }
        None
    }

    /// Takes an entry again that waited, with what came of it so far; `None` if it is gone, or a dead letter.
    pub(super) fn take_again(&mut self, group: &Name, number: u64) -> Option<Taken> {
        let tries = self.cursor(group).tries(number)?;
        let entry = self.entries.get(&number)?;
        Some(Taken { id: entry.id.clone(), record: entry.record.clone(), tries, is_left_over: false })
    }

    /// Has an event delivered to a group again that the feed does not bring any more, and of which the store has a row.
    pub(super) fn restore(&mut self, group: &Name, record: &RecordedEvent, tries: Tries) {
        let number = self.read_back(record);
        self.cursor(group).restore(number, record, tries);
    }

    /// Does the same when the progress of a group is loaded.
    pub(super) fn resume(&mut self, group: &Name, record: &RecordedEvent, tries: Tries) {
        let number = self.read_back(record);
        self.cursor(group).resume(number, record, tries);
    }

    fn read_back(&mut self, record: &RecordedEvent) -> u64 {
        let (id, number) = (self.next_id(), self.next);
        self.entries.insert(number, Entry { id, record: record.clone(), position: None, is_restored: true });
        self.restored.insert(number);
        self.next += 1;
        number
    }

    /// Up to where a group may take events, if that is to be noted now: see [`Cursor::next_reach`].
    pub(super) fn next_reach(&self, group: &Name, ahead: u64) -> Option<Position> {
        let cursor = self.groups.get(group)?;
        cursor.next_reach(cursor.next_in_feed(&self.entries), ahead)
    }

    /// Whether a group may take no more before it is noted how far it reads.
    pub(super) fn is_at_its_reach(&self, group: &Name) -> bool {
        self.groups.get(group).is_some_and(|cursor| cursor.again.is_empty() && cursor.is_at_its_reach(&self.entries))
    }

    /// Announces what a group handles; returns what is undecided. What it left of the log is taken again.
    pub(super) fn announce(
        &mut self,
        group: &Name,
        announced: &[Announced],
        within: Duration,
    ) -> Vec<(String, UnhandledRange)> {
        let now = self.clock.unix_millis();
        let cursor = self.groups.entry(group.clone()).or_default();
        let undecided = cursor.types.announce(announced, within, now);
        while let Some((event_type, numbers)) = cursor.types.take_held() {
            let of_type = |entry: &Entry| entry.position.is_none() && entry.record.event_type().as_str() == event_type;
            for (number, entry) in self.entries.range(numbers).filter(|(_, entry)| of_type(entry)) {
                cursor.take_again(*number, &entry.record);
            }
        }
        cursor.take_left();
        undecided
    }

    /// Lets go of the oldest entries beyond the capacity that none of `groups` needs any more.
    pub(super) fn trim(&mut self, groups: &[Name]) {
        let excess = self.entries.len().saturating_sub(self.capacity);
        // where very many wait, it is not looked at all of them each time
        self.trims_put_off += TRIM_STEP;
        if excess == 0 || self.trims_put_off < self.kept_by_trim {
            return;
        }
        self.trims_put_off = 0;
        let cursors: Option<Vec<&Cursor>> = groups.iter().map(|group| self.groups.get(group)).collect();
        let Some(cursors) = cursors else {
            return; // a group that has not begun needs them all
        };
        let read = cursors.iter().map(|cursor| cursor.next).min().unwrap_or(self.next);
        let free: Vec<u64> = self
            .entries
            .range(..read)
            .map(|(number, _)| *number)
            // nobody has to read these but the group that they were read back for
            .chain(self.restored.range(read..).copied())
            .filter(|number| !cursors.iter().any(|cursor| cursor.is_pending(*number)))
            .filter(|number| !self.groups.values().any(|cursor| cursor.has_buried(*number)))
            .take(excess)
            .collect();
        for number in free {
            self.drop_entry(number);
        }
        self.kept_by_trim = self.entries.len().saturating_sub(self.capacity);
    }

    fn drop_entry(&mut self, number: u64) {
        let Some(entry) = self.entries.remove(&number) else {
            return;
        };
        self.restored.remove(&number);
        let position = entry.position;
        self.dropped = self.dropped.max(position);
        for cursor in self.groups.values_mut() {
            cursor.entry_dropped(number, position);
        }
    }

    /// The highest position that a group which comes now cannot get any more.
    pub(super) const fn dropped(&self) -> Option<Position> {
        self.dropped
    }

    /// How many entries a group has not read.
    pub(super) fn unread(&self, group: &Name) -> usize {
        let next = self.groups.get(group).map_or(0, |cursor| cursor.next);
        let at_most = usize::try_from(self.next.saturating_sub(next)).unwrap_or(usize::MAX);
        // the bus read these back for one group: no other group has to read them
        let at_most = at_most.saturating_sub(self.restored.range(next..).count());
        if at_most < self.capacity {
            // nothing a group that matters has not read is gone, so the numbers are without gaps
            return at_most.min(self.entries.len());
        }
        self.entries.range(next..).count()
    }

    /// How far a group has come. While its checkpoint is behind what it has handled, that much counts as pending: the next
    /// start would deliver it again.
    pub(super) fn progress(&self, group: &Name) -> GroupProgress {
        let described = |cursor: &Cursor| (cursor.next, cursor.pending() + u64::from(cursor.is_behind()));
        let (next, pending) = self.groups.get(group).map(described).unwrap_or_default();
        GroupProgress { unread: self.entries.range(next..).count() as u64, pending, exhausted: 0 }
    }

    /// Describes the stream; a group has one consumer while it is consumed.
    pub(super) fn describe(&self, info: &mut StreamInfo, consumed: &[Name]) {
        info.stream.length = self.entries.len() as u64;
        let id = |entry: &Entry| entry.id.to_string();
        info.stream.first_entry_id = self.entries.values().next().map(id);
        info.stream.last_entry_id = self.entries.values().next_back().map(id);
        for (name, cursor) in &self.groups {
            let consumers = u64::from(consumed.contains(name));
            let pending = cursor.pending();
            info.dlq_messages += cursor.dead().count() as u64;
            info.active_consumers += consumers;
            info.pending_messages += pending;
            let mut group = GroupInfo::new(name.to_string(), consumers, pending);
            group.unreadable = cursor.unreadable.report(name);
            info.consumer_groups.push(group);
        }
    }
}

impl Cursor {
    /// The position of the next entry that it has not read.
    fn next_in_feed(&self, entries: &BTreeMap<u64, Entry>) -> Option<Position> {
        let mut unread = entries.range(self.next..);
        unread.find(|(_, entry)| !entry.is_restored).and_then(|(_, entry)| entry.position)
    }

    fn is_at_its_reach(&self, entries: &BTreeMap<u64, Entry>) -> bool {
        self.is_beyond_reach(self.next_in_feed(entries))
    }

    /// The number of the next entry for the group; those that were read back come by their group's `again` only.
    fn next_number(&mut self, entries: &BTreeMap<u64, Entry>) -> Option<u64> {
        if let Some(number) = self.again.pop_front() {
            return Some(number);
        }
        for (number, entry) in entries.range(self.next..) {
            self.next = number + 1;
            if !entry.is_restored {
                return Some(*number);
            }
        }
        None
    }
}
