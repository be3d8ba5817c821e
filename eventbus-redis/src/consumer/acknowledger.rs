//! The acknowledger: writes the dispositions of entries to the server, batch by batch.
//!
//! Invariant: an entry leaves the in-flight entries only after its disposition is on the server; a disposition that
//! could not be written stays in the batch for the next write. The server refuses the failure of an entry that a
//! different consumer has reclaimed or acknowledged. It accepts each acknowledgement, because the handlers have
//! succeeded, except from a consumer that no longer owns the partition.
//!
//! Invariant: only a member that handles an event acknowledges it, if the group ever announced its type. The script
//! that acknowledges an event of any other type records it as skipped, so that a member that announces the type later
//! can get it.
//!
//! Real time, not the given clock: the time for which failures gather, so that one script writes many.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use eventbus::{
    RecordedEvent,
    delivery::{DeliveryAttempts, DisposedEntry, Disposition, log_skipped_type},
    port::MessageId,
};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::inner::{ConsumerInner, add_ids};
use crate::{
    command,
    error::CommandError,
    keys::{self, field},
    partition_hash::partition_of,
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
/// | skip | the group never announced its type, and no live member may handle it | acknowledged as skipped, released |
/// | skip | the group announced its type, or a live member may handle it | handed off, released |
/// | retry, of a newer release | a member knows its schema version | handed off, released |
/// | retry | the script saves the attempts, at the latest before the consumer rereads the entry | waits for its retry |
/// | begin (suspects only) | the script saves the attempts at once | a worker runs its handlers |
/// | dead letter | a member knows its schema version | handed off, released |
/// | dead letter | dead letters are enabled | a dead letter, acknowledged, released |
/// | dead letter | dead letters are disabled | kept pending as exhausted, released |
/// | dead letter | the entry was deleted from the stream | as above, with the event from memory |
/// | none: discarded when it was read | the server executed `XACK` | acknowledged |
/// | any but acknowledge | a different consumer has reclaimed or acknowledged the entry | released |
/// | any | the consumer no longer owns the partition | dropped with the partition |
/// | any | the write fails | unchanged: the next write repeats it |
///
/// Released: no longer in flight here. Handed off: left pending for a member that handles the entry; in a partition,
/// for its next owner, or for this one after a change of the members.
#[derive(Default)]
pub(super) struct AckBatch {
    acknowledged: Vec<MessageId>,
    /// Acknowledged entries with attempts on record.
    acknowledged_with_attempts: Vec<MessageId>,
    unhandled: Vec<UnhandledEntry>,
    /// Entries that no worker needs: deleted ones, and replays for a different group.
    discarded: Vec<MessageId>,
    attempt_updates: Vec<AttemptUpdate>,
    /// Earliest time of the next write of `attempt_updates`; `None` if at once.
    gathers_until: Option<Instant>,
    /// Failed events of newer releases: left to members that know their schema version, or else retried.
    newer_events: VecDeque<UnhandledEntry>,
    dead_letter_writes: VecDeque<DeadLetterWrite>,
}

/// An entry that no handler of this consumer wants, or can decode.
struct UnhandledEntry {
    id: MessageId,
    record: RecordedEvent,
    attempts: DeliveryAttempts,
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
            && self.newer_events.is_empty()
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
                Disposition::Skip(attempts) => {
                    self.unhandled.extend(record.map(|record| UnhandledEntry { id, record, attempts }))
                }
                Disposition::Retry { attempts, of_newer_release, .. } => match record.filter(|_| of_newer_release) {
                    Some(record) => self.newer_events.push_back(UnhandledEntry { id, record, attempts }),
                    None => self.attempt_updates.push(AttemptUpdate { id, attempts, starts_run: false }),
                },
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

    /// Returns up to `max` entries that succeeded at the first attempt.
    pub(super) fn acknowledged(&self, max: usize) -> &[MessageId] {
        &self.acknowledged[..self.acknowledged.len().min(max)]
    }

    /// Removes the first `count` of those entries.
    pub(super) fn take_acknowledged(&mut self, count: usize) -> Vec<MessageId> {
        self.acknowledged.drain(..count).collect()
    }

    /// Removes all of those entries: the consumer no longer owns their partition.
    pub(super) fn drop_acknowledged(&mut self) {
        self.acknowledged.clear();
    }
}

/// Writes the dispositions of one consumer.
pub(super) struct Acknowledger {
    inner: Arc<ConsumerInner>,
    /// Types already logged as waiting for an absent member.
    logged_absent_types: Mutex<HashSet<String>>,
}

impl Acknowledger {
    pub(super) fn new(inner: Arc<ConsumerInner>) -> Self {
        Self { inner, logged_absent_types: Mutex::default() }
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
        while let Some(UnhandledEntry { id, record, attempts }) = batch.newer_events.front() {
            let is_handed_off = self.hand_off_unknown_version(id, record, &attempts.done).await?;
            // the entry stays in the batch until its script has succeeded
            let Some(UnhandledEntry { id, attempts, .. }) = batch.newer_events.pop_front() else { break };
            if is_handed_off {
                self.inner.in_flight().release([&id]);
            } else {
                batch.attempt_updates.push(AttemptUpdate { id, attempts, starts_run: false });
            }
        }
        // an entry gets its next disposition only after the consumer read it again, and before that read the consumer
        // writes the attempts: so no entry below has an update that still gathers
        if !batch.attempt_updates.is_empty() && !batch.gathers() {
            written.lost.extend(self.save_attempts(&batch.attempt_updates).await?);
            let (begun, failed): (Vec<&AttemptUpdate>, Vec<_>) =
                batch.attempt_updates.iter().partition(|update| update.starts_run);
            self.inner.in_flight().begin(begun.into_iter().map(|update| &update.id));
            written.failed += failed.into_iter().filter(|update| !written.lost.contains(&update.id)).count() as u64;
            batch.attempt_updates.clear();
            batch.gathers_until = Some(Instant::now() + GATHER);
        }
        if !batch.acknowledged_with_attempts.is_empty() {
            self.acknowledge_with_attempts(&batch.acknowledged_with_attempts).await?;
            written.acknowledged += self.release_and_count(&mut batch.acknowledged_with_attempts);
        }
        if !batch.unhandled.is_empty() {
            self.skip_or_hand_off(&batch.unhandled).await?;
            self.inner.in_flight().release(batch.unhandled.iter().map(|unhandled| &unhandled.id));
            batch.unhandled.clear();
        }
        while let Some(write) = batch.dead_letter_writes.front() {
            if let Some(record) = &write.record
                && self.hand_off_unknown_version(&write.id, record, &write.attempts.done).await?
            {
                self.inner.in_flight().release([&write.id]);
                batch.dead_letter_writes.pop_front();
                continue;
            }
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
        // only a script compares the epoch
        if self.inner.fencing_token().is_some() {
            return self.acknowledge_with_attempts(ids).await;
        }
        for ids in ids.chunks(ACK_BATCH_MAX) {
            let acknowledge = command::acknowledge(self.inner.bus().stream(), self.inner.group(), ids);
            self.inner.bus().connection().query_idempotent::<u64>(&acknowledge).await?;
        }
        Ok(())
    }

    async fn acknowledge_with_attempts(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        for ids in ids.chunks(command::SCRIPT_BATCH_MAX) {
            let is_fenced = self.inner.fencing_token().is_some();
            let mut script =
                script::consumer::ACKNOWLEDGE_WITH_ATTEMPTS.select(is_fenced).key(self.inner.bus().stream());
            script.key(&self.inner.keys().retry).arg(self.inner.group().as_str());
            add_ids(&mut script, ids);
            self.inner.run_idempotent::<u64>(script).await?;
        }
        Ok(())
    }

    /// Saves attempts. Releases and returns the entries that are no longer pending on this consumer.
    async fn save_attempts(&self, updates: &[AttemptUpdate]) -> Result<Vec<MessageId>, CommandError> {
        let mut all_lost = Vec::new();
        for updates in updates.chunks(command::SCRIPT_BATCH_MAX) {
            let mut script = self.inner.fenced_script(&script::consumer::SAVE_ATTEMPTS);
            script.key(&self.inner.keys().retry).key(&self.inner.keys().relay);
            for AttemptUpdate { id, attempts: delivery_attempts, .. } in updates {
                let count = delivery_attempts.attempts.saturating_add(delivery_attempts.process_ends);
                script.arg(id.as_str()).arg(count).arg(attempts_json(delivery_attempts));
            }
            let lost: Vec<String> = self.inner.run_idempotent(script).await?;
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
            let mut script = self.inner.fenced_script(&script::consumer::MOVE_TO_DEAD_LETTERS);
            script.key(&self.inner.keys().retry).key(&self.inner.keys().dead_letters);
            script.arg(id.as_str());
            command::add_fields(&mut script, &own);
            script
        };
        // lock: a reader of the counters that sees the entry acknowledged also sees it counted
        let _counted = self.inner.bus().dead_letter_gate().begin_write().await;
        let mut written: Option<String> = self.inner.run_idempotent(prepare()).await?;
        if written.as_deref() == Some("deleted") {
            let mut script = prepare();
            script.arg(1);
            let in_memory = record.as_ref().and_then(|record| wire::encode(record).ok()).unwrap_or_default();
            for (name, value) in &in_memory {
                script.arg(*name).arg(&**value);
            }
            written = self.inner.run_idempotent(script).await?;
        }
        let event = record.as_ref().map(RecordedEvent::metadata);
        match &written {
            Some(dead_letter) => {
                self.inner.bus().counters().messages_sent_to_dlq(1);
                self.inner.bus().dead_letter_gate().notify();
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
        let update = AttemptUpdate { id: id.clone(), attempts, starts_run: false };
        if !self.save_attempts(&[update]).await?.is_empty() {
            return Ok(false);
        }
        if self.inner.entries().keep([id.clone()]) {
            self.inner.bus().counters().messages_exhausted(1);
            tracing::error!(group = %self.inner.group(), %id, error, "event used up its attempts and stays pending");
        }
        Ok(true)
    }

    /// Acknowledges entries of types that the group never announced, and leaves the rest to members that handle them.
    async fn skip_or_hand_off(&self, skipped: &[UnhandledEntry]) -> Result<(), CommandError> {
        let mut by_key: BTreeMap<String, Vec<&UnhandledEntry>> = BTreeMap::new();
        for skip in skipped {
            by_key.entry(self.skipped_key(&skip.record)).or_default().push(skip);
        }
        for (key, skipped) in &by_key {
            for skipped in skipped.chunks(command::SCRIPT_BATCH_MAX) {
                self.skip_batch(key, skipped).await?;
            }
        }
        Ok(())
    }

    async fn skip_batch(&self, key: &str, skipped: &[&UnhandledEntry]) -> Result<(), CommandError> {
        let mut skip = self.inner.fenced_script(&script::consumer::SKIP_OR_HAND_OFF);
        skip.key(&self.inner.keys().members).key(&self.inner.keys().retry).key(&self.inner.keys().known_types).key(key);
        skip.key(&self.inner.keys().relay);
        skip.arg(self.inner.member_name()).arg(self.inner.bus().config().pending_idle_ms);
        skip.arg(u8::from(self.inner.bus().is_backlog()));
        for UnhandledEntry { id, record, attempts: delivery_attempts } in skipped {
            let position = record.position().map(|position| position.to_string()).unwrap_or_default();
            skip.arg(id.as_str()).arg(record.event_type().as_str()).arg(record.metadata().schema_version());
            skip.arg(position).arg(attempts_json(delivery_attempts));
        }
        let (acknowledged, left, stay, new, absent): (u64, u64, Vec<String>, Vec<String>, Vec<String>) =
            self.inner.run_idempotent(skip).await?;
        self.inner.entries().keep(stay.into_iter().map(MessageId::new));
        self.inner.bus().counters().events_skipped(acknowledged);
        if left > 0 {
            tracing::debug!(group = %self.inner.group(), left, "entries handed off to members that handle their types");
        }
        for event_type in new {
            log_skipped_type(self.inner.group(), &event_type);
        }
        self.log_absent_types(absent);
        Ok(())
    }

    /// Returns the key that records skipped events: beside the stream that carries the event, also if it came from a
    /// backlog.
    fn skipped_key(&self, record: &RecordedEvent) -> String {
        let (bus, partitions) = (self.inner.bus(), self.inner.bus().config().partitions);
        let stream = match bus.is_backlog() {
            false => bus.stream().to_owned(),
            true if partitions == 1 => bus.bus_stream().to_owned(),
            true => keys::partition(bus.bus_stream(), partition_of(record.metadata().stream(), partitions)),
        };
        keys::skipped(&stream, self.inner.group())
    }

    /// Logs once for each type that its events wait for a member.
    fn log_absent_types(&self, types: impl IntoIterator<Item = String>) {
        for event_type in types {
            if self.logged_absent_types.lock().insert(event_type.clone()) {
                tracing::warn!(
                    group = %self.inner.group(), event_type,
                    "events are left pending: the group announced their type before, and no member that handles it is \
                     here now; `forget_event_type` lets the group skip it (`*` if a handler of all types was removed)"
                );
            }
        }
    }

    /// Leaves an event that cannot be decoded here to a member that announced its schema version; handlers that have
    /// succeeded do not run again there. Returns `true` if this consumer must release it.
    ///
    /// An event of an older version than the handlers here know goes only to a live member: no later release knows that
    /// version better than this one.
    async fn hand_off_unknown_version(
        &self,
        id: &MessageId,
        record: &RecordedEvent,
        finished_handlers: &[String],
    ) -> Result<bool, CommandError> {
        let (event_type, version) = (record.event_type(), record.metadata().schema_version());
        let known = self.inner.bus().subscribers().versions(self.inner.group(), event_type);
        if known.is_empty() || known.contains(&version) {
            return Ok(false);
        }
        let is_older = known.iter().any(|known| *known > version);
        let mut hand_off = self.inner.fenced_script(&script::consumer::HAND_OFF_UNKNOWN_VERSION);
        hand_off.key(&self.inner.keys().members).key(&self.inner.keys().retry).key(&self.inner.keys().known_types);
        hand_off.arg(self.inner.member_name());
        hand_off.arg(id.as_str()).arg(event_type.as_str()).arg(version).arg(u8::from(is_older));
        hand_off.arg(attempts_json(&DeliveryAttempts::replayed(finished_handlers.to_vec())));
        let reply: String = self.inner.run_idempotent(hand_off).await?;
        match reply.as_str() {
            "no" => return Ok(false),
            // a different consumer has claimed or finished it
            "lost" => return Ok(true),
            "stays" => {
                self.inner.entries().keep([id.clone()]);
            }
            _ => {}
        }
        tracing::warn!(
            group = %self.inner.group(), %id, %event_type, schema_version = version,
            "event cannot be decoded here and is left to members that know its schema version"
        );
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
