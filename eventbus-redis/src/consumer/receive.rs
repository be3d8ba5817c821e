//! Receiving: turns entries of the stream into in-flight entries.

use std::sync::atomic::Ordering;

use eventbus::{
    RecordedEvent,
    delivery::InFlightEntry,
    port::{DeliveryAttempts, MessageId},
};
use redis::{RedisResult, Value, from_redis_value};

use super::Consumer;
use crate::{
    keys::field,
    reply::{self, Entry},
    trace, wire,
};

/// An entry that a consumer of the group had before.
pub(super) struct ReclaimedEntry {
    entry: Entry,
    /// The attempts on record.
    attempts_json: Option<String>,
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
    /// Parses three parts of a reply: entries, the attempts of each, and the ids of deleted ones. The processes of
    /// their consumers count as alive unless [`with_owner_ended`](Self::with_owner_ended) says otherwise.
    pub(super) fn parse(entries: Value, attempts: Value, deleted: Value) -> RedisResult<Self> {
        let entries: Vec<Value> = from_redis_value(entries)?;
        let attempts: Vec<Option<String>> = from_redis_value(attempts)?;
        let parsed = entries.into_iter().zip(attempts).map(|(entry, attempts)| {
            Ok(ReclaimedEntry { entry: reply::parse_entry(entry)?, attempts_json: attempts, owner_ended: false })
        });
        Ok(Self { entries: parsed.collect::<RedisResult<_>>()?, deleted: from_redis_value(deleted)? })
    }
}

impl ReclaimedEntries {
    /// Sets, entry by entry, whether the process of its consumer has ended.
    pub(super) fn with_owner_ended(mut self, have_ended: impl IntoIterator<Item = bool>) -> Self {
        for (reclaimed, has_ended) in self.entries.iter_mut().zip(have_ended) {
            reclaimed.owner_ended = has_ended;
        }
        self
    }

    /// Returns the ids of the entries.
    pub(super) fn ids(&self) -> impl Iterator<Item = MessageId> + '_ {
        self.entries.iter().map(|reclaimed| MessageId::new(reclaimed.entry.id.as_str()))
    }
}

impl Consumer {
    /// Receives entries that no consumer of the group had before.
    pub(super) fn receive_new(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let received = entries.into_iter().filter_map(|entry| self.prepare_entry(entry, None));
        self.in_flight.add(received);
    }

    /// Receives entries that a consumer of the group had before, perhaps this one. Returns how many of them were not in
    /// flight.
    pub(super) fn receive_reclaimed(&self, reclaimed: ReclaimedEntries) -> usize {
        self.in_flight.add(self.prepare_reclaimed(reclaimed))
    }

    /// Prepares entries that a consumer of the group had before; leaves out those that no handler needs.
    pub(super) fn prepare_reclaimed(&self, reclaimed: ReclaimedEntries) -> Vec<InFlightEntry> {
        let is_in_flight = |id: &String| self.in_flight.contains(&MessageId::new(id.as_str()));
        let deleted: Vec<_> = reclaimed.deleted.into_iter().filter(|id| !is_in_flight(id)).collect();
        self.log_deleted(&deleted);
        let prepared = reclaimed.entries.into_iter().filter_map(
            |ReclaimedEntry { entry, attempts_json: attempts, owner_ended: has_ended }| {
                let attempts = attempts.and_then(|attempts| serde_json::from_str::<DeliveryAttempts>(&attempts).ok());
                let received = self.prepare_entry(entry, attempts)?;
                Some(if has_ended { received.redelivered() } else { received })
            },
        );
        prepared.collect()
    }

    /// Prepares an entry for its handlers. Returns `None` if it is in flight already, or needs no handler.
    pub(super) fn prepare_entry(&self, entry: Entry, attempts: Option<DeliveryAttempts>) -> Option<InFlightEntry> {
        let id = MessageId::new(entry.id);
        // the reader of a recreated group receives entries again that are in flight or kept pending
        if self.in_flight.contains(&id) || self.kept_pending().contains(&id) {
            return None;
        }
        self.decode_entry(id, entry.fields, attempts)
    }

    /// Resumes entries that were read again for a retry.
    pub(super) fn resume(&self, reclaimed: ReclaimedEntries) {
        self.log_deleted(&reclaimed.deleted);
        let mut gone: Vec<_> = reclaimed.deleted.into_iter().map(MessageId::new).collect();
        let mut received = Vec::new();
        for ReclaimedEntry { entry, attempts_json: attempts, .. } in reclaimed.entries {
            let id = MessageId::new(entry.id);
            let attempts = attempts.and_then(|attempts| serde_json::from_str::<DeliveryAttempts>(&attempts).ok());
            match self.decode_entry(id.clone(), entry.fields, attempts) {
                Some(entry) => received.push(entry),
                None => gone.push(id),
            }
        }
        self.in_flight.release(&gone);
        self.in_flight.resume(received);
    }

    fn decode_entry(
        &self,
        id: MessageId,
        fields: Option<Vec<(String, Vec<u8>)>>,
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
            self.discarded().push(id);
            return None;
        };
        let text = |name| wire::flat_field(&fields, name);
        if text(field::REPLAY_GROUP).is_some_and(|group| self.group != group) {
            self.discarded().push(id);
            return None;
        }
        let replayed = || {
            let done = text(field::REPLAY_DONE).and_then(|done| serde_json::from_str(done).ok());
            DeliveryAttempts::replayed(done.unwrap_or_default())
        };
        match wire::decode(&fields) {
            Ok(record) => {
                self.log_naive_time(&record);
                let record = trace::attach(&self.bus, record, &fields);
                Some(InFlightEntry::new(id, record).with_attempts(attempts.unwrap_or_else(replayed)))
            }
            Err(error) => {
                tracing::warn!(group = %self.group, %id, %error, "entry is no event");
                let counters = self.bus.counters();
                counters.events_consumed(1);
                counters.events_processed_failed(1);
                self.in_flight
                    .add_undecodable(id, DeliveryAttempts::undecodable(error.to_string(), &self.bus.config().clock));
                None
            }
        }
    }

    /// Logs the first time without a zone: it may not be in UTC, as it is read.
    fn log_naive_time(&self, record: &RecordedEvent) {
        let written = record.metadata().occurred_at_as_written();
        if let Some(occurred_at) = written.filter(|text| wire::timestamp::zone(text) == wire::timestamp::Zone::None)
            && !self.has_logged_naive_time.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                group = %self.group, event_type = %record.event_type(), event_id = %record.metadata().event_id(),
                occurred_at, "the time of an event has no zone: the consumer reads it as UTC, and passes it on unchanged"
            );
        }
    }

    /// Keeps an entry pending that used up its attempts while dead letters were disabled; if they are enabled now, the
    /// entry becomes one.
    fn receive_exhausted(&self, id: MessageId, mut attempts: DeliveryAttempts) {
        if self.bus.config().enable_dlq {
            attempts.is_exhausted = false;
            self.in_flight.add_undecodable(id, attempts);
        } else {
            self.kept_pending().insert(id);
        }
    }

    fn log_deleted(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        let (count, first) = (ids.len(), &ids[0]);
        tracing::error!(group = %self.group, count, first, "entries were deleted before they were handled");
        self.bus.counters().messages_deleted(count as u64);
    }
}
