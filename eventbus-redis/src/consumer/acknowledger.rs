//! The acknowledger: writes the dispositions of entries to the server, batch by batch.
//!
//! Invariant: an entry leaves the in-flight entries only after its disposition is on the server; a disposition that
//! could not be written stays in the batch for the next write. The server refuses the failure of an entry that a
//! different consumer has reclaimed or acknowledged. It accepts each acknowledgement, because the handlers have
//! succeeded.
//!
//! Invariant: a consumer acknowledges an event of a type that no handler here takes, and keeps no record of it: the
//! members of a group take the same types. An event whose version no handler here can read stays pending, without an
//! attempt, and other consumers claim it.
//!
//! Real time, not the given clock: the time for which failures gather, so that one script writes many.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use eventbus::{
    Name, RecordedEvent,
    delivery::{DeliveryAttempts, DisposedEntry, Disposition, log_skipped_type},
    port::MessageId,
};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{inner::ConsumerInner, pending_entries::Kept};
use crate::{
    command,
    error::CommandError,
    keys::field,
    script,
    wire::{self, timestamp},
};

/// Entries that one command acknowledges at most; the server refuses a command with more than a million arguments.
const ACK_BATCH_MAX: usize = 10_000;

/// Minimum time between two writes of failures, so that many failures share one script; a single failure is written at
/// once. If the process ends before the write, this attempt is lost, and the entry is redelivered as a suspect, as if
/// its handlers had still been running.
const GATHER: Duration = Duration::from_millis(20);

/// Dispositions that are not on the server yet, by how they are written.
///
/// | disposition | event | next state of the entry |
/// |---|---|---|
/// | acknowledge | the server executed `XACK`, and deleted the attempts | released |
/// | skip | the server executed `XACK`, and deleted the attempts | acknowledged, counted as skipped, released |
/// | retry, of a newer release | the script saves since when no handler here can read it | kept pending as unreadable, released |
/// | retry | the script saves the attempts, at the latest before the consumer rereads the entry | waits for its retry |
/// | dead letter, of a version that no handler here reads | as for a retry of a newer release | kept pending as unreadable, released |
/// | dead letter | dead letters are enabled | a dead letter, acknowledged, released |
/// | dead letter | dead letters are disabled | kept pending as exhausted, released |
/// | dead letter | the entry was deleted from the stream | as above, with the event from memory |
/// | none: discarded when it was read | the server executed `XACK` | acknowledged |
/// | any but acknowledge | a different consumer has reclaimed or acknowledged the entry | released |
/// | any | the write fails | unchanged: the next write repeats it |
///
/// Released: no longer in flight here.
#[derive(Default)]
pub(super) struct AckBatch {
    acknowledged: Vec<MessageId>,
    /// Acknowledged entries with attempts on record.
    acknowledged_with_attempts: Vec<MessageId>,
    skipped: Vec<SkippedEntry>,
    /// Entries that no worker needs: deleted ones, and replays for a different group.
    discarded: Vec<MessageId>,
    attempt_updates: Vec<AttemptUpdate>,
    /// Earliest time of the next write of `attempt_updates`; `None` if at once.
    gathers_until: Option<Instant>,
    /// Events whose version no handler here can read.
    unreadable: Vec<AttemptUpdate>,
    dead_letter_writes: VecDeque<DeadLetterWrite>,
}

/// An entry of a type that no handler of this consumer takes.
struct SkippedEntry {
    id: MessageId,
    event_type: Name,
}

struct AttemptUpdate {
    id: MessageId,
    attempts: DeliveryAttempts,
}

struct DeadLetterWrite {
    id: MessageId,
    record: Option<RecordedEvent>,
    attempts: DeliveryAttempts,
}

/// Numbers of entries by disposition, as one write put them on the server.
#[derive(Debug, Default)]
pub(super) struct AckBatchOutcome {
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) dead_lettered: u64,
    /// Entries whose failures the server refused, as they are no longer pending on this consumer.
    pub(super) lost: Vec<MessageId>,
}

