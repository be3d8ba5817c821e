//! The data of a lossy bus and its atomic steps.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::{
    domain::{metadata::EventId, name::Name, record::RecordedEvent, stream::Position},
    port::{
        MessageId,
        relay::{
            GroupFloor, GroupFloors, PublishRange, PublishedPosition, Publisher, RangeOutcome, ResyncOutcome,
            ResyncRequest,
        },
    },
};

#[derive(Debug, Default)]
pub(super) struct LossyBusData {
    pub(super) losable: LosableData,
    /// Never goes back, not even when a test loses or restores data: a server's clock does not go back either.
    pub(super) last_id: u64,
    /// The positions of all events ever published, in order.
    pub(super) history: Vec<Position>,
    pub(super) reported_floor: Option<GroupFloor>,
}

/// The data that a test can lose or restore.
#[derive(Debug, Clone, Default)]
pub(super) struct LosableData {
    pub(super) records: HashMap<Uuid, StoreRecord>,
    pub(super) entries: Vec<BusEntry>,
    pub(super) groups: BTreeMap<Name, BusGroup>,
}

#[derive(Debug, Clone)]
pub(super) struct StoreRecord {
    pub(super) epoch: u64,
    pub(super) position: Position,
    /// The event at `position`.
    pub(super) last: Option<EventId>,
    pub(super) sentinel: Option<u64>,
    /// An entry id and a position: entries published after that entry restart after that position.
    pub(super) rewind_point: Option<(u64, Position)>,
}

#[derive(Debug, Clone)]
pub(super) struct BusEntry {
    pub(super) id: u64,
    pub(super) store: Uuid,
    pub(super) event: RecordedEvent,
}

#[derive(Debug, Clone, Default)]
pub(super) struct BusGroup {
    /// The id of the last entry that the group finished.
    pub(super) finished: u64,
    pub(super) has_gap: bool,
}

impl LossyBusData {
    pub(super) fn publish(&mut self, publisher: Publisher, range: PublishRange<'_>) -> RangeOutcome {
        let Some(record) = self.losable.records.get_mut(&publisher.store) else {
            return RangeOutcome::Lost;
        };
        if record.epoch > publisher.epoch {
            return RangeOutcome::Fenced;
        }
        if record.sentinel.is_some_and(|id| self.losable.entries.iter().all(|entry| entry.id != id)) {
            return RangeOutcome::Lost;
        }
        if record.position != range.after {
            return RangeOutcome::Moved(record.position);
        }
        let mut ids = Vec::new();
        for event in range.events {
            self.last_id += 1;
            self.losable.entries.push(BusEntry { id: self.last_id, store: publisher.store, event: event.clone() });
            self.history.extend(event.position());
            record.sentinel = Some(self.last_id);
            ids.push(MessageId::new(self.last_id.to_string()));
        }
        if range.through > range.after {
            let last = range.events.last().filter(|event| event.position() == Some(range.through));
            record.last = last.map(|event| event.metadata().event_id());
        }
        (record.epoch, record.position) = (publisher.epoch, range.through);
        RangeOutcome::Published(ids)
    }

    /// Returns the record of a store if its sentinel, the last entry it published, is still present.
    pub(super) fn intact(&self, store: Uuid) -> Option<&StoreRecord> {
        let is_there = |id| self.losable.entries.iter().any(|entry| entry.id == id);
        self.losable.records.get(&store).filter(|record| record.sentinel.is_none_or(is_there))
    }

    pub(super) fn published_position(&self, store: Uuid) -> Option<PublishedPosition> {
        let record = self.intact(store)?;
        Some(PublishedPosition { position: record.position, event_id: record.last })
    }

    pub(super) fn resync(&mut self, publisher: Publisher, request: ResyncRequest<'_>) -> ResyncOutcome {
        if self.losable.records.get(&publisher.store).is_some_and(|record| record.epoch > publisher.epoch) {
            return ResyncOutcome::Fenced;
        }
        if let Some(record) = self.intact(publisher.store) {
            return ResyncOutcome::Moved(record.position);
        }
        let other = self.losable.records.keys().find(|store| **store != publisher.store);
        if let Some(other) = other.filter(|_| !request.is_shared) {
            return ResyncOutcome::OtherStore(*other);
        }
        for group in request.groups {
            self.losable.groups.entry(group.clone()).or_default();
        }
        let rewind_point = Some((self.last_id, request.floor));
        let record =
            StoreRecord { epoch: publisher.epoch, position: request.floor, last: None, sentinel: None, rewind_point };
        self.losable.records.insert(publisher.store, record);
        ResyncOutcome::At(request.floor)
    }

    pub(super) fn rewind(&mut self, publisher: Publisher, to: Position) -> ResyncOutcome {
        let Some(record) = self.losable.records.get_mut(&publisher.store) else {
            return ResyncOutcome::Moved(to);
        };
        if record.epoch > publisher.epoch {
            return ResyncOutcome::Fenced;
        }
        self.losable.groups.values_mut().for_each(|group| group.has_gap = false);
        if record.position <= to {
            return ResyncOutcome::Moved(record.position);
        }
        let former = record.rewind_point.map_or(to, |(_, former)| former.min(to));
        record.rewind_point = Some((self.last_id, former));
        (record.epoch, record.position, record.last) = (publisher.epoch, to, None);
        ResyncOutcome::At(to)
    }

    pub(super) fn floors(&self, store: Uuid, known: &[Name]) -> GroupFloors {
        let Some(record) = self.intact(store) else {
            return GroupFloors::Lost;
        };
        let seen = |(name, group): (&Name, &BusGroup)| {
            (name.clone(), self.reported_floor.unwrap_or_else(|| self.floor(store, record, group)))
        };
        let missing = known.iter().filter(|name| !self.losable.groups.contains_key(*name));
        let missing = missing.map(|name| (name.clone(), GroupFloor::Missing));
        GroupFloors::Groups(self.losable.groups.iter().map(seen).chain(missing).collect())
    }

    pub(super) fn floor(&self, store: Uuid, record: &StoreRecord, group: &BusGroup) -> GroupFloor {
        if group.has_gap {
            return GroupFloor::Gap;
        }
        let mut next = self.losable.entries.iter().filter(|entry| entry.id > group.finished && entry.store == store);
        let next = next.next().and_then(|entry| entry.event.position());
        let floor = next.map_or(record.position, |next| Position::new(next.get() - 1));
        match record.rewind_point {
            Some((at, to)) if group.finished < at => GroupFloor::At(floor.min(to)),
            _ => GroupFloor::At(floor),
        }
    }
}
