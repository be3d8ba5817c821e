//! The receiver: turns entries of the stream into in-flight entries, and reads or claims entries again.
//!
//! Invariant: only the reader adds new entries. An entry that a consumer of the group had before keeps its attempts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    RecordedEvent,
    delivery::{DeliveryAttempts, DueEntry, InFlightEntry},
    port::MessageId,
    support::PAGE_BYTES,
};

use super::{inner::ConsumerInner, pending_entries::Kept};
use crate::{
    command,
    error::CommandError,
    keys::field,
    reply::Entry,
    script::{self, PASSED_BYTES_MAX},
    trace, wire,
};

/// Pending entries that one claim script searches for those of dead consumers.
const PENDING_PAGE_LEN: usize = 1_000;
/// Delay before rereading a due entry that cannot be read yet, as a recreated group has yet to read it: its reader may get
/// the entry first.
const UNREAD_ENTRY_DELAY: Duration = Duration::from_secs(1);

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
    /// Takes three parts of a reply: entries, the attempts of each, and the ids of deleted ones. The processes of
    /// their consumers count as alive unless [`with_owner_ended`](Self::with_owner_ended) says otherwise.
    pub(super) fn new(entries: Vec<Entry>, attempts: Vec<Option<String>>, deleted: Vec<String>) -> Self {
        let reclaimed = |(entry, attempts): (Entry, Option<String>)| {
            let attempts = attempts.and_then(|attempts| serde_json::from_str(&attempts).ok());
            ReclaimedEntry { entry, attempts, owner_ended: false }
        };
        Self { entries: entries.into_iter().zip(attempts).map(reclaimed).collect(), deleted }
    }

    /// Sets, entry by entry, whether the process of its consumer has ended.
    pub(super) fn with_owner_ended(mut self, have_ended: impl IntoIterator<Item = bool>) -> Self {
        for (reclaimed, has_ended) in self.entries.iter_mut().zip(have_ended) {
            reclaimed.owner_ended = has_ended;
        }
        self
    }
}

/// Entries that a consumer has read again.
struct ReadAgain {
    reclaimed: ReclaimedEntries,
    /// Ids that a different consumer has claimed or finished.
    lost: Vec<MessageId>,
    /// Ids that cannot be read yet.
    later: Vec<MessageId>,
    /// The number of ids that the read has covered.
    reached: usize,
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

    /// Prepares an entry for the workers. Returns `None` if it is in flight or kept pending already, or if
    /// [`decode_or_dispose`](Self::decode_or_dispose) returns `None`.
    pub(super) fn prepare_entry(&self, entry: &Entry, attempts: Option<DeliveryAttempts>) -> Option<InFlightEntry> {
        let id = MessageId::new(entry.id.as_str());
        // the reader of a recreated group receives entries again that are in flight or kept pending
        if self.inner.entries().contains(&id) {
            return None;
        }
        self.decode_or_dispose(id, entry.field_refs().as_deref(), attempts)
    }

    /// Resumes entries that were read again for a retry.
    pub(super) fn resume(&self, reclaimed: ReclaimedEntries) {
        self.log_deleted(&reclaimed.deleted);
        let mut gone: Vec<_> = reclaimed.deleted.into_iter().map(MessageId::new).collect();
        let mut received = Vec::new();
        for ReclaimedEntry { entry, attempts, .. } in reclaimed.entries {
            let id = MessageId::new(entry.id.as_str());
            match self.decode_or_dispose(id.clone(), entry.field_refs().as_deref(), attempts) {
                Some(entry) => received.push(entry),
                None => gone.push(id),
            }
        }
        self.inner.in_flight().release(&gone);
        self.inner.in_flight().resume(received);
    }

