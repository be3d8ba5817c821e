//! The data of a lossy bus and its atomic steps.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{
        MessageId,
        relay::{PublishRange, PublishedPosition, RangeOutcome},
    },
};

#[derive(Debug, Default)]
pub(super) struct LossyBusData {
    pub(super) losable: LosableData,
    /// Never goes back, not even when a test loses or restores data: a server's clock does not go back either.
    pub(super) last_id: u64,
    /// The positions of all events ever published, in order.
    pub(super) history: Vec<Position>,
}

/// The data that a test can lose or restore.
#[derive(Debug, Clone, Default)]
pub(super) struct LosableData {
    pub(super) records: HashMap<Uuid, PublishedPosition>,
    pub(super) entries: Vec<(u64, RecordedEvent)>,
    /// The id of the last entry that each group finished.
    pub(super) groups: BTreeMap<Name, u64>,
}

impl LossyBusData {
    pub(super) fn publish(&mut self, store: Uuid, range: PublishRange<'_>) -> RangeOutcome {
        let Some(record) = self.losable.records.get_mut(&store) else {
            return RangeOutcome::Lost;
        };
        if *record != range.after {
            return RangeOutcome::Moved(*record);
        }
        let mut ids = Vec::new();
        for event in range.events {
            self.last_id += 1;
            self.losable.entries.push((self.last_id, event.clone()));
            self.history.extend(event.position());
            ids.push(MessageId::new(self.last_id.to_string()));
        }
        *record = range.end();
        RangeOutcome::Published(ids)
    }

    pub(super) fn set_position(
        &mut self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> PublishedPosition {
        let record = self.losable.records.get(&store).copied();
        match record.filter(|record| Some(*record) != from) {
            Some(other) => other,
            None => {
                self.losable.records.insert(store, to);
                to
            }
        }
    }

    pub(super) fn other_store(&self, own: Uuid) -> Option<Uuid> {
        let records = &self.losable.records;
        if records.contains_key(&own) { None } else { records.keys().next().copied() }
    }
}