impl AckBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.acknowledged.is_empty()
            && self.acknowledged_with_attempts.is_empty()
            && self.skipped.is_empty()
            && self.discarded.is_empty()
            && self.attempt_updates.is_empty()
            && self.unreadable.is_empty()
            && self.dead_letter_writes.is_empty()
    }

    /// Returns when the gathering updates are due; `None` if none gather.
    pub(super) fn gathers_until(&self) -> Option<Instant> {
        if self.attempt_updates.is_empty() { None } else { self.gathers_until }
    }

    /// Ends the gathering: the next write includes all `attempt_updates`.
    pub(super) const fn gather_no_more(&mut self) {
        self.gathers_until = None;
    }

    fn gathers(&self) -> bool {
        self.gathers_until.is_some_and(|at| at > Instant::now())
            && self.attempt_updates.len() < command::SCRIPT_BATCH_MAX
    }

    pub(super) fn add(&mut self, disposed: impl IntoIterator<Item = DisposedEntry>) {
        for DisposedEntry { id, record, disposition, .. } in disposed {
            match disposition {
                Disposition::Acknowledge { has_attempts: false } => self.acknowledged.push(id),
                Disposition::Acknowledge { has_attempts: true } => self.acknowledged_with_attempts.push(id),
                Disposition::Skip => {
                    let event_type = record.map(|record| record.event_type().clone());
                    self.skipped.extend(event_type.map(|event_type| SkippedEntry { id, event_type }));
                }
                Disposition::Retry { attempts, of_newer_release: true, .. } => self.add_unreadable(id, attempts),
                Disposition::Retry { attempts, .. } => self.attempt_updates.push(AttemptUpdate { id, attempts }),
                Disposition::DeadLetter(attempts) => {
                    self.dead_letter_writes.push_back(DeadLetterWrite { id, record, attempts })
                }
            }
        }
    }

    /// Keeps of the attempts which handlers have succeeded, and since when the others cannot read the event: they do not
    /// count as attempts.
    fn add_unreadable(&mut self, id: MessageId, attempts: DeliveryAttempts) {
        let mut kept = DeliveryAttempts::replayed(attempts.done);
        kept.first_failed_at = attempts.first_failed_at;
        self.unreadable.push(AttemptUpdate { id, attempts: kept });
    }
}

/// Writes the dispositions of one consumer.
pub(super) struct Acknowledger {
    inner: Arc<ConsumerInner>,
    /// Types already logged as taken by no handler.
    skipped_types: Mutex<HashSet<Name>>,
}

impl Acknowledger {
    pub(super) fn new(inner: Arc<ConsumerInner>) -> Self {
        Self { inner, skipped_types: Mutex::default() }
    }

    /// Writes the whole batch; what fails stays in it.
    pub(super) async fn write_batch(
        &self,
        batch: &mut AckBatch,
        written: &mut AckBatchOutcome,
    ) -> Result<(), CommandError> {
        batch.gather_no_more();
        self.write_ready(batch, written).await
    }

    /// Writes the batch, except for updates that still gather, and adds what was written, also before an error.
    ///
    /// Invariant: it writes the sections in this order, and clears each, and releases its entries, only after the
    /// reply: an error leaves the rest in the batch.
    pub(super) async fn write_ready(
        &self,
        batch: &mut AckBatch,
        written: &mut AckBatchOutcome,
    ) -> Result<(), CommandError> {
        batch.discarded.append(&mut self.inner.entries().take_discarded());
        if !batch.discarded.is_empty() {
            self.acknowledge(&batch.discarded).await?;
            batch.discarded.clear();
        }
        if !batch.acknowledged.is_empty() {
            self.acknowledge(&batch.acknowledged).await?;
            written.acknowledged += self.release_and_count(&mut batch.acknowledged);
        }
        // an entry gets its next disposition only after the consumer read it again, and before that read the consumer
        // writes the attempts: so no entry below has an update that still gathers
        if !batch.attempt_updates.is_empty() && !batch.gathers() {
            written.lost.extend(self.save_attempts(&batch.attempt_updates).await?);
            let is_saved = |update: &&AttemptUpdate| !written.lost.contains(&update.id);
            written.failed += batch.attempt_updates.iter().filter(is_saved).count() as u64;
            batch.attempt_updates.clear();
            batch.gathers_until = Some(Instant::now() + GATHER);
        }
        if !batch.acknowledged_with_attempts.is_empty() {
            self.acknowledge_with_attempts(&batch.acknowledged_with_attempts).await?;
            written.acknowledged += self.release_and_count(&mut batch.acknowledged_with_attempts);
        }
        if !batch.skipped.is_empty() {
            self.skip(&batch.skipped).await?;
            batch.skipped.clear();
        }
        let (unreadable, dead) = std::mem::take(&mut batch.dead_letter_writes)
            .into_iter()
            .partition::<VecDeque<_>, _>(|write| self.is_unreadable(write));
        batch.dead_letter_writes = dead;
        unreadable.into_iter().for_each(|write| batch.add_unreadable(write.id, write.attempts));
        if !batch.unreadable.is_empty() {
            self.keep_unreadable(&batch.unreadable).await?;
            batch.unreadable.clear();
        }
        while let Some(write) = batch.dead_letter_writes.front() {
            match self.inner.bus().config().enable_dlq {
                true => written.dead_lettered += u64::from(self.move_to_dead_letters(write).await?),
                false => written.failed += u64::from(self.mark_exhausted(write).await?),
            }
            let write = batch.dead_letter_writes.pop_front();
            self.inner.in_flight().release(write.iter().map(|write| &write.id));
        }
        Ok(())
    }

