//! Which events of its types a shard still has to take at or before its checkpoint.
//!
//! The checkpoint counts for a type from the position on that the store notes as *left*: an earlier owner did not take the
//! type, or the handler newly takes it. The owner reads the events of these types up to the checkpoint first, then the
//! feed after it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domain::{name::Name, stream::Position},
    port::handler_progress::{ALL_TYPES, AcquiredShard},
};

/// The types of a shard that its checkpoint does not count for, of those that its owner takes.
#[derive(Debug)]
pub(super) struct LeftTypes {
    from: BTreeMap<Name, Position>,
    /// The types that are noted by name: [`ALL_TYPES`] among the left ones stands for the others.
    noted: BTreeSet<Name>,
    /// The events of the left types are read up to here.
    read: Position,
    /// The checkpoint at which the shard was acquired.
    checkpoint: Position,
}

impl LeftTypes {
    /// Returns the left types that an owner takes, and those that it leaves from now on. `noted` are all types that
    /// processes declared, `mine` those of the owner.
    pub(super) fn new(acquired: &AcquiredShard, mine: &[Name], noted: &BTreeMap<Name, Position>) -> (Self, Vec<Name>) {
        let takes = |name: &Name| mine.contains(name) || mine.contains(&ALL_TYPES);
        let from: BTreeMap<_, _> =
            acquired.left.iter().filter(|(name, _)| takes(name)).map(|(name, from)| (name.clone(), *from)).collect();
        let leaves = noted.keys().filter(|name| !takes(name) && !acquired.left.contains_key(*name)).cloned().collect();
        let read = from.values().copied().min().unwrap_or(acquired.checkpoint);
        let left = Self { from, noted: noted.keys().cloned().collect(), read, checkpoint: acquired.checkpoint };
        (left, leaves)
    }

    /// Returns `true` if the event is still to be taken, wherever it is in the feed.
    pub(super) fn counts(&self, event_type: &str, position: Position) -> bool {
        match self.left_at(event_type) {
            Some(from) => position > from,
            None => position > self.checkpoint,
        }
    }

    fn left_at(&self, event_type: &str) -> Option<Position> {
        let of_type = self.from.get(event_type);
        let of_all = || self.from.get(&ALL_TYPES).filter(|_| !self.noted.contains(event_type));
        of_type.or_else(of_all).copied()
    }

    /// Returns the range of the feed whose events of left types are to be read next; `None` once all are.
    pub(super) fn unread(&self) -> Option<(Position, Position)> {
        (self.read < self.checkpoint).then_some((self.read, self.checkpoint))
    }

    /// Marks the events of left types as read up to here, and returns from where on the checkpoint counts for each type
    /// now; `None` for a type that is left no more.
    pub(super) fn note_read(&mut self, through: Position) -> Vec<(Name, Option<Position>)> {
        self.read = self.read.max(through);
        let is_end = self.unread().is_none();
        let of_type = |(name, from): (&Name, &Position)| (name.clone(), (!is_end).then(|| self.read.max(*from)));
        let read: Vec<_> = self.from.iter().filter(|(_, from)| **from < self.checkpoint).map(of_type).collect();
        read
    }

    /// Returns the types that begin after the checkpoint, once the feed is read up to `through`: they are left no more.
    pub(super) fn begun(&mut self, through: Position) -> Vec<Name> {
        let begun: Vec<_> = self
            .from
            .iter()
            .filter(|(_, from)| (self.checkpoint..=through).contains(from))
            .map(|(name, _)| name.clone())
            .collect();
        self.from.retain(|name, _| !begun.contains(name));
        begun
    }
}
