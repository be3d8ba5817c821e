//! The tags of the events in memory.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::{
    domain::{name::Name, stream::Position, tag::Tag},
    port::boundaries::{Boundary, BoundaryCondition},
};

/// Which event has which tags, and how many events of each type have a tag.
#[derive(Debug, Default)]
pub(super) struct TagTable {
    of_event: HashMap<Position, Vec<Tag>>,
    counts: HashMap<(Option<Uuid>, Tag), BTreeMap<Name, u64>>,
}

impl TagTable {
    /// Returns the tags of an event.
    pub(super) fn of_event(&self, position: Option<Position>) -> &[Tag] {
        position.and_then(|position| self.of_event.get(&position)).map_or(&[], Vec::as_slice)
    }

    /// Adds a tag to an event; returns `false` if the event has it.
    pub(super) fn add(&mut self, position: Position, tenant_id: Option<Uuid>, event_type: &Name, tag: &Tag) -> bool {
        let tags = self.of_event.entry(position).or_default();
        let is_new = !tags.contains(tag);
        if is_new {
            tags.push(tag.clone());
            let counts = self.counts.entry((tenant_id, tag.clone())).or_default();
            *counts.entry(event_type.clone()).or_default() += 1;
        }
        is_new
    }

    /// Returns the condition that no event is added to the boundary from now on.
    pub(super) fn count(&self, boundary: &Boundary) -> BoundaryCondition {
        let counts = boundary.tags().into_iter().map(|tag| self.count_of(boundary, tag)).collect();
        BoundaryCondition { boundary: boundary.clone(), counts }
    }

    /// Returns `true` if the boundary of the condition may have further events.
    pub(super) fn is_moved(&self, condition: &BoundaryCondition) -> bool {
        condition.is_moved(|tag| self.count_of(&condition.boundary, tag))
    }

    fn count_of(&self, boundary: &Boundary, tag: &Tag) -> u64 {
        let counts = self.counts.get(&(boundary.tenant_id, tag.clone()));
        let wanted = |(event_type, count): (&Name, &u64)| boundary.event_types.contains(event_type).then_some(*count);
        counts.into_iter().flatten().filter_map(wanted).sum()
    }
}
