//! The ack batch: dispositions of entries on their way to the server.
//!
//! Invariant: an entry leaves the in-flight entries only after its disposition is on the server; a disposition that
//! could not be written stays in the batch for the next write. The server refuses the failure of an entry that a
//! different consumer has claimed or finished. It accepts each acknowledgement, because the handlers have succeeded,
//! except from a consumer that no longer owns the partition.
//!
//! Real time, not the given clock: how long failures gather, so that one script writes many.

use std::{collections::VecDeque, time::Duration};

use eventbus::{
    RecordedEvent,
    delivery::{DisposedEntry, Disposition},
    port::{DeliveryAttempts, MessageId},
};
use redis::ScriptInvocation;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Consumer, handoff::UnhandledEntry};
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
/// once. If the process ends before the write, this attempt is lost, and the entry is redelivered as a suspect: as if
/// its handlers had been running.
const GATHER: Duration = Duration::from_millis(20);

/// Dispositions that are not on the server yet, by how they are written.
///
/// | disposition | event | next state of the entry |
/// |---|---|---|
/// | acknowledge | the server executed `XACK`, and deleted the attempts | released |
/// | skip | the group never announced its type, and no live member may handle it | acknowledged as skipped, released |
/// | skip | the group announced its type, or a live member may handle it | handed off, released |
/// | retry | the script saves the attempts, at the latest before the consumer rereads the entry | waits for its retry |
/// | begin (suspects only) | the script saves the attempts at once | a worker runs its handlers |
/// | dead letter | a member knows its schema version | handed off, released |
/// | dead letter | dead letters are enabled | a dead letter, acknowledged, released |
/// | dead letter | dead letters are disabled | kept pending as exhausted, released |
/// | dead letter | the entry was deleted from the stream | as above, with the event from memory |
/// | any but acknowledge | a different consumer has claimed or finished the entry | released |
/// | any | the consumer no longer owns the partition | dropped with the partition |
/// | any | the write fails | unchanged: the next write repeats it |
///
/// Released: no longer in flight here. Handed off: left pending for a member that handles the entry; in a partition,
/// for its next owner, or for this one after a change of the members.
#[derive(Default)]
pub(super) struct AckBatch {
    pub(super) acknowledged: Vec<MessageId>,
    /// Acknowledged entries with attempts on record.
    acknowledged_with_attempts: Vec<MessageId>,
    unhandled: Vec<UnhandledEntry>,
    /// Entries that this group must not handle.
    discarded: Vec<MessageId>,
    attempt_updates: Vec<AttemptUpdate>,
    /// Earliest time of the next write of `attempt_updates`; `None` if at once.
    notes_at: Option<Instant>,
    dead_letter_writes: VecDeque<DeadLetterWrite>,
}

struct AttemptUpdate {
    id: MessageId,
    attempts: DeliveryAttempts,
    /// Set if a worker starts the entry's handlers once the update is on the server.
    starts_run: bool,
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
            && self.unhandled.is_empty()
            && self.discarded.is_empty()
            && self.attempt_updates.is_empty()
            && self.dead_letter_writes.is_empty()
    }

    /// Returns when the gathering updates are due; `None` if none gather.
    pub(super) fn gathers_until(&self) -> Option<Instant> {
        if self.attempt_updates.is_empty() { None } else { self.notes_at }
    }

    /// Ends the gathering: the next write includes all `attempt_updates`.
    pub(super) const fn gather_no_more(&mut self) {
        self.notes_at = None;
    }

    fn gathers(&self) -> bool {
        self.notes_at.is_some_and(|at| at > Instant::now()) && self.attempt_updates.len() < command::SCRIPT_BATCH_MAX
    }

    pub(super) fn add(&mut self, disposed: impl IntoIterator<Item = DisposedEntry>) {
        for disposed_entry in disposed {
            let DisposedEntry { id, record, disposition, .. } = disposed_entry;
            match disposition {
                Disposition::Acknowledge { has_attempts: false } => self.acknowledged.push(id),
                Disposition::Acknowledge { has_attempts: true } => self.acknowledged_with_attempts.push(id),
                Disposition::Skip(delivery_attempts) => self.unhandled.extend(record.map(|record| UnhandledEntry {
                    id,
                    record,
                    attempts: delivery_attempts,
                })),
                Disposition::Retry { attempts, .. } => {
                    self.attempt_updates.push(AttemptUpdate { id, attempts, starts_run: false })
                }
                Disposition::Begin(attempts) => {
                    self.attempt_updates.push(AttemptUpdate { id, attempts, starts_run: true });
                    self.gather_no_more(); // a worker waits for this write
                }
                Disposition::DeadLetter(attempts) => {
                    self.dead_letter_writes.push_back(DeadLetterWrite { id, record, attempts })
                }
            }
        }
    }
}

