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

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use eventbus::{
    Name, RecordedEvent,
    delivery::{DeliveryAttempts, DisposedEntry, Disposition, log_skipped_type},
    port::MessageId,
};
use parking_lot::Mutex;
use time::OffsetDateTime;

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

/// Dispositions that are not on the server yet, by how they are written.
///
/// | disposition | event | next state of the entry |
/// |---|---|---|
/// | begin | the script saves the count of the run | runs |
/// | retry | the script saves the attempts | waits for its retry |
/// | retry, of a newer release | the script saves since when no handler here can read it | kept pending as unreadable, released |
/// | dead letter, of a version that no handler here reads | as for a retry of a newer release | kept pending as unreadable, released |
/// | acknowledge | the server executed `XACK`, and deleted the attempts | released |
/// | skip | the server executed `XACK`, and deleted the attempts | acknowledged, counted as skipped, released |
/// | none: discarded when it was read | the server executed `XACK` | acknowledged |
/// | dead letter | dead letters are enabled | a dead letter, acknowledged, released |
/// | dead letter | dead letters are disabled | kept pending as exhausted, released |
/// | dead letter | the entry was deleted from the stream | as above, with the event from memory |
/// | any but acknowledge | a different consumer has reclaimed or acknowledged the entry | released |
/// | any | the write fails | unchanged: the next write repeats it |
///
/// Released: no longer in flight here.
#[derive(Default)]
pub(super) struct AckBatch {
    updates: Vec<AttemptUpdate>,
    acknowledged: Vec<Acknowledged>,
    dead_letter_writes: VecDeque<DeadLetterWrite>,
}

struct AttemptUpdate {
    id: MessageId,
    attempts: DeliveryAttempts,
    then: AfterUpdate,
}

/// What follows once the attempts are saved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterUpdate {
    Wait,
    Begin,
    /// No handler here can read its version.
    LeaveToOthers,
}

struct Acknowledged {
    id: MessageId,
    has_attempts: bool,
    reason: AckReason,
}

