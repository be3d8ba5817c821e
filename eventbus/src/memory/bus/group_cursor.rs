//! The cursor of one group: the next entry that it reads, and the entries that are pending or dead letters.

use std::collections::{BTreeMap, VecDeque};

use time::OffsetDateTime;

use super::log_entry::LogEntry;
use crate::port::attempts::DeliveryAttempts;

/// An entry that the group has read and not acknowledged.
#[derive(Debug, Default)]
struct PendingEntry {
    attempts: DeliveryAttempts,
    /// Set if it is a dead letter.
    dead_letter_time: Option<OffsetDateTime>,
}

/// The cursor of one group in the log.
#[derive(Debug, Default)]
pub(super) struct GroupCursor {
    /// The number of the first unread entry.
    next_unread: u64,
    /// Pending entries to take again, before any new one.
    redelivery_queue: VecDeque<u64>,
    pending: BTreeMap<u64, PendingEntry>,
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

    /// Redelivers all pending entries except dead letters, as the group begins or resumes.
    pub(super) fn restart(&mut self) {
        self.redelivery_queue = self.alive().collect();
    }

    /// Takes the next entry: first those to be redelivered, then the unread ones. Returns its number and its former
    /// attempts.
    pub(super) fn take(&mut self, entries: &BTreeMap<u64, LogEntry>) -> Option<(u64, DeliveryAttempts)> {
        while let Some(number) = self.redelivery_queue.pop_front() {
            if let Some(attempts) = self.attempts(number) {
                return Some((number, attempts));
            }
        }
        let (number, _) = entries.range(self.next_unread..).next()?;
        self.next_unread = number + 1;
        self.pending.insert(*number, PendingEntry::default());
        Some((*number, DeliveryAttempts::default()))
    }

    /// Removes an entry that the group has finished, or that the log dropped.
    pub(super) fn remove(&mut self, number: u64) {
        self.pending.remove(&number);
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
        }
    }

    /// Makes an entry a dead letter.
    pub(super) fn move_to_dead_letters(&mut self, number: u64, attempts: DeliveryAttempts, time: OffsetDateTime) {
        self.pending.insert(number, PendingEntry { attempts, dead_letter_time: Some(time) });
    }

    /// Redelivers a dead letter, for the handlers that have not succeeded.
    pub(super) fn replay(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            let done = std::mem::take(&mut pending.attempts.done);
            *pending = PendingEntry { attempts: DeliveryAttempts::replayed(done), dead_letter_time: None };
            self.redelivery_queue.push_back(number);
        }
    }

    /// Returns the numbers of the pending entries without dead letters, the oldest first.
    fn alive(&self) -> impl Iterator<Item = u64> {
        let is_alive = |(_, pending): &(&u64, &PendingEntry)| pending.dead_letter_time.is_none();
        self.pending.iter().filter(is_alive).map(|(number, _)| *number)
    }

    /// Counts the pending entries without dead letters.
    pub(super) fn pending(&self) -> u64 {
        self.alive().count() as u64
    }

    /// Returns the number of the oldest pending entry that is no dead letter.
    pub(super) fn oldest_pending(&self) -> Option<u64> {
        self.alive().next()
    }

    /// Returns the dead letters, with the numbers of their entries.
    pub(super) fn dead_letters(&self) -> impl Iterator<Item = (u64, OffsetDateTime, &DeliveryAttempts)> {
        self.pending
            .iter()
            .filter_map(|(number, pending)| Some((*number, pending.dead_letter_time?, &pending.attempts)))
    }

    /// Returns the attempts at an entry that is a dead letter since this time.
    pub(super) fn dead_letter(&self, number: u64, since: OffsetDateTime) -> Option<&DeliveryAttempts> {
        let pending = self.pending.get(&number).filter(|pending| pending.dead_letter_time == Some(since));
        pending.map(|pending| &pending.attempts)
    }

    /// Returns `true` if an entry is a dead letter of the group.
    pub(super) fn has_dead_letter(&self, number: u64) -> bool {
        self.pending.get(&number).is_some_and(|pending| pending.dead_letter_time.is_some())
    }

    /// Returns `true` if the group has read and not acknowledged an entry, also if it is a dead letter.
    pub(super) fn is_pending(&self, number: u64) -> bool {
        self.pending.contains_key(&number)
    }
}