impl Consumer {
    /// Writes the whole batch; what fails stays in it.
    pub(super) async fn write_batch(&self, batch: &mut AckBatch) -> Result<AckBatchOutcome, CommandError> {
        batch.gather_no_more();
        self.write_most(batch).await
    }

    /// Writes the batch, except for updates that still gather.
    pub(super) async fn write_most(&self, batch: &mut AckBatch) -> Result<AckBatchOutcome, CommandError> {
        let mut written = AckBatchOutcome::default();
        batch.discarded.append(&mut self.discarded());
        if !batch.discarded.is_empty() {
            self.acknowledge(&batch.discarded).await?;
            batch.discarded.clear();
        }
        if !batch.acknowledged.is_empty() {
            self.acknowledge(&batch.acknowledged).await?;
            written.acknowledged += self.release_acknowledged(&mut batch.acknowledged);
        }
        // an entry gets its next disposition only after the consumer read it again, and before that read the consumer
        // writes the attempts: so no entry below has an update that still gathers
        if !batch.attempt_updates.is_empty() && !batch.gathers() {
            written.lost = self.save_attempts(&batch.attempt_updates).await?;
            let (begun, failed): (Vec<&AttemptUpdate>, Vec<_>) =
                batch.attempt_updates.iter().partition(|update| update.starts_run);
            self.in_flight.begin(begun.into_iter().map(|update| &update.id));
            written.failed += failed.into_iter().filter(|update| !written.lost.contains(&update.id)).count() as u64;
            batch.attempt_updates.clear();
            batch.notes_at = Some(Instant::now() + GATHER);
        }
        if !batch.acknowledged_with_attempts.is_empty() {
            self.acknowledge_with_attempts(&batch.acknowledged_with_attempts).await?;
            written.acknowledged += self.release_acknowledged(&mut batch.acknowledged_with_attempts);
        }
        if !batch.unhandled.is_empty() {
            self.skip_or_hand_off(&batch.unhandled).await?;
            self.release_acknowledged(&mut batch.unhandled.drain(..).map(|skipped| skipped.id).collect());
        }
        while let Some(write) = batch.dead_letter_writes.front() {
            if let Some(record) = &write.record
                && self.hand_off_to_newer(&write.id, record, &write.attempts.done).await?
            {
                self.in_flight.release([&write.id]);
                batch.dead_letter_writes.pop_front();
                continue;
            }
            match self.bus.config().enable_dlq {
                true => written.dead_lettered += u64::from(self.move_to_dead_letters(write).await?),
                false => written.failed += u64::from(self.mark_exhausted(write).await?),
            }
            let write = batch.dead_letter_writes.pop_front();
            self.in_flight.release(write.iter().map(|write| &write.id));
        }
        Ok(written)
    }

    pub(super) fn release_acknowledged(&self, ids: &mut Vec<MessageId>) -> u64 {
        self.in_flight.release(&*ids);
        let count = ids.len() as u64;
        ids.clear();
        count
    }

    async fn acknowledge(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        if self.fencing_token.is_some() {
            return self.acknowledge_with_attempts(ids).await;
        }
        for ids in ids.chunks(ACK_BATCH_MAX) {
            let acknowledge = command::acknowledge(self.bus.stream(), &self.group, ids);
            self.bus.connection().query::<u64>(&acknowledge).await?;
        }
        Ok(())
    }

    async fn acknowledge_with_attempts(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        for ids in ids.chunks(command::SCRIPT_BATCH_MAX) {
            let mut script = self.script(&script::consumer::ACKNOWLEDGE_WITH_ATTEMPTS);
            script.key(&self.keys.retry).arg(self.group.as_str());
            add_ids(&mut script, ids);
            self.run_idempotent::<u64>(script).await?;
        }
        Ok(())
    }

