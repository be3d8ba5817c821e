//! Changes of unique values, as stores make them.

use crate::domain::{record::NewEvent, unique::UniqueChange};

/// Returns the changes that the events of one append make: the last one of each name, in the order of the names.
#[must_use]
pub fn unique_changes(events: &[NewEvent]) -> Vec<UniqueChange> {
    last_of_each_name(events.iter().flat_map(NewEvent::unique))
}

/// Returns the last change of each name, in the order of the names.
#[must_use]
pub fn last_of_each_name<'a>(changes: impl IntoIterator<Item = &'a UniqueChange>) -> Vec<UniqueChange> {
    let mut last = std::collections::BTreeMap::new();
    for change in changes {
        last.insert(change.name(), change);
    }
    last.into_values().cloned().collect()
}