enum AckReason {
    Handled,
    /// No handler of this consumer takes this type.
    Skipped(Name),
    /// No worker needs it: it was deleted, or is a replay for a different group.
    Discarded,
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
        self.updates.is_empty() && self.acknowledged.is_empty() && self.dead_letter_writes.is_empty()
    }

    fn acknowledge(&mut self, id: MessageId, has_attempts: bool, reason: AckReason) {
        self.acknowledged.push(Acknowledged { id, has_attempts, reason });
    }

    fn update(&mut self, id: MessageId, attempts: DeliveryAttempts, then: AfterUpdate) {
        self.updates.push(AttemptUpdate { id, attempts, then });
    }

    /// Keeps of the attempts which handlers have succeeded, and since when the others cannot read the event: they do not
    /// count as attempts.
    fn leave_to_others(&mut self, id: MessageId, attempts: DeliveryAttempts) {
        let mut kept = DeliveryAttempts::replayed(attempts.done);
        kept.first_failed_at = attempts.first_failed_at;
        self.update(id, kept, AfterUpdate::LeaveToOthers);
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

    /// Adds dispositions to a batch.
    pub(super) fn add(&self, batch: &mut AckBatch, disposed: impl IntoIterator<Item = DisposedEntry>) {
        for DisposedEntry { id, record, disposition, .. } in disposed {
            match disposition {
                Disposition::Acknowledge { has_attempts } => batch.acknowledge(id, has_attempts, AckReason::Handled),
                Disposition::Skip => {
                    if let Some(record) = record {
                        batch.acknowledge(id, true, AckReason::Skipped(record.event_type().clone()));
                    }
                }
                Disposition::Begin(attempts) => batch.update(id, attempts, AfterUpdate::Begin),
                Disposition::Retry { attempts, of_newer_release: true, .. } => batch.leave_to_others(id, attempts),
                Disposition::Retry { attempts, .. } => batch.update(id, attempts, AfterUpdate::Wait),
                Disposition::DeadLetter(attempts)
                    if record.as_ref().is_some_and(|record| self.is_unreadable(record)) =>
                {
                    batch.leave_to_others(id, attempts);
                }
                Disposition::DeadLetter(attempts) => {
                    batch.dead_letter_writes.push_back(DeadLetterWrite { id, record, attempts })
                }
            }
        }
    }

    /// Returns `true` if handlers here take the type of an event, and all were made for an earlier version.
    fn is_unreadable(&self, record: &RecordedEvent) -> bool {
        let versions = self.inner.bus().subscribers().versions(self.inner.group(), record.event_type());
        !versions.is_empty() && versions.iter().all(|version| *version < record.metadata().schema_version())
    }

    /// Writes the batch, and adds what was written, also before an error.
    ///
    /// Invariant: it writes the sections in this order, and clears each, and releases its entries, only after the
    /// reply: an error leaves the rest in the batch. Attempts come first, because the same entry may have been handled
    /// since.
    pub(super) async fn write(&self, batch: &mut AckBatch, written: &mut AckBatchOutcome) -> Result<(), CommandError> {
        for id in self.inner.entries().take_discarded() {
            batch.acknowledge(id, false, AckReason::Discarded);
        }
        if !batch.updates.is_empty() {
            let lost = self.save_attempts(&batch.updates).await?;
            let updates = std::mem::take(&mut batch.updates);
            self.continue_updated(updates.into_iter().filter(|update| !lost.contains(&update.id)), written);
            written.lost.extend(lost);
        }
        if !batch.acknowledged.is_empty() {
            self.acknowledge(&batch.acknowledged).await?;
            self.release_acknowledged(std::mem::take(&mut batch.acknowledged), written);
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

    fn continue_updated(&self, updates: impl Iterator<Item = AttemptUpdate>, written: &mut AckBatchOutcome) {
        let mut begun = Vec::new();
        for AttemptUpdate { id, then, .. } in updates {
            match then {
                AfterUpdate::Wait => written.failed += 1,
                AfterUpdate::Begin => begun.push(id),
                AfterUpdate::LeaveToOthers => {
                    written.failed += 1;
                    if self.inner.entries().keep(id.clone(), Kept::Unreadable) {
                        tracing::warn!(
                            group = %self.inner.group(), %id,
                            "no handler here can read the version of an event: it stays pending for consumers of other \
                             releases"
                        );
                    }
                    self.inner.in_flight().release([&id]);
                }
            }
        }
        if !begun.is_empty() {
            self.inner.in_flight().begin(&begun);
        }
    }

    async fn acknowledge(&self, acknowledged: &[Acknowledged]) -> Result<(), CommandError> {
        let (bus, group, retry) = (self.inner.bus(), self.inner.group(), &self.inner.keys().retry);
        for acknowledged in acknowledged.chunks(ACK_BATCH_MAX) {
            let ids: Vec<_> = acknowledged.iter().map(|one| &one.id).collect();
            let with_attempts: Vec<_> =
                acknowledged.iter().filter(|one| one.has_attempts).map(|one| one.id.as_str()).collect();
            if with_attempts.is_empty() {
                let acknowledge = command::acknowledge(bus.stream(), group, ids);
                bus.connection().query_idempotent::<u64>(&acknowledge).await?;
            } else {
                let acknowledge = command::acknowledge_with_attempts(bus.stream(), group, ids, retry, with_attempts);
                bus.connection().query_all_idempotent::<(u64, u64)>(&acknowledge).await?;
            }
        }
        Ok(())
    }

    /// Releases acknowledged entries, counts them, and logs each type that no handler takes once.
    fn release_acknowledged(&self, acknowledged: Vec<Acknowledged>, written: &mut AckBatchOutcome) {
        self.inner.in_flight().release(acknowledged.iter().map(|one| &one.id));
        let mut skipped = 0;
        for Acknowledged { reason, .. } in acknowledged {
            match reason {
                AckReason::Handled => written.acknowledged += 1,
                AckReason::Skipped(event_type) => {
                    skipped += 1;
                    let mut logged = self.skipped_types.lock();
                    if !logged.contains(&event_type) {
                        log_skipped_type(self.inner.group(), &event_type);
                        logged.insert(event_type);
                    }
                }
                AckReason::Discarded => {}
            }
        }
        self.inner.bus().counters().events_skipped(skipped);
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
    async fn mark_exhausted(&self, write: &DeadLetterWrite) -> Result<bool, CommandError> {
        let DeadLetterWrite { id, attempts, .. } = write;
        let mut attempts = attempts.clone();
        attempts.is_exhausted = true;
        let error = attempts.errors();
        let update = AttemptUpdate { id: id.clone(), attempts, then: AfterUpdate::Wait };
        if !self.save_attempts(&[update]).await?.is_empty() {
            return Ok(false);
        }
        if self.inner.entries().keep(id.clone(), Kept::Exhausted) {
            self.inner.bus().counters().messages_exhausted(1);
            tracing::error!(group = %self.inner.group(), %id, error, "event used up its attempts and stays pending");
        }
        Ok(true)
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