    /// Saves attempts. Releases and returns the entries that are no longer pending on this consumer.
    async fn save_attempts(&self, updates: &[AttemptUpdate]) -> Result<Vec<MessageId>, CommandError> {
        let mut all_lost = Vec::new();
        for updates in updates.chunks(command::SCRIPT_BATCH_MAX) {
            let mut script = self.script(&script::consumer::SAVE_ATTEMPTS);
            script.key(&self.keys.retry).arg(self.group.as_str()).arg(&self.name);
            for AttemptUpdate { id, attempts: delivery_attempts, .. } in updates {
                let count = delivery_attempts.attempts.saturating_add(delivery_attempts.process_ends);
                script.arg(id.as_str()).arg(count).arg(attempts_json(delivery_attempts));
            }
            let lost: Vec<String> = self.run_idempotent(script).await?;
            all_lost.extend(lost.into_iter().map(MessageId::new));
        }
        self.release_lost(&all_lost);
        Ok(all_lost)
    }

    /// Moves an entry to the dead letters. Returns `false` if it is no longer pending on this consumer.
    async fn move_to_dead_letters(
        &self,
        DeadLetterWrite { id, record, attempts }: &DeadLetterWrite,
    ) -> Result<bool, CommandError> {
        let mut script = self.script(&script::consumer::MOVE_TO_DEAD_LETTERS);
        script.key(&self.keys.retry).key(&self.keys.dead_letters);
        script.arg(self.group.as_str()).arg(&self.name).arg(id.as_str());
        let own = self.dead_letter_fields(id, attempts);
        script.arg(own.len() * 2);
        let in_memory = record.as_ref().and_then(|record| wire::encode(record).ok()).unwrap_or_default();
        for (name, value) in &own {
            script.arg(*name).arg(value);
        }
        for (name, value) in &in_memory {
            script.arg(*name).arg(&**value);
        }
        // lock: a reader of the counters that sees the entry acknowledged also sees it counted
        let _counted = self.bus.dead_letter_gate().begin_write().await;
        let written: Option<String> = self.run_idempotent(script).await?;
        let event = record.as_ref().map(RecordedEvent::metadata);
        match &written {
            Some(dead_letter) => {
                self.bus.counters().messages_sent_to_dlq(1);
                self.bus.dead_letter_gate().notify();
                tracing::error!(
                    group = %self.group, %id, dead_letter, handler = attempts.handlers(), error = attempts.errors(),
                    attempts = attempts.most_attempts(), event_type = event.map(|event| event.event_type().as_str()),
                    aggregate = event.map(|event| tracing::field::display(event.stream())),
                    event_id = event.map(|event| tracing::field::display(event.event_id())),
                    "event is a dead letter now"
                );
            }
            None => tracing::warn!(group = %self.group, %id, "another consumer has claimed a failed event"),
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
            (field::DLQ_TIMESTAMP, utc(self.bus.config().clock.now())),
            (field::ERROR, delivery_attempts.errors()),
            (field::HANDLER, delivery_attempts.handlers()),
            (field::GROUP, self.group.to_string()),
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
        let mut delivery_attempts = attempts.clone();
        delivery_attempts.is_exhausted = true;
        let error = delivery_attempts.errors();
        if !self
            .save_attempts(&[AttemptUpdate { id: id.clone(), attempts: delivery_attempts, starts_run: false }])
            .await?
            .is_empty()
        {
            return Ok(false);
        }
        if self.kept_pending().insert(id.clone()) {
            self.bus.counters().messages_exhausted(1);
            tracing::error!(group = %self.group, %id, error, "event used up its attempts and stays pending");
        }
        Ok(true)
    }

    /// Releases entries that are no longer pending on this consumer.
    pub(super) fn release_lost(&self, ids: &[MessageId]) {
        if ids.is_empty() {
            return;
        }
        let count = ids.len();
        tracing::warn!(group = %self.group, count, "another consumer has claimed entries that were in flight here");
        self.in_flight.release(ids);
    }
}

/// Formats a time as dead letters spell it.
fn utc(time: OffsetDateTime) -> String {
    format!("{}+00:00", timestamp::write(time))
}

/// Adds ids to the arguments of a script.
pub(super) fn add_ids(script: &mut ScriptInvocation<'_>, ids: &[MessageId]) {
    for id in ids {
        script.arg(id.as_str());
    }
}

/// Returns attempts as stored JSON, empty if there are none; plain data, so serializing cannot fail.
pub(super) fn attempts_json(attempts: &DeliveryAttempts) -> String {
    if *attempts == DeliveryAttempts::default() {
        return String::new();
    }
    serde_json::to_string(attempts).unwrap_or_default()
}
