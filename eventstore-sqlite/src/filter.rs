//! A filter as SQL parameters.

use std::collections::BTreeSet;

use eventbus::{Name, event::Tag, port::FeedFilter};
use uuid::Uuid;

/// Parameters of the statements; `None` matches all events.
#[derive(Debug, Clone)]
pub(crate) struct FilterParameters {
    /// A JSON array.
    pub(crate) aggregate_types: Option<String>,
    /// A JSON array.
    pub(crate) event_types: Option<String>,
    tenant: Option<Uuid>,
    /// A bit for each slot.
    pub(crate) slots: Option<[u8; 32]>,
    /// The sets of tags, none of them empty.
    pub(crate) tags: Option<BTreeSet<BTreeSet<Tag>>>,
}

impl FilterParameters {
    pub(crate) fn new(filter: &FeedFilter) -> Self {
        Self {
            aggregate_types: filter.wanted_aggregate_types().map(to_json_array),
            event_types: filter.wanted_event_types().map(to_json_array),
            tenant: filter.wanted_tenant(),
            slots: filter.wanted_slots().map(to_bits),
            // each event has all tags of an empty set
            tags: filter.wanted_tags().filter(|sets| sets.iter().all(|set| !set.is_empty())).cloned(),
        }
    }

    pub(crate) const fn tenant_id(&self) -> Option<Uuid> {
        self.tenant
    }

    pub(crate) fn tenant(&self) -> Option<&[u8; 16]> {
        self.tenant.as_ref().map(Uuid::as_bytes)
    }
}

fn to_json_array(names: &BTreeSet<Name>) -> String {
    let names: serde_json::Value = names.iter().map(Name::as_str).collect();
    names.to_string()
}

fn to_bits(slots: &BTreeSet<u8>) -> [u8; 32] {
    let mut bits = [0; 32];
    for slot in slots {
        bits[usize::from(slot / 8)] |= 1 << (slot % 8);
    }
    bits
}
