//! What a lossy bus holds, and what it does in one step.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::{
    domain::{metadata::EventId, name::Name, record::RecordedEvent, stream::Position},
    port::{Adopted, Adoption, Mark, MessageId, PublishRange, Publisher, RangeOutcome, SeenFloor, SeenFloors},
};

#[derive(Debug, Default)]
pub(super) struct Data {
    pub(super) kept: Kept,
    /// Never goes back, as the clock does not.
    pub(super) last_id: u64,
    /// The positions of all events that were ever published, in order.
    pub(super) history: Vec<Position>,
    pub(super) tells_floors: Option<SeenFloor>,
}

/// What can be lost.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) records: HashMap<Uuid, Record>,
    pub(super) entries: Vec<Entry>,
    pub(super) groups: BTreeMap<Name, Group>,
}

#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) epoch: u64,
    pub(super) position: Position,
    /// The event at the position.
    pub(super) last: Option<EventId>,
    pub(super) witness: Option<u64>,
    /// What comes after this entry begins again after this position.
    pub(super) rewound: Option<(u64, Position)>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) store: Uuid,
    pub(super) event: RecordedEvent,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    /// The last entry it has finished.
    pub(super) finished: u64,
    pub(super) has_hole: bool,
}

impl Data {
    pub(super) fn publish(&mut self, publisher: Publisher, range: PublishRange<'_>) -> RangeOutcome {
        let Some(record) = self.kept.records.get_mut(&publisher.store) else {
            return RangeOutcome::Lost;
        };
        if record.epoch > publisher.epoch {
            return RangeOutcome::Fenced;
        }
        if record.witness.is_some_and(|id| self.kept.entries.iter().all(|entry| entry.id != id)) {
            return RangeOutcome::Lost;
        }
        if record.position != range.after {
            return RangeOutcome::Moved(record.position);
        }
        let mut ids = Vec::new();
        for event in range.events {
            self.last_id += 1;
            self.kept.entries.push(Entry { id: self.last_id, store: publisher.store, event: event.clone() });
            self.history.extend(event.position());
            record.witness = Some(self.last_id);
            ids.push(MessageId::new(self.last_id.to_string()));
        }
        if range.through > range.after {
            let last = range.events.last().filter(|event| event.position() == Some(range.through));
            record.last = last.map(|event| event.metadata().event_id());
        }
        (record.epoch, record.position) = (publisher.epoch, range.through);
        RangeOutcome::Published(ids)
    }

    /// The record of a store whose last entry is still there.
    pub(super) fn intact(&self, store: Uuid) -> Option<&Record> {
        let is_there = |id| self.kept.entries.iter().any(|entry| entry.id == id);
        self.kept.records.get(&store).filter(|record| record.witness.is_none_or(is_there))
    }

    pub(super) fn mark(&self, store: Uuid) -> Option<Mark> {
        let record = self.intact(store)?;
        Some(Mark { position: record.position, event_id: record.last })
    }

    pub(super) fn adopt(&mut self, publisher: Publisher, adoption: Adoption<'_>) -> Adopted {
        if self.kept.records.get(&publisher.store).is_some_and(|record| record.epoch > publisher.epoch) {
            return Adopted::Fenced;
        }
        if let Some(record) = self.intact(publisher.store) {
            return Adopted::Moved(record.position);
        }
        let other = self.kept.records.keys().find(|store| **store != publisher.store);
        if let Some(other) = other.filter(|_| !adoption.shared) {
            return Adopted::OtherStore(*other);
        }
        for group in adoption.groups {
            self.kept.groups.entry(group.clone()).or_default();
        }
        let rewound = Some((self.last_id, adoption.floor));
        let record = Record { epoch: publisher.epoch, position: adoption.floor, last: None, witness: None, rewound };
        self.kept.records.insert(publisher.store, record);
        Adopted::At(adoption.floor)
    }

    pub(super) fn rewind(&mut self, publisher: Publisher, to: Position) -> Adopted {
        let Some(record) = self.kept.records.get_mut(&publisher.store) else {
            return Adopted::Moved(to);
        };
        if record.epoch > publisher.epoch {
            return Adopted::Fenced;
        }
        self.kept.groups.values_mut().for_each(|group| group.has_hole = false);
        if record.position <= to {
            return Adopted::Moved(record.position);
        }
        let former = record.rewound.map_or(to, |(_, former)| former.min(to));
        record.rewound = Some((self.last_id, former));
        (record.epoch, record.position, record.last) = (publisher.epoch, to, None);
        Adopted::At(to)
    }

    pub(super) fn floors(&self, store: Uuid, known: &[Name]) -> SeenFloors {
        let Some(record) = self.intact(store) else {
            return SeenFloors::Lost;
        };
        let seen = |(name, group): (&Name, &Group)| {
            (name.clone(), self.tells_floors.unwrap_or_else(|| self.floor(store, record, group)))
        };
        let missing = known.iter().filter(|name| !self.kept.groups.contains_key(*name));
        let missing = missing.map(|name| (name.clone(), SeenFloor::Missing));
        SeenFloors::Groups(self.kept.groups.iter().map(seen).chain(missing).collect())
    }

    pub(super) fn floor(&self, store: Uuid, record: &Record, group: &Group) -> SeenFloor {
        if group.has_hole {
            return SeenFloor::Hole;
        }
        let mut next = self.kept.entries.iter().filter(|entry| entry.id > group.finished && entry.store == store);
        let next = next.next().and_then(|entry| entry.event.position());
        let floor = next.map_or(record.position, |next| Position::new(next.get() - 1));
        match record.rewound {
            Some((at, to)) if group.finished < at => SeenFloor::At(floor.min(to)),
            _ => SeenFloor::At(floor),
        }
    }
}
