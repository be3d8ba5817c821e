//! The event types that a store holds, compared with those that the code of an app knows.

use std::collections::BTreeMap;

use super::plan::CheckedPlan;
use crate::{
    domain::{error::ErrorLine, event::EventFilter},
    port::{EventStore, StoredEventType},
    runtime::{definition::AggregateRegistration, registry::EventRegistry},
};

/// Largest number of event types in one log line.
const LOGGED_TYPES_MAX: usize = 50;

/// Names the stored event types that no code here knows, and those of a higher schema version, in one warning.
pub(super) async fn warn_of_unknown(store: &dyn EventStore, plan: &CheckedPlan) {
    let Some(types) = store.event_types() else {
        return;
    };
    match types.stored_event_types().await {
        Ok(stored) => log_unknown(&find_unknown(&stored, &known_types(plan))),
        Err(error) => {
            tracing::warn!(error = %ErrorLine(&error), "the stored event types could not be compared with the code's")
        }
    }
}

fn log_unknown(unknown: &[String]) {
    if unknown.is_empty() {
        return;
    }
    let more = unknown.len().saturating_sub(LOGGED_TYPES_MAX);
    let named = unknown[..unknown.len() - more].join(", ");
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    tracing::warn!(
        "the store holds event types that no code here knows, or in a higher schema version: {named}{more}; a crate that \
         the binary never names is not linked (`use my_crate as _;`); if they belong to another program, all is well"
    );
}

/// Returns the highest schema version of each event type that is linked, or that a handler or projection of the app
/// takes; any version of a type that an aggregate has retired.
fn known_types(plan: &CheckedPlan) -> BTreeMap<&'static str, u32> {
    let subscribed = plan.handlers.iter().map(|handler| handler.events);
    let subscribed = subscribed.chain(plan.projections.iter().map(|projection| projection.definition().events));
    let mut known = BTreeMap::new();
    let registry = EventRegistry::discover();
    for event in registry.iter().chain(subscribed.flat_map(|events: EventFilter| events.descriptors())) {
        for event_type in event.event_types() {
            let version = known.entry(event_type).or_default();
            *version = event.schema_version.max(*version);
        }
    }
    let retired = inventory::iter::<AggregateRegistration>().flat_map(|aggregate| aggregate.retired);
    known.extend(retired.map(|&event_type| (event_type, u32::MAX)));
    known
}

fn find_unknown(stored: &[StoredEventType], known: &BTreeMap<&'static str, u32>) -> Vec<String> {
    let describe = |stored: &StoredEventType| match known.get(stored.event_type.as_str()) {
        None => Some(stored.to_string()),
        Some(&version) if version < stored.schema_version => Some(format!("{stored}, here version {version}")),
        Some(_) => None,
    };
    stored.iter().filter_map(describe).collect()
}
