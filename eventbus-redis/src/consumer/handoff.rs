//! Hand-off: leaves entries to other members of the group if this consumer has no handler for them, or does not know
//! the schema version of the event.
//!
//! Invariant: only a member that handles an event acknowledges it, if the group ever announced its type. The script
//! that acknowledges an event of any other type records it as skipped, so that a member that announces the type later
//! can get it.

use std::collections::BTreeMap;

use eventbus::{
    RecordedEvent,
    delivery::log_skipped_type,
    port::{DeliveryAttempts, MessageId},
};

use super::{Consumer, ack_batch::attempts_json, read::RANGE_START, receive::ReclaimedEntries};
use crate::{command, error::CommandError, keys, partition_hash::partition_of, script};

/// Pages of handed-off entries that one run reads without finding one to claim.
const EMPTY_HANDOFF_PAGES_MAX: usize = 4;

/// Cursors in the handed-off entries, which may be many, and for other members.
#[derive(Debug)]
pub(super) struct HandoffCursor {
    /// Position in the new entries; `None` before the first run.
    new_after: Option<String>,
    /// Position in all entries.
    all_after: String,
}

impl Default for HandoffCursor {
    fn default() -> Self {
        Self { new_after: None, all_after: RANGE_START.into() }
    }
}

/// An entry without a handler in this consumer.
pub(super) struct UnhandledEntry {
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
    pub(super) attempts: DeliveryAttempts,
}

impl Consumer {
    /// Returns the consumer's name among the members of the group.
    fn member_name(&self) -> &str {
        if self.fencing_token.is_some() { self.bus.consumer_name() } else { &self.name }
    }

    /// Acknowledges entries of types that the group never announced, and leaves the rest to members that handle them.
    pub(super) async fn skip_or_hand_off(&self, skipped: &[UnhandledEntry]) -> Result<(), CommandError> {
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
        let mut skip = self.script(&script::consumer::SKIP_OR_HAND_OFF);
        skip.key(&self.keys.members).key(&self.keys.retry).key(&self.keys.known_types).key(key);
        skip.arg(self.group.as_str()).arg(&self.name).arg(self.member_name()).arg(self.bus.config().pending_idle_ms);
        skip.arg(u8::from(self.bus.is_backlog()));
        for UnhandledEntry { id, record, attempts: delivery_attempts } in skipped {
            let position = record.position().map(|position| position.to_string()).unwrap_or_default();
            skip.arg(id.as_str()).arg(record.event_type().as_str()).arg(record.metadata().schema_version());
            skip.arg(position).arg(attempts_json(delivery_attempts));
        }
        let (acknowledged, left, stay, new, absent): (u64, u64, Vec<String>, Vec<String>, Vec<String>) =
            self.run_idempotent(skip).await?;
        self.kept_pending().extend(stay.into_iter().map(MessageId::new));
        self.bus.counters().events_skipped(acknowledged);
        if left > 0 {
            tracing::debug!(group = %self.group, left, "entries handed off to members that handle their types");
        }
        for event_type in new {
            log_skipped_type(&self.group, &event_type);
        }
        self.log_absent_types(absent);
        Ok(())
    }

    /// Returns the key that records skipped events: beside the stream that carries the event, also if it came from a
    /// backlog.
    fn skipped_key(&self, record: &RecordedEvent) -> String {
        let (bus, partitions) = (&self.bus, self.bus.config().partitions);
        let stream = match bus.is_backlog() {
            false => bus.stream().to_owned(),
            true if partitions == 1 => bus.bus_stream().to_owned(),
            true => {
                let id = record.metadata().aggregate_id();
                keys::partition(bus.bus_stream(), partition_of(id.as_str(), partitions))
            }
        };
        keys::skipped(&stream, &self.group)
    }

    /// Logs once for each type that its events wait for a member.
    fn log_absent_types(&self, types: impl IntoIterator<Item = String>) {
        for event_type in types {
            if self.logged_absent_types().insert(event_type.clone()) {
                tracing::warn!(
                    group = %self.group, event_type,
                    "events are left pending: the group announced their type before, and no member that handles it is \
                     here now; `forget_event_type` lets the group skip it (`*` if a handler of all types was removed)"
                );
            }
        }
    }

    /// Leaves an event that cannot be decoded here to a member that announced its schema version; handlers that have
    /// succeeded do not run there again. Returns `true` if this consumer must release it.
    ///
    /// An event of an older version than that of the handlers here goes to a live member only: no release to come knows
    /// that version better than this one.
    pub(super) async fn hand_off_to_newer(
        &self,
        id: &MessageId,
        record: &RecordedEvent,
        finished_handlers: &[String],
    ) -> Result<bool, CommandError> {
        let (event_type, version) = (record.event_type(), record.metadata().schema_version());
        let known = self.bus.subscribers().versions(&self.group, event_type);
        if known.is_empty() || known.contains(&version) {
            return Ok(false);
        }
        let is_older = known.iter().any(|known| *known > version);
        let mut hand_off = self.script(&script::consumer::HAND_OFF_TO_NEWER);
        hand_off.key(&self.keys.members).key(&self.keys.retry).key(&self.keys.known_types);
        hand_off.arg(self.group.as_str()).arg(&self.name).arg(self.member_name());
        hand_off.arg(id.as_str()).arg(event_type.as_str()).arg(version).arg(u8::from(is_older));
        hand_off.arg(attempts_json(&DeliveryAttempts::replayed(finished_handlers.to_vec())));
        let reply: String = self.run_idempotent(hand_off).await?;
        match reply.as_str() {
            "no" => return Ok(false),
            "stays" => {
                self.kept_pending().insert(id.clone());
            }
            _ => {}
        }
        tracing::warn!(
            group = %self.group, %id, %event_type, schema_version = version,
            "event cannot be decoded here and is left to members that know its schema version"
        );
        Ok(true)
    }

    /// Claims handed-off entries that this consumer handles, as far as there is room: new ones first.
    pub(super) async fn claim_handed_off(&self, cursor: &mut HandoffCursor, last: &str) -> Result<(), CommandError> {
        // entries that are there at the start are not new
        let new_from = cursor.new_after.get_or_insert_with(|| format!("({last}"));
        self.claim_handed_off_after(new_from).await?;
        if !self.claim_handed_off_after(&mut cursor.all_after).await? {
            RANGE_START.clone_into(&mut cursor.all_after); // the next run starts over
        }
        Ok(())
    }

    /// Claims entries after an id, which it advances, until it has read [`EMPTY_HANDOFF_PAGES_MAX`] pages in vain: the
    /// next run continues there. Returns `true` if there may be more.
    async fn claim_handed_off_after(&self, from: &mut String) -> Result<bool, CommandError> {
        let mut pages_in_vain = 0;
        while pages_in_vain < EMPTY_HANDOFF_PAGES_MAX {
            let room = self.in_flight.free().min(self.bus.config().batch_size);
            if room == 0 {
                break;
            }
            let mut claim = self.script(&script::consumer::CLAIM_HANDED_OFF);
            claim.key(&self.keys.retry).key(&self.keys.relay);
            claim.arg(self.group.as_str()).arg(&self.name).arg(self.announced_types()).arg(&*from);
            claim.arg(command::SCRIPT_BATCH_MAX).arg(room);
            let (last, entries, attempts, deleted, has_more): (String, _, _, _, bool) =
                self.run_idempotent(claim).await?;
            let claimed = ReclaimedEntries::parse(entries, attempts, deleted)?;
            pages_in_vain += usize::from(claimed.entries.is_empty());
            self.receive_reclaimed(claimed);
            *from = last;
            if !has_more {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