    fn release_and_count(&self, ids: &mut Vec<MessageId>) -> u64 {
        self.inner.in_flight().release(&*ids);
        let count = ids.len() as u64;
        ids.clear();
        count
    }

    async fn acknowledge(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        for ids in ids.chunks(ACK_BATCH_MAX) {
            let acknowledge = command::acknowledge(self.inner.bus().stream(), self.inner.group(), ids);
            self.inner.bus().connection().query_idempotent::<u64>(&acknowledge).await?;
        }
        Ok(())
    }

    async fn acknowledge_with_attempts(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        let (bus, group, retry) = (self.inner.bus(), self.inner.group(), &self.inner.keys().retry);
        for ids in ids.chunks(ACK_BATCH_MAX) {
            let acknowledge = command::acknowledge_with_attempts(bus.stream(), group, retry, ids);
            bus.connection().query_all_idempotent::<(u64, u64)>(&acknowledge).await?;
        }
        Ok(())
    }

    /// Saves attempts. Releases and returns the entries that are no longer pending on this consumer.
    async fn save_attempts(&self, updates: &[AttemptUpdate]) -> Result<Vec<MessageId>, CommandError> {
        let mut all_lost = Vec::new();
        for updates in updates.chunks(command::SCRIPT_BATCH_MAX) {
            let mut script = self.inner.script(&script::consumer::SAVE_ATTEMPTS);
            script.key(&self.inner.keys().retry);
            for AttemptUpdate { id, attempts: delivery_attempts, .. } in updates {
                let count = delivery_attempts.attempts.saturating_add(delivery_attempts.process_ends);
                script.arg(id.as_str()).arg(count).arg(attempts_json(delivery_attempts));
            }
            let lost: Vec<String> = self.inner.run_idempotent(&script).await?;
            all_lost.extend(lost.into_iter().map(MessageId::new));
        }
        self.inner.release_lost(&all_lost);
        Ok(all_lost)
    }

    /// Moves an entry to the dead letters. Returns `false` if it is no longer pending on this consumer.
    async fn move_to_dead_letters(
        &self,
        DeadLetterWrite { id, record, attempts }: &DeadLetterWrite,
    ) -> Result<bool, CommandError> {
        let own = self.dead_letter_fields(id, attempts);
        let prepare = || {
            let mut script = self.inner.script(&script::consumer::MOVE_TO_DEAD_LETTERS);
            script.key(&self.inner.keys().retry).key(&self.inner.keys().dead_letters);
            script.arg(id.as_str());
            command::add_fields(&mut script, &own);
            script
        };
        let mut written: Option<String> = self.inner.run_idempotent(&prepare()).await?;
        if written.as_deref() == Some("deleted") {
            let mut script = prepare();
            script.arg(1);
            let in_memory = record.as_ref().and_then(|record| wire::encode(record).ok()).unwrap_or_default();
            for (name, value) in &in_memory {
                script.arg(*name).arg(&**value);
            }
            written = self.inner.run_idempotent(&script).await?;
        }
        let event = record.as_ref().map(RecordedEvent::metadata);
        match &written {
            Some(dead_letter) => {
                self.inner.bus().counters().messages_sent_to_dlq(1);
                tracing::error!(
                    group = %self.inner.group(), %id, dead_letter, handler = attempts.handlers(), error = attempts.errors(),
                    attempts = attempts.most_attempts(), event_type = event.map(|event| event.event_type().as_str()),
                    aggregate = event.map(|event| tracing::field::display(event.stream())),
                    event_id = event.map(|event| tracing::field::display(event.event_id())),
                    "event is a dead letter now"
                );
            }
            None => {
                tracing::warn!(group = %self.inner.group(), %id, "another consumer has reclaimed or acknowledged a failed event")
            }
        }
        Ok(written.is_some())
    }

