//! The tags of the events in memory.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::{
    domain::{name::Name, record::NewEvent, stream::Position, tag::Tag},
    port::boundaries::{Boundary, BoundaryCondition, FURTHER_TAGS},
};

/// Which event has which tags, and the counts of each tag.
#[derive(Debug, Default)]
pub(super) struct TagTable {
    of_event: HashMap<Position, Vec<Tag>>,
    counts: HashMap<(Option<Uuid>, Tag), BTreeMap<String, u64>>,
}

impl TagTable {
    /// Returns the tags of an event.
    pub(super) fn of_event(&self, position: Option<Position>) -> &[Tag] {
        position.and_then(|position| self.of_event.get(&position)).map_or(&[], Vec::as_slice)
    }

    /// Adds the tags of a new event.
    pub(super) fn insert(&mut self, position: Position, tenant_id: Option<Uuid>, event: &NewEvent) {
        for tag in event.tags() {
            self.count_one(tenant_id, tag, event.event_type().as_str());
        }
        if !event.tags().is_empty() {
            self.of_event.insert(position, event.tags().to_vec());
        }
    }

    /// Adds a tag to a stored event; returns `false` if the event has it.
    pub(super) fn add(&mut self, position: Position, tenant_id: Option<Uuid>, event_type: &Name, tag: &Tag) -> bool {
        let mut tags = self.of_event(Some(position)).to_vec();
        if tags.contains(tag) {
            return false;
        }
        for known in &tags {
            self.count_one(tenant_id, known, FURTHER_TAGS);
        }
        self.count_one(tenant_id, tag, event_type.as_str());
        tags.push(tag.clone());
        self.of_event.insert(position, tags);
        true
    }

    fn count_one(&mut self, tenant_id: Option<Uuid>, tag: &Tag, name: &str) {
        let counts = self.counts.entry((tenant_id, tag.clone())).or_default();
        *counts.entry(name.to_owned()).or_default() += 1;
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
        counts.map_or(0, |counts| boundary.counted_names().filter_map(|name| counts.get(name)).sum())
    }
}
