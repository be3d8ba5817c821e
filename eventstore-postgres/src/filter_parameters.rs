//! A filter of the feed as the parameters of statements.

use std::collections::BTreeSet;

use eventbus::{event::Tag, port::FeedFilter};
use uuid::Uuid;

use crate::{pool::Query, statements::FilterShape};

/// The most events of a tag that one statement looks at, which may match none of them.
const TAG_WINDOW_EVENTS: i64 = 5_000;

/// A filter as the parameters of a [`FilterShape`] and of `driving_tags.sql`.
#[derive(Debug, Clone)]
pub(crate) struct FilterParameters {
    is_all: bool,
    aggregate_types: Option<Vec<String>>,
    event_types: Option<Vec<String>>,
    tenant: Option<Uuid>,
    /// A bit for each slot.
    slots: Option<[u8; 32]>,
    tags: Option<TagParameters>,
}

/// The wanted tags, one array per column: the number of the set, how many tags it has, the tag.
#[derive(Debug, Clone, Default)]
struct TagParameters {
    sets: Vec<i64>,
    sizes: Vec<i64>,
    tags: Vec<String>,
}

impl TagParameters {
    /// Returns `None` if each event has all tags of one of the sets, which is empty.
    fn new(sets: &BTreeSet<BTreeSet<Tag>>) -> Option<Self> {
        let mut parameters = Self::default();
        for (number, set) in (1..).zip(sets) {
            if set.is_empty() {
                return None;
            }
            parameters.sets.extend(set.iter().map(|_| number));
            parameters.sizes.extend(set.iter().map(|_| set.len() as i64));
            parameters.tags.extend(set.iter().map(|tag| tag.as_str().to_owned()));
        }
        Some(parameters)
    }
}

impl FilterParameters {
    pub(crate) fn new(filter: &FeedFilter) -> Self {
        let texts = |names: &BTreeSet<eventbus::Name>| names.iter().map(ToString::to_string).collect();
        Self {
            is_all: filter.is_all(),
            aggregate_types: filter.wanted_aggregate_types().map(texts),
            event_types: filter.wanted_event_types().map(texts),
            tenant: filter.wanted_tenant(),
            slots: filter.wanted_slots().map(slot_bits),
            tags: filter.wanted_tags().and_then(TagParameters::new),
        }
    }

    /// Returns the parts of the filter that are given, but for its tags.
    pub(crate) const fn shape(&self) -> FilterShape {
        FilterShape {
            has_aggregate_types: self.aggregate_types.is_some(),
            has_event_types: self.event_types.is_some(),
            has_tenant: self.tenant.is_some(),
            has_slots: self.slots.is_some(),
        }
    }

    /// Returns `true` if each event matches.
    pub(crate) const fn is_all(&self) -> bool {
        self.is_all
    }

    /// Returns `false` if an event may match without any tag.
    pub(crate) const fn has_tags(&self) -> bool {
        self.tags.is_some()
    }

    /// Returns `true` if the filter asks for nothing but event types and slots.
    pub(crate) const fn is_of_types_and_slots(&self) -> bool {
        self.aggregate_types.is_none() && self.tenant.is_none() && self.tags.is_none()
    }

    /// Binds event types and slots to a statement.
    pub(crate) fn bind_types_and_slots<'q>(&'q self, query: Query<'q>) -> Query<'q> {
        query.bind(self.event_types.as_deref()).bind(self.slots.as_ref().map(<[u8; 32]>::as_slice))
    }

    /// Binds the range, the filter and the wanted tags to a statement.
    pub(crate) fn bind_with_tags<'q>(&'q self, query: Query<'q>, after: i64, end: i64) -> Query<'q> {
        let tags = self.tags.as_ref();
        self.bind_to(query, after, end)
            .bind(tags.map_or(&[][..], |tags| &tags.sets))
            .bind(tags.map_or(&[][..], |tags| &tags.sizes))
            .bind(tags.map_or(&[][..], |tags| &tags.tags))
            .bind(TAG_WINDOW_EVENTS)
    }

    /// Binds the range and the filter to a statement.
    pub(crate) fn bind_to<'q>(&'q self, query: Query<'q>, after: i64, end: i64) -> Query<'q> {
        query
            .bind(after)
            .bind(end)
            .bind(self.aggregate_types.as_deref())
            .bind(self.event_types.as_deref())
            .bind(self.tenant)
            .bind(self.slots.as_ref().map(<[u8; 32]>::as_slice))
    }
}

/// Returns a bit for each slot, in the order of the server's `get_bit`.
fn slot_bits(slots: &BTreeSet<u8>) -> [u8; 32] {
    let mut bits = [0; 32];
    for slot in slots {
        bits[usize::from(slot / 8)] |= 1 << (slot % 8);
    }
    bits
}
