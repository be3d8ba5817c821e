//! Writing down what came of entries.
//!
//! Keep: an entry leaves the hand only after what came of it is written down; what could not be written is kept and
//! written later. Whatever is written about a failure is refused by the server if the entry is somebody else's by now;
//! an acknowledgement never is, as the handlers have succeeded.
//!
//! Real time, not the given clock: how long notes of failures gather, so that one script writes many.

use std::{collections::VecDeque, time::Duration};

use eventbus::{
    RecordedEvent,
    port::{DeliveryAttempts, DisposedEntry, Disposition, MessageId},
};
use redis::ScriptInvocation;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Consumer, handoff::UnhandledEntry};
use crate::{
    command,
    connection::CommandError,
    keys::field,
    script,
    wire::{self, timestamp},
};

/// How many entries one command acknowledges; the server takes no command with more than a million arguments.
const ACK_BATCH_MAX: usize = 10_000;

/// How long after the last notes of failures the next ones are written, so that they gather where many events fail; one
/// that fails alone is noted at once. If the process ends before, what failed counts as in flight.
const GATHER: Duration = Duration::from_millis(20);

/// What came of entries and is not written down yet, by the way in which it is written.
#[derive(Default)]
pub(super) struct AckBatch {
    pub(super) acknowledged: Vec<MessageId>,
    /// Those about which something was noted before.
    acknowledged_with_attempts: Vec<MessageId>,
    unhandled: Vec<UnhandledEntry>,
    /// Those that are none of this group's business.
    discarded: Vec<MessageId>,
    attempt_updates: Vec<AttemptUpdate>,
    /// When the next notes are written at the earliest; nothing if at once.
    notes_at: Option<Instant>,
    dead_letter_writes: VecDeque<DeadLetterWrite>,
}

struct AttemptUpdate {
    id: MessageId,
    attempts: DeliveryAttempts,
    /// Whether it is begun as soon as that is written.
    starts_run: bool,
}

struct DeadLetterWrite {
    id: MessageId,
    record: Option<RecordedEvent>,
    attempts: DeliveryAttempts,
}

/// How many entries became what, when they were written down.
#[derive(Debug, Default)]
pub(super) struct AckBatchOutcome {
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) dead_lettered: u64,
    /// Entries about which nothing was noted, as they are somebody else's by now.
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

    /// When what gathers is to be written; nothing if nothing gathers.
    pub(super) fn gathers_until(&self) -> Option<Instant> {
        if self.attempt_updates.is_empty() { None } else { self.notes_at }
    }

    /// Has the notes written next time, with what is written then.
    pub(super) const fn gather_no_more(&mut self) {
        self.notes_at = None;
    }

    fn gathers(&self) -> bool {
        self.notes_at.is_some_and(|at| at > Instant::now()) && self.attempt_updates.len() < command::SCRIPT_BATCH_MAX
    }

    pub(super) fn add(&mut self, disposed: impl IntoIterator<Item = DisposedEntry>) {
        for disposed_entry in disposed {
            let DisposedEntry { id, record, disposition: verdict, .. } = disposed_entry;
            match verdict {
                Disposition::Acknowledge { has_attempts: false } => self.acknowledged.push(id),
                Disposition::Acknowledge { has_attempts: true } => self.acknowledged_with_attempts.push(id),
                Disposition::Skip(delivery_attempts) => self.unhandled.extend(record.map(|record| UnhandledEntry {
                    id,
                    record,
                    attempts: delivery_attempts,
                })),
                Disposition::Retry { attempts: tries, .. } => {
                    self.attempt_updates.push(AttemptUpdate { id, attempts: tries, starts_run: false })
                }
                Disposition::Begin(tries) => {
                    self.attempt_updates.push(AttemptUpdate { id, attempts: tries, starts_run: true });
                    self.gather_no_more(); // a worker waits for it
                }
                Disposition::DeadLetter(tries) => {
                    self.dead_letter_writes.push_back(DeadLetterWrite { id, record, attempts: tries })
                }
            }
        }
    }
}

impl Consumer {
    /// Writes down everything there is to write; what fails stays on the paper.
    pub(super) async fn write_batch(&self, batch: &mut AckBatch) -> Result<AckBatchOutcome, CommandError> {
        batch.gather_no_more();
        self.write_most(batch).await
    }

    /// The same, except for notes that gather.
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
        // what is tried again is noted before it is read, so nothing below is of an entry whose note gathers
        if !batch.attempt_updates.is_empty() && !batch.gathers() {
            written.lost = self.save_attempts(&batch.attempt_updates).await?;
            let (begun, failed): (Vec<&AttemptUpdate>, Vec<_>) =
                batch.attempt_updates.iter().partition(|note| note.starts_run);
            self.in_flight.begin(begun.into_iter().map(|note| &note.id));
            written.failed += failed.into_iter().filter(|note| !written.lost.contains(&note.id)).count() as u64;
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
        while let Some(burial) = batch.dead_letter_writes.front() {
            if let Some(record) = &burial.record
                && self.hand_off_to_newer(&burial.id, record, &burial.attempts.done).await?
            {
                self.in_flight.release([&burial.id]);
                batch.dead_letter_writes.pop_front();
                continue;
            }
            match self.bus.config.enable_dlq {
                true => written.dead_lettered += u64::from(self.move_to_dead_letters(burial).await?),
                false => written.failed += u64::from(self.mark_exhausted(burial).await?),
            }
            let burial = batch.dead_letter_writes.pop_front();
            self.in_flight.release(burial.iter().map(|burial| &burial.id));
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
            let acknowledge = command::acknowledge(&self.bus.stream, &self.group, ids);
            self.bus.connection.query::<u64>(&acknowledge).await?;
        }
        Ok(())
    }

