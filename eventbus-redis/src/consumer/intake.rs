//! From entries to what is in hand.

use std::sync::atomic::Ordering;

use eventbus::{
    RecordedEvent,
    port::{MessageId, Taken, Tries},
};
use redis::{RedisResult, Value, from_redis_value};

use super::Consumer;
use crate::{
    command::{self, Entry},
    keys::field,
    trace, wire,
};

/// An entry that somebody had before.
pub(super) struct Again {
    entry: Entry,
    /// What was noted about it.
    noted: Option<String>,
    /// Whether the process that had it has ended.
    has_ended: bool,
}

/// What the scripts reply that take entries again.
#[derive(Default)]
pub(super) struct Retaken {
    pub(super) entries: Vec<Again>,
    /// Entries that are gone.
    pub(super) deleted: Vec<String>,
}

impl Retaken {
    /// Reads three parts of a reply: entries, what is noted about each, and the ids of those that are gone; the processes
    /// that had them live, until something else is [said](Self::of_processes).
    pub(super) fn read(entries: Value, noted: Value, deleted: Value) -> RedisResult<Self> {
        let entries: Vec<Value> = from_redis_value(entries)?;
        let noted: Vec<Option<String>> = from_redis_value(noted)?;
        let again = entries
            .into_iter()
            .zip(noted)
            .map(|(entry, noted)| Ok(Again { entry: command::entry(entry)?, noted, has_ended: false }));
        Ok(Self { entries: again.collect::<RedisResult<_>>()?, deleted: from_redis_value(deleted)? })
    }
}

impl Retaken {
    /// Says of which entries the process that had it has ended.
    pub(super) fn of_processes(mut self, have_ended: impl IntoIterator<Item = bool>) -> Self {
        for (again, has_ended) in self.entries.iter_mut().zip(have_ended) {
            again.has_ended = has_ended;
        }
        self
    }

    /// The ids of the entries.
    pub(super) fn ids(&self) -> impl Iterator<Item = MessageId> + '_ {
        self.entries.iter().map(|again| MessageId::new(again.entry.id.as_str()))
    }
}

impl Consumer {
    /// Takes in entries that nobody of the group had before.
    pub(super) fn take_new(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let taken = entries.into_iter().filter_map(|entry| self.examine(entry, None));
        self.hand.add(taken);
    }

    /// Takes in entries that somebody of the group had before, this consumer perhaps. Returns how many are in hand now
    /// that were not before.
    pub(super) fn take_again(&self, retaken: Retaken) -> usize {
        self.hand.add(self.examine_again(retaken))
    }

    /// What is to be handled of entries that somebody of the group had before.
    pub(super) fn examine_again(&self, retaken: Retaken) -> Vec<Taken> {
        let is_in_hand = |id: &String| self.hand.contains(&MessageId::new(id.as_str()));
        let deleted: Vec<_> = retaken.deleted.into_iter().filter(|id| !is_in_hand(id)).collect();
        self.tell_deleted(&deleted);
        let again = retaken.entries.into_iter().filter_map(|Again { entry, noted, has_ended }| {
            let noted = noted.and_then(|noted| serde_json::from_str::<Tries>(&noted).ok());
            let taken = self.examine(entry, noted)?;
            Some(if has_ended { taken.left_over() } else { taken })
        });
        again.collect()
    }

    /// What is to be handled; the rest is dealt with here.
    pub(super) fn examine(&self, entry: Entry, noted: Option<Tries>) -> Option<Taken> {
        let id = MessageId::new(entry.id);
        // a group that was made anew reads again what is in hand or was left pending on purpose
        if self.hand.contains(&id) || self.left().contains(&id) {
            return None;
        }
        self.judge(id, entry.fields, noted)
    }

    /// Goes on with entries that were read again.
    pub(super) fn resume(&self, retaken: Retaken) {
        self.tell_deleted(&retaken.deleted);
        let mut gone: Vec<_> = retaken.deleted.into_iter().map(MessageId::new).collect();
        let mut taken = Vec::new();
        for Again { entry, noted, .. } in retaken.entries {
            let id = MessageId::new(entry.id);
            let noted = noted.and_then(|noted| serde_json::from_str::<Tries>(&noted).ok());
            match self.judge(id.clone(), entry.fields, noted) {
                Some(again) => taken.push(again),
                None => gone.push(id),
            }
        }
        self.hand.let_go(&gone);
        self.hand.resume(taken);
    }

    fn judge(&self, id: MessageId, fields: Option<Vec<(String, Vec<u8>)>>, noted: Option<Tries>) -> Option<Taken> {
        let noted = match noted {
            Some(noted) if noted.is_exhausted => {
                self.take_exhausted(id, noted);
                return None;
            }
            noted => noted,
        };
        let Some(fields) = fields else {
            self.tell_deleted(&[id.to_string()]);
            self.not_ours().push(id);
            return None;
        };
        let text = |name| wire::flat(&fields, name);
        if text(field::REPLAY_GROUP).is_some_and(|group| self.group != group) {
            self.not_ours().push(id);
            return None;
        }
        let replayed = || {
            let done = text(field::REPLAY_DONE).and_then(|done| serde_json::from_str(done).ok());
            Tries::anew(done.unwrap_or_default())
        };
        match wire::decode(&fields) {
            Ok(record) => {
                self.tell_naive(&record);
                let record = trace::attach(&self.shared, record, &fields);
                Some(Taken::new(id, record).with_tries(noted.unwrap_or_else(replayed)))
            }
            Err(error) => {
                tracing::warn!(group = %self.group, %id, %error, "entry is no event");
                let counters = &self.shared.counters;
                counters.events_consumed(1);
                counters.events_processed_failed(1);
                self.hand.add_hopeless(id, Tries::hopeless(error.to_string(), &self.shared.config.clock));
                None
            }
        }
    }

    /// Tells once of a time without a zone: nobody knows whether it is UTC, as it is taken to be.
    fn tell_naive(&self, record: &RecordedEvent) {
        let written = record.metadata().occurred_at_as_written();
        if let Some(occurred_at) = written.filter(|text| wire::timestamp::zone(text) == wire::timestamp::Zone::None)
            && !self.has_told_naive.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                group = %self.group, event_type = %record.event_type(), event_id = %record.metadata().event_id(),
                occurred_at, "the time of an event has no zone: it is taken as UTC here, and passed on as it is"
            );
        }
    }

    /// An entry that used up its attempts when there were to be no dead letters is not handled again.
    fn take_exhausted(&self, id: MessageId, mut noted: Tries) {
        if self.shared.config.enable_dlq {
            noted.is_exhausted = false;
            self.hand.add_hopeless(id, noted);
        } else {
            self.left().insert(id);
        }
    }

    fn tell_deleted(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        let (count, first) = (ids.len(), &ids[0]);
        tracing::error!(group = %self.group, count, first, "entries were deleted before they were handled");
        self.shared.counters.messages_deleted(count as u64);
    }
}