    /// Returns the fields that a dead letter has in addition to those of its entry.
    fn dead_letter_fields(&self, id: &MessageId, delivery_attempts: &DeliveryAttempts) -> Vec<(&'static str, String)> {
        let time = |ms: Option<u64>| {
            let nanos = i128::from(ms.unwrap_or_default()) * 1_000_000;
            let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            utc(time)
        };
        let attempts = delivery_attempts.most_attempts();
        vec![
            (field::ORIGINAL_MESSAGE_ID, id.to_string()),
            (field::RETRY_COUNT, attempts.saturating_sub(1).to_string()),
            (field::DLQ_TIMESTAMP, utc(self.inner.bus().config().clock.now())),
            (field::ERROR, delivery_attempts.errors()),
            (field::HANDLER, delivery_attempts.handlers()),
            (field::GROUP, self.inner.group().to_string()),
            (field::ATTEMPTS, attempts.to_string()),
            (field::FIRST_FAILED_AT, time(delivery_attempts.first_failed_at)),
            (field::LAST_FAILED_AT, time(delivery_attempts.last_failed_at)),
            (field::DONE_HANDLERS, serde_json::Value::from(delivery_attempts.done.as_slice()).to_string()),
        ]
    }

    /// Records that an entry used up its attempts; it stays pending. Returns `false` if it is no longer pending on this
    /// consumer.
    async fn mark_exhausted(
        &self,
        DeadLetterWrite { id, attempts, .. }: &DeadLetterWrite,
    ) -> Result<bool, CommandError> {
        let mut attempts = attempts.clone();
        attempts.is_exhausted = true;
        let error = attempts.errors();
        let update = AttemptUpdate { id: id.clone(), attempts };
        if !self.save_attempts(&[update]).await?.is_empty() {
            return Ok(false);
        }
        if self.inner.entries().keep(id.clone(), Kept::Exhausted) {
            self.inner.bus().counters().messages_exhausted(1);
            tracing::error!(group = %self.inner.group(), %id, error, "event used up its attempts and stays pending");
        }
        Ok(true)
    }

    /// Acknowledges entries of types that no handler here takes.
    async fn skip(&self, skipped: &[SkippedEntry]) -> Result<(), CommandError> {
        let ids: Vec<_> = skipped.iter().map(|skipped| skipped.id.clone()).collect();
        self.acknowledge_with_attempts(&ids).await?;
        self.inner.in_flight().release(&ids);
        self.inner.bus().counters().events_skipped(ids.len() as u64);
        let mut logged = self.skipped_types.lock();
        for SkippedEntry { event_type, .. } in skipped {
            if logged.insert(event_type.clone()) {
                log_skipped_type(self.inner.group(), event_type);
            }
        }
        Ok(())
    }

    /// Returns `true` if handlers here take the type of a dead letter, and all were made for an earlier version.
    fn is_unreadable(&self, DeadLetterWrite { record, .. }: &DeadLetterWrite) -> bool {
        record.as_ref().is_some_and(|record| {
            let versions = self.inner.bus().subscribers().versions(self.inner.group(), record.event_type());
            !versions.is_empty() && versions.iter().all(|version| *version < record.metadata().schema_version())
        })
    }

    /// Leaves entries pending, so that other consumers claim them after their idle time.
    async fn keep_unreadable(&self, unreadable: &[AttemptUpdate]) -> Result<(), CommandError> {
        let lost = self.save_attempts(unreadable).await?;
        for AttemptUpdate { id, .. } in unreadable {
            if !lost.contains(id) && self.inner.entries().keep(id.clone(), Kept::Unreadable) {
                tracing::warn!(
                    group = %self.inner.group(), %id,
                    "no handler here can read the version of an event: it stays pending for consumers of other releases"
                );
            }
            self.inner.in_flight().release([id]);
        }
        Ok(())
    }
}

/// Formats a time as dead letters spell it.
fn utc(time: OffsetDateTime) -> String {
    format!("{}+00:00", timestamp::write(time))
}

/// Returns attempts as stored JSON, empty if there are none; plain data, so serializing cannot fail.
fn attempts_json(attempts: &DeliveryAttempts) -> String {
    if *attempts == DeliveryAttempts::default() {
        return String::new();
    }
    serde_json::to_string(attempts).unwrap_or_default()
}
