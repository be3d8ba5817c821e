//! Leaving entries to other members of the group: those that this consumer has no handler for, and events whose schema
//! version it does not know.
//!
//! Keep: what the group ever announced is acknowledged only by a member that handles it. What it never announced is
//! noted before it is forgotten, so that it can be delivered when somebody announces it.

use eventbus::{
    RecordedEvent,
    port::{MessageId, Tries},
};

use super::{Consumer, intake::Retaken, paper::json};
use crate::{command, connection::CommandError, script};

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
        for skipped in skipped.chunks(command::TOGETHER) {
            let mut skip = self.script(&script::SKIP);
            skip.key(&self.keys.members).key(&self.keys.retry).key(&self.keys.known_types).key(&self.keys.skipped);
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
                tracing::info!(
                    group = %self.group, event_type,
                    "the group has no handler for this event type: its events are skipped, and what was skipped is noted"
                );
            }
            self.tell_absent(absent);
        }
        Ok(())
    }

    /// Tells of each type once that its events wait for a member.
    fn tell_absent(&self, types: impl IntoIterator<Item = String>) {
        for event_type in types {
            if self.told_absent().insert(event_type.clone()) {
                tracing::warn!(
                    group = %self.group, event_type,
                    "events are left pending: the group announced their type before, and no member that handles it is \
                     here now; `forget_event_type` lets the group skip it"
                );
            }
        }
    }

    /// Leaves an event that cannot be handled here to a member that announced its schema version. Returns `true` if
    /// this consumer is done with it.
    pub(super) async fn leave_to_newer(&self, id: &MessageId, record: &RecordedEvent) -> Result<bool, CommandError> {
        let (event_type, version) = (record.event_type(), record.metadata().schema_version());
        if self.shared.subscribers.know_version(&self.group, event_type, version) {
            return Ok(false);
        }
        let mut leave = self.script(&script::LEAVE_TO_NEWER);
        leave.key(&self.keys.members).key(&self.keys.retry).key(&self.keys.known_types);
        leave.arg(self.group.as_str()).arg(&self.name).arg(self.member());
        leave.arg(id.as_str()).arg(event_type.as_str()).arg(version);
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

    /// Takes entries that were left to absent members and that this one handles, as far as there is room.
    pub(super) async fn take_back(&self) -> Result<(), CommandError> {
        let mut from = "-".to_owned();
        while !from.is_empty() {
            let room = self.hand.free().min(self.shared.config.batch_size).min(command::TOGETHER);
            if room == 0 {
                return Ok(());
            }
            let mut take = self.script(&script::TAKE_BACK);
            take.key(&self.keys.retry).key(&self.keys.relay);
            take.arg(self.group.as_str()).arg(&self.name).arg(self.types()).arg(&from).arg(room);
            let (last, entries, noted, deleted) = self.rerun(take).await?;
            from = last;
            self.take_again(Retaken::read(entries, noted, deleted)?);
        }
        Ok(())
    }
}