    async fn acknowledge_with_attempts(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        for ids in ids.chunks(command::SCRIPT_BATCH_MAX) {
            let mut settle = self.script(&script::ACKNOWLEDGE_WITH_ATTEMPTS);
            settle.key(&self.keys.retry).arg(self.group.as_str());
            add_ids(&mut settle, ids);
            self.run_idempotent::<u64>(settle).await?;
        }
        Ok(())
    }

    /// Notes tries; entries that are somebody else's by now leave the hand, and are returned.
    async fn save_attempts(&self, notes: &[AttemptUpdate]) -> Result<Vec<MessageId>, CommandError> {
        let mut all_lost = Vec::new();
        for notes in notes.chunks(command::SCRIPT_BATCH_MAX) {
            let mut note = self.script(&script::SAVE_ATTEMPTS);
            note.key(&self.keys.retry).arg(self.group.as_str()).arg(&self.name);
            for AttemptUpdate { id, attempts: delivery_attempts, .. } in notes {
                let count = delivery_attempts.attempts.saturating_add(delivery_attempts.process_ends);
                note.arg(id.as_str()).arg(count).arg(attempts_json(delivery_attempts));
            }
            let lost: Vec<String> = self.run_idempotent(note).await?;
            all_lost.extend(lost.into_iter().map(MessageId::new));
        }
        self.release_lost(&all_lost);
        Ok(all_lost)
    }

    /// Makes an entry a dead letter. False: it is somebody else's by now.
    async fn move_to_dead_letters(
        &self,
        DeadLetterWrite { id, record, attempts: tries }: &DeadLetterWrite,
    ) -> Result<bool, CommandError> {
        let mut bury = self.script(&script::MOVE_TO_DEAD_LETTERS);
        bury.key(&self.keys.retry).key(&self.keys.dead_letters);
        bury.arg(self.group.as_str()).arg(&self.name).arg(id.as_str());
        let own = self.dead_letter_fields(id, tries);
        bury.arg(own.len() * 2);
        let in_memory = record.as_ref().and_then(|record| wire::encode(record).ok()).unwrap_or_default();
        for (name, value) in &own {
            bury.arg(*name).arg(value);
        }
        for (name, value) in &in_memory {
            bury.arg(*name).arg(&**value);
        }
        // who sees that it is pending no more sees it counted
        let _counted = self.bus.dead_letter_lock.read().await;
        let written: Option<String> = self.run_idempotent(bury).await?;
        let event = record.as_ref().map(RecordedEvent::metadata);
        match &written {
            Some(dead_letter) => {
                self.bus.counters.messages_sent_to_dlq(1);
                self.bus.dead_letter_signal.notify_one();
                tracing::error!(
                    group = %self.group, %id, dead_letter, handler = tries.handlers(), error = tries.errors(),
                    attempts = tries.most_attempts(), event_type = event.map(|event| event.event_type().as_str()),
                    aggregate = event.map(|event| tracing::field::display(event.stream())),
                    event_id = event.map(|event| tracing::field::display(event.event_id())),
                    "event is a dead letter now"
                );
            }
            None => tracing::warn!(group = %self.group, %id, "somebody else has taken a failed event over"),
        }
        Ok(written.is_some())
    }

    /// The fields that a dead letter has beside those of its entry.
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
            (field::DLQ_TIMESTAMP, utc(self.bus.config.clock.now())),
            (field::ERROR, delivery_attempts.errors()),
            (field::HANDLER, delivery_attempts.handlers()),
            (field::GROUP, self.group.to_string()),
            (field::ATTEMPTS, attempts.to_string()),
            (field::FIRST_FAILED_AT, time(delivery_attempts.first_failed_at)),
            (field::LAST_FAILED_AT, time(delivery_attempts.last_failed_at)),
            (field::DONE_HANDLERS, serde_json::Value::from(delivery_attempts.done.as_slice()).to_string()),
        ]
    }

    /// Notes that an entry used up its attempts; it stays pending. False: it is somebody else's by now.
    async fn mark_exhausted(
        &self,
        DeadLetterWrite { id, attempts: tries, .. }: &DeadLetterWrite,
    ) -> Result<bool, CommandError> {
        let mut delivery_attempts = tries.clone();
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
            self.bus.counters.messages_exhausted(1);
            tracing::error!(group = %self.group, %id, error, "event used up its attempts and stays pending");
        }
        Ok(true)
    }

    /// Lets go of entries that are somebody else's by now.
    pub(super) fn release_lost(&self, ids: &[MessageId]) {
        if ids.is_empty() {
            return;
        }
        let count = ids.len();
        tracing::warn!(group = %self.group, count, "entries were taken over by another consumer");
        self.in_flight.release(ids);
    }
}

/// A time as dead letters spell it.
fn utc(time: OffsetDateTime) -> String {
    format!("{}+00:00", timestamp::write(time))
}

/// Adds ids to the arguments of a script.
pub(super) fn add_ids(script: &mut ScriptInvocation<'_>, ids: &[MessageId]) {
    for id in ids {
        script.arg(id.as_str());
    }
}

/// Tries as they are noted, empty if there is nothing to note; plain data, which cannot fail to be written.
pub(super) fn attempts_json(attempts: &DeliveryAttempts) -> String {
    if *attempts == DeliveryAttempts::default() {
        return String::new();
    }
    serde_json::to_string(attempts).unwrap_or_default()
}