    /// Decodes an entry. Returns `None` if it needs no worker: keeps an exhausted one pending or moves it to the dead
    /// letters, moves an undecodable one there, and discards a deleted one and a replay for a different group.
    fn decode_or_dispose(
        &self,
        id: MessageId,
        fields: Option<&[(&[u8], &[u8])]>,
        attempts: Option<DeliveryAttempts>,
    ) -> Option<InFlightEntry> {
        let attempts = match attempts {
            Some(attempts) if attempts.is_exhausted => {
                self.receive_exhausted(id, attempts);
                return None;
            }
            attempts => attempts,
        };
        let Some(fields) = fields else {
            self.log_deleted(&[id.to_string()]);
            self.inner.entries().discard(id);
            return None;
        };
        let text = |name| wire::flat_field(fields, name);
        if text(field::REPLAY_GROUP).is_some_and(|group| *self.inner.group() != group) {
            self.inner.entries().discard(id);
            return None;
        }
        let replayed = || {
            let done = text(field::REPLAY_DONE).and_then(|done| serde_json::from_str(done).ok());
            DeliveryAttempts::replayed(done.unwrap_or_default())
        };
        match wire::decode(fields) {
            Ok(record) => {
                self.log_naive_time(&record);
                let record = trace::attach(self.inner.bus(), record, fields);
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

    /// Reads entries from `from` on that are pending on this consumer and not in flight: at most `count` of one page,
    /// up to the one that reaches `max_bytes`. Returns the start of the next page.
    pub(super) async fn reclaim_own_page(
        &self,
        from: &str,
        count: usize,
        max_bytes: usize,
    ) -> Result<(Option<String>, ReclaimedEntries), CommandError> {
        let (mut last, mut missing) = (None, Vec::new());
        let (mut from, mut listed) = (from.to_owned(), count);
        // entries in flight may be many, because an entry that waits for a retry takes no room: passed in ever longer
        // steps
        while missing.is_empty() {
            let ids = self.list_own_pending(&from, listed).await?;
            last = ids.last().cloned();
            let Some(last) = &last else { break };
            (from, listed) = (format!("({last}"), (listed * 2).min(command::SCRIPT_BATCH_MAX));
            missing = self.inner.entries().filter_missing(ids);
        }
        if missing.len() > count {
            missing.truncate(count);
            last = missing.last().cloned();
        }
        let (reached, reclaimed) = self.reclaim_own(&missing, max_bytes).await?;
        if reached < missing.len() {
            last = missing[..reached].last().cloned();
        }
        Ok((last.map(|last| format!("({last}")), reclaimed))
    }

    /// Lists entries from `from` on that are pending on this consumer.
    pub(super) async fn list_own_pending(&self, from: &str, count: usize) -> Result<Vec<String>, CommandError> {
        let (bus, group, name) = (self.inner.bus(), self.inner.group(), self.inner.name());
        let list = command::pending_of_consumer(bus.stream(), group, name, from, count);
        Ok(command::parse_pending_ids(bus.connection().query_idempotent(&list).await?)?)
    }

    /// Reads due entries again.
    pub(super) async fn read_due(&self, due: Vec<DueEntry>) -> Result<(), CommandError> {
        let mut rest = &due[..];
        while !rest.is_empty() {
            match self.read_due_batch(&rest[..rest.len().min(command::SCRIPT_BATCH_MAX)]).await {
                Ok(reached) => rest = &rest[reached..],
                Err(error) => {
                    self.inner.in_flight().return_due(rest.iter().map(|due| &due.id));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Rereads the first due entries, up to the one that reaches [`PASSED_BYTES_MAX`]. Returns their number.
    async fn read_due_batch(&self, due: &[DueEntry]) -> Result<usize, CommandError> {
        let begins = |due: &DueEntry| due.ended_alone.map(|ended| ended.to_string()).unwrap_or_default();
        let ids = due.iter().map(|due| (due.id.as_str(), begins(due)));
        let ReadAgain { reclaimed, lost, later, reached } = self.read_again(ids, PASSED_BYTES_MAX).await?;
        self.resume(reclaimed);
        self.inner.release_lost(&lost);
        match self.inner.in_flight().is_crowded() {
            // while crowded the reader reads no entries, so postponed entries would wait for ever
            true => self.inner.in_flight().release(&later),
            false => self.inner.in_flight().postpone(&later, UNREAD_ENTRY_DELAY),
        }
        Ok(reached.clamp(1, due.len()))
    }

    /// Reads entries again that are pending on this consumer, up to the one that reaches `max_bytes`. Returns how many
    /// of `ids` it has covered, at least one.
    pub(super) async fn reclaim_own(
        &self,
        ids: &[String],
        max_bytes: usize,
    ) -> Result<(usize, ReclaimedEntries), CommandError> {
        if ids.is_empty() {
            return Ok((0, ReclaimedEntries::default()));
        }
        let kept = ids.iter().map(|id| (id.as_str(), "keep".to_owned()));
        let ReadAgain { reclaimed, reached, .. } = self.read_again(kept, max_bytes.max(1)).await?;
        Ok((reached.clamp(1, ids.len()), reclaimed))
    }

    /// Reads entries again, each with what the script does with its attempts.
    async fn read_again(
        &self,
        ids: impl Iterator<Item = (&str, String)>,
        max_bytes: usize,
    ) -> Result<ReadAgain, CommandError> {
        let mut script = self.inner.script(&script::consumer::READ_AGAIN);
        script.key(&self.inner.keys().retry).arg(max_bytes);
        for (id, what) in ids {
            script.arg(id).arg(what);
        }
        let (entries, attempts, deleted, lost, later, reached): (_, _, _, Vec<String>, Vec<String>, _) =
            self.inner.run_idempotent(&script).await?;
        let ids = |ids: Vec<String>| ids.into_iter().map(MessageId::new).collect();
        let reclaimed = ReclaimedEntries::new(entries, attempts, deleted);
        Ok(ReadAgain { reclaimed, lost: ids(lost), later: ids(later), reached })
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
        Ok((cursor, ReclaimedEntries::new(entries, attempts, deleted).with_owner_ended(ended)))
    }

    pub(super) fn log_recovered(&self, count: usize) {
        if count > 0 {
            self.inner.bus().counters().messages_recovered(count as u64);
            tracing::info!(group = %self.inner.group(), count, "entries of dead consumers reclaimed");
        }
    }
}
