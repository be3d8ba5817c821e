//! The receiver: turns entries of the stream into in-flight entries, and reads or claims entries again.
//!
//! Invariant: only the reader adds new entries. An entry that a consumer of the group had before keeps its attempts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use eventbus::{
    RecordedEvent,
    delivery::{DeliveryAttempts, InFlightEntry},
    port::MessageId,
    support::PAGE_BYTES,
};

use super::{inner::ConsumerInner, pending_entries::Kept};
use crate::{command, error::CommandError, keys::field, reply::Entry, script, trace, wire};

/// Pending entries that one claim script searches for those of dead consumers.
const PENDING_PAGE_LEN: usize = 1_000;
/// An entry that a consumer of the group had before.
pub(super) struct ReclaimedEntry {
    entry: Entry,
    /// The attempts on record.
    attempts: Option<DeliveryAttempts>,
    /// Set if the process of that consumer has ended.
    owner_ended: bool,
}

/// Reply of a script that reads entries again.
#[derive(Default)]
pub(super) struct ReclaimedEntries {
    pub(super) entries: Vec<ReclaimedEntry>,
    /// Ids of entries that were deleted from the stream.
    pub(super) deleted: Vec<String>,
}

impl ReclaimedEntries {
    /// Takes the parts of a reply: entries, the attempts of each, whether the process of its consumer has ended, and the
    /// ids of deleted entries.
    fn new(
        entries: Vec<Entry>,
        attempts: Vec<Option<String>>,
        have_ended: impl IntoIterator<Item = bool>,
        deleted: Vec<String>,
    ) -> Self {
        let entries = entries.into_iter().zip(attempts).zip(have_ended);
        let entries = entries.map(|((entry, attempts), owner_ended)| {
            let attempts = attempts.and_then(|attempts| serde_json::from_str(&attempts).ok());
            ReclaimedEntry { entry, attempts, owner_ended }
        });
        Self { entries: entries.collect(), deleted }
    }
}

/// Turns entries into in-flight ones.
pub(super) struct Receiver {
    inner: Arc<ConsumerInner>,
    /// Set once the consumer has logged a time without a zone.
    has_logged_naive_time: AtomicBool,
}

impl Receiver {
    pub(super) const fn new(inner: Arc<ConsumerInner>) -> Self {
        Self { inner, has_logged_naive_time: AtomicBool::new(false) }
    }

    /// Receives entries that no consumer of the group had before.
    pub(super) fn receive_new(&self, entries: &[Entry]) {
        if !entries.is_empty() {
            self.inner.in_flight().add(entries.iter().filter_map(|entry| self.prepare_entry(entry, None)));
        }
    }

    /// Receives entries that a consumer of the group had before, perhaps this one. Returns how many of them were not in
    /// flight.
    pub(super) fn receive_reclaimed(&self, reclaimed: ReclaimedEntries) -> usize {
        self.inner.in_flight().add(self.prepare_reclaimed(reclaimed))
    }

    /// Prepares entries that a consumer of the group had before; leaves out those for which
    /// [`prepare_entry`](Self::prepare_entry) returns `None`.
    pub(super) fn prepare_reclaimed(&self, reclaimed: ReclaimedEntries) -> Vec<InFlightEntry> {
        // the deletion of an entry in flight loses no event, or is logged when the consumer reads the entry again
        let is_in_flight = |id: &String| self.inner.in_flight().contains(&MessageId::new(id.as_str()));
        let deleted: Vec<_> = reclaimed.deleted.into_iter().filter(|id| !is_in_flight(id)).collect();
        self.log_deleted(&deleted);
        let prepared = reclaimed.entries.into_iter().filter_map(|ReclaimedEntry { entry, attempts, owner_ended }| {
            let received = self.prepare_entry(&entry, attempts)?;
            Some(if owner_ended { received.redelivered() } else { received })
        });
        prepared.collect()
    }

    /// Prepares an entry for the workers. Returns `None` if it is in flight or kept pending already, and if it needs no
    /// worker: keeps an exhausted one pending or moves it to the dead letters, moves an undecodable one there, and
    /// discards a deleted one and a replay for a different group.
    fn prepare_entry(&self, entry: &Entry, attempts: Option<DeliveryAttempts>) -> Option<InFlightEntry> {
        let id = MessageId::new(entry.id.as_str());
        // the reader of a recreated group receives entries again that are in flight or kept pending
        if self.inner.entries().contains(&id) {
            return None;
        }
        let attempts = match attempts {
            Some(attempts) if attempts.is_exhausted => {
                self.receive_exhausted(id, attempts);
                return None;
            }
            attempts => attempts,
        };
        let Some(fields) = entry.field_refs() else {
            self.log_deleted(&[id.to_string()]);
            self.inner.entries().discard(id);
            return None;
        };
        let text = |name| wire::flat_field(&fields, name);
        if text(field::REPLAY_GROUP).is_some_and(|group| *self.inner.group() != group) {
            self.inner.entries().discard(id);
            return None;
        }
        let replayed = || {
            let done = text(field::REPLAY_DONE).and_then(|done| serde_json::from_str(done).ok());
            DeliveryAttempts::replayed(done.unwrap_or_default())
        };
        match wire::decode(&fields) {
            Ok(record) => {
                self.log_naive_time(&record);
                let record = trace::attach(self.inner.bus(), record, &fields);
                Some(InFlightEntry::new(id, record).with_attempts(attempts.unwrap_or_else(replayed)))
            }
            Err(error) => {
                tracing::warn!(group = %self.inner.group(), %id, %error, "entry is no event");
                let counters = self.inner.bus().counters();
                counters.events_consumed(1);
                counters.events_processed_failed(1);
                let attempts = DeliveryAttempts::undecodable(error.to_string(), &self.inner.bus().config().clock);
                self.inner.in_flight().add_dead_letter(id, attempts);
                None
            }
        }
    }

