//! Leaving entries to other members of the group: those that this consumer has no handler for, and events whose schema
//! version it does not know.
//!
//! Keep: what the group ever announced is acknowledged only by a member that handles it. What it never announced is
//! noted before it is forgotten, so that it can be delivered when somebody announces it.

use std::collections::BTreeMap;

use eventbus::{
    RecordedEvent,
    port::{MessageId, Tries, log_skipped_type},
};

use super::{Consumer, intake::Retaken, paper::json, read::FIRST};
use crate::{command, connection::CommandError, keys, partition::partition_of, script};

/// How many pages of entries that were left are looked at in one go without finding one to take.
const MOST_PAGES_IN_VAIN: usize = 4;

/// Where to go on among the entries that were left: they may be many, and for others.
#[derive(Debug)]
pub(super) struct Left {
    /// After those that it has looked at as they were new.
    new_from: Option<String>,
    /// Among all.
    from: String,
}

impl Default for Left {
    fn default() -> Self {
        Self { new_from: None, from: FIRST.into() }
    }
}

/// An entry that no handler here wants.
pub(super) struct Skip {
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
    pub(super) tries: Tries,
}

impl Consumer {
    /// Its name among the members of the group.
    fn member(&self) -> &str {
        if self.fence.is_some() { &self.shared.consumer } else { &self.name }
    }

    /// Acknowledges what nobody of the group ever handled, and leaves the rest to those who do.
    pub(super) async fn skip(&self, skipped: &[Skip]) -> Result<(), CommandError> {
        let mut by_key: BTreeMap<String, Vec<&Skip>> = BTreeMap::new();
        for skip in skipped {
            by_key.entry(self.skipped_key(&skip.record)).or_default().push(skip);
        }
        for (key, skipped) in &by_key {
            for skipped in skipped.chunks(command::TOGETHER) {
                self.skip_some(key, skipped).await?;
            }
        }
        Ok(())
    }

    async fn skip_some(&self, key: &str, skipped: &[&Skip]) -> Result<(), CommandError> {
        let mut skip = self.script(&script::SKIP);
        skip.key(&self.keys.members).key(&self.keys.retry).key(&self.keys.known_types).key(key);
        skip.arg(self.group.as_str()).arg(&self.name).arg(self.member()).arg(self.shared.config.pending_idle_ms);
        skip.arg(u8::from(self.shared.is_backlog()));
        for Skip { id, record, tries } in skipped {
            let position = record.position().map(|position| position.to_string()).unwrap_or_default();
            skip.arg(id.as_str()).arg(record.event_type().as_str()).arg(record.metadata().schema_version());
            skip.arg(position).arg(json(tries));
        }
        let (acknowledged, left, stay, new, absent): (u64, u64, Vec<String>, Vec<String>, Vec<String>) =
            self.rerun(skip).await?;
        self.left().extend(stay.into_iter().map(MessageId::new));
        self.shared.counters.events_skipped(acknowledged);
        if left > 0 {
            tracing::debug!(group = %self.group, left, "entries left to members that handle their types");
        }
        for event_type in new {
            log_skipped_type(&self.group, &event_type);
        }
        self.tell_absent(absent);
        Ok(())
    }

    /// Where it is noted that an event was skipped: beside the stream that carries it, also where it came from a backlog.
    fn skipped_key(&self, record: &RecordedEvent) -> String {
        let (shared, partitions) = (&self.shared, self.shared.config.partitions);
        let stream = match shared.is_backlog() {
            false => shared.stream.clone(),
            true if partitions == 1 => shared.root.clone(),
            true => {
                let id = record.metadata().aggregate_id();
                keys::partition(&shared.root, partition_of(id.as_str(), partitions))
            }
        };
        keys::skipped(&stream, &self.group)
    }

    /// Tells of each type once that its events wait for a member.
    fn tell_absent(&self, types: impl IntoIterator<Item = String>) {
        for event_type in types {
            if self.told_absent().insert(event_type.clone()) {
                tracing::warn!(
                    group = %self.group, event_type,
                    "events are left pending: the group announced their type before, and no member that handles it is \
                     here now; `forget_event_type` lets the group skip it (`*` if a handler of all types was removed)"
                );
            }
        }
    }

    /// Leaves an event that cannot be handled here to a member that announced its schema version; the handlers that have
    /// succeeded do not run again there. Returns `true` if this consumer is done with it.
    ///
    /// An event of an older version than the handlers here were made for is left to a live member only: no release to
    /// come knows that version better than this one.
    pub(super) async fn leave_to_newer(
        &self,
        id: &MessageId,
        record: &RecordedEvent,
        done: &[String],
    ) -> Result<bool, CommandError> {
        let (event_type, version) = (record.event_type(), record.metadata().schema_version());
        let known = self.shared.subscribers.versions(&self.group, event_type);
        if known.is_empty() || known.contains(&version) {
            return Ok(false);
        }
        let is_older = known.iter().any(|known| *known > version);
        let mut leave = self.script(&script::LEAVE_TO_NEWER);
        leave.key(&self.keys.members).key(&self.keys.retry).key(&self.keys.known_types);
        leave.arg(self.group.as_str()).arg(&self.name).arg(self.member());
        leave.arg(id.as_str()).arg(event_type.as_str()).arg(version).arg(u8::from(is_older));
        leave.arg(json(&Tries::anew(done.to_vec())));
        let said: String = self.rerun(leave).await?;
        match said.as_str() {
            "no" => return Ok(false),
            "stays" => {
                self.left().insert(id.clone());
            }
            _ => {}
        }
        tracing::warn!(
            group = %self.group, %id, %event_type, schema_version = version,
            "event cannot be decoded here and is left to members that know its schema version"
        );
        Ok(true)
    }

    /// Takes entries that were left and that this one handles, as far as there is room: new ones, then some of the others.
    pub(super) async fn take_back(&self, left: &mut Left, last: &str) -> Result<(), CommandError> {
        // what is there when it begins is not new
        let new_from = left.new_from.get_or_insert_with(|| format!("({last}"));
        self.take_back_after(new_from).await?;
        if !self.take_back_after(&mut left.from).await? {
            FIRST.clone_into(&mut left.from); // from the first one on, next time
        }
        Ok(())
    }

    /// Goes on after an id, which it moves, as long as it finds some soon: the rest is for the next time. Returns `true` if
    /// there may be more.
    async fn take_back_after(&self, from: &mut String) -> Result<bool, CommandError> {
        let mut pages_in_vain = 0;
        while pages_in_vain < MOST_PAGES_IN_VAIN {
            let room = self.hand.free().min(self.shared.config.batch_size);
            if room == 0 {
                break;
            }
            let mut take = self.script(&script::TAKE_BACK);
            take.key(&self.keys.retry).key(&self.keys.relay);
            take.arg(self.group.as_str()).arg(&self.name).arg(self.types()).arg(&*from);
            take.arg(command::TOGETHER).arg(room);
            let (last, entries, noted, deleted, has_more): (String, _, _, _, bool) = self.rerun(take).await?;
            let retaken = Retaken::read(entries, noted, deleted)?;
            pages_in_vain += usize::from(retaken.entries.is_empty());
            self.take_again(retaken);
            *from = last;
            if !has_more {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