    /// Logs the first time without a zone: it is read as UTC, but may be a local time.
    fn log_naive_time(&self, record: &RecordedEvent) {
        let written = record.metadata().occurred_at_as_written();
        if let Some(occurred_at) = written.filter(|text| wire::timestamp::zone(text) == wire::timestamp::Zone::None)
            && !self.has_logged_naive_time.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                group = %self.inner.group(), event_type = %record.event_type(), event_id = %record.metadata().event_id(),
                occurred_at, "the time of an event has no zone: the consumer reads it as UTC, and passes it on unchanged"
            );
        }
    }

    /// Keeps an entry pending that used up its attempts while dead letters were disabled; if they are enabled now, the
    /// entry becomes one.
    fn receive_exhausted(&self, id: MessageId, mut attempts: DeliveryAttempts) {
        if self.inner.bus().config().enable_dlq {
            attempts.is_exhausted = false;
            self.inner.in_flight().add_dead_letter(id, attempts);
        } else {
            self.inner.entries().keep(id, Kept::Exhausted);
        }
    }

    fn log_deleted(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        let (count, first) = (ids.len(), &ids[0]);
        tracing::error!(group = %self.inner.group(), count, first, "entries were deleted before they were handled");
        self.inner.bus().counters().messages_deleted(count as u64);
    }

    /// Reads entries from `from` on that are pending on this consumer and not in flight: at most `count` of one page, up
    /// to the one that reaches [`PAGE_BYTES`]. `has_ended` tells whether the process that had them has ended. Returns the
    /// start of the next page.
    pub(super) async fn reclaim_own_page(
        &self,
        from: &str,
        count: usize,
        has_ended: bool,
    ) -> Result<(Option<String>, ReclaimedEntries), CommandError> {
        let (bus, group, name) = (self.inner.bus(), self.inner.group(), self.inner.name());
        let list = command::pending_of_consumer(bus.stream(), group, name, from, command::SCRIPT_BATCH_MAX);
        let ids = command::parse_pending_ids(bus.connection().query_idempotent(&list).await?)?;
        let Some(last) = ids.last().cloned() else { return Ok((None, ReclaimedEntries::default())) };
        let missing = self.inner.entries().filter_missing(ids);
        if missing.is_empty() {
            return Ok((Some(format!("({last}")), ReclaimedEntries::default()));
        }
        let mut script = self.inner.script(&script::consumer::READ_AGAIN);
        script.key(&self.inner.keys().retry).arg(PAGE_BYTES).arg(&missing[..count.clamp(1, missing.len())]);
        let (entries, attempts, deleted, reached): (_, _, _, usize) = self.inner.run_idempotent(&script).await?;
        let last = if reached < missing.len() { &missing[reached.max(1) - 1] } else { &last };
        Ok((Some(format!("({last}")), ReclaimedEntries::new(entries, attempts, std::iter::repeat(has_ended), deleted)))
    }

    /// Reclaims up to `count` entries of one page of pending ones. If `respects_members`, reclaims entries of a live
    /// member only after the time that it announces. Returns the next cursor, `-` at the end.
    pub(super) async fn claim_page(
        &self,
        cursor: &str,
        idle_ms: u64,
        respects_members: bool,
        count: usize,
    ) -> Result<(String, ReclaimedEntries), CommandError> {
        let mut claim = self.inner.script(&script::consumer::CLAIM_IDLE);
        claim.key(&self.inner.keys().retry).key(&self.inner.keys().members);
        claim.arg(idle_ms).arg(cursor).arg(PENDING_PAGE_LEN).arg(count).arg(PAGE_BYTES);
        claim.arg(u8::from(respects_members));
        let (cursor, entries, attempts, deleted, ended): (_, _, _, _, Vec<bool>) =
            self.inner.run_idempotent(&claim).await?;
        Ok((cursor, ReclaimedEntries::new(entries, attempts, ended, deleted)))
    }

    pub(super) fn log_recovered(&self, count: usize) {
        if count > 0 {
            self.inner.bus().counters().messages_recovered(count as u64);
            tracing::info!(group = %self.inner.group(), count, "entries of dead consumers reclaimed");
        }
    }
}
