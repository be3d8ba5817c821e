//! The event types that a store holds, compared with those that the code of an app knows.

use std::collections::BTreeMap;

use super::plan::CheckedPlan;
use crate::{
    domain::{
        error::{BoxError, ErrorLine},
        event::{EventDescriptor, EventFilter},
    },
    port::{EventStore, EventTypes, StoredEventType},
    runtime::{
        definition::AggregateRegistration,
        registry::EventRegistry,
        stored_declarations::{Declaration, find_outdated, forget_changed},
    },
    support::PersonalFields,
};

/// Largest number of event types in one log line.
const LOGGED_TYPES_MAX: usize = 50;

/// Logs, in one warning each, the stored event types that no code here knows, or not in that version; those with events from
/// before their unique values were declared; and those with events from before their tags were.
pub(super) async fn warn_of_differences(store: &dyn EventStore, plan: &CheckedPlan) {
    let Some(types) = store.event_types() else {
        return;
    };
    if let Err(error) = compare(store, types, plan).await {
        tracing::warn!(error = %ErrorLine(&*error), "the stored event types could not be compared with the code's");
    }
}

async fn compare(store: &dyn EventStore, types: &dyn EventTypes, plan: &CheckedPlan) -> Result<(), BoxError> {
    let stored = types.stored_event_types().await?;
    log_unknown(&find_unknown(&stored, &known_types(plan)));
    let registry = EventRegistry::discover();
    let is_stored =
        |event: &EventDescriptor| event.event_types().any(|name| stored.iter().any(|stored| stored.event_type == name));
    for declaration in [Declaration::UniqueValues, Declaration::Tags] {
        // without the aggregate this program may only read the events
        if let Err(error) = forget_changed(store, declaration, registry.iter().filter(has_aggregate)).await {
            tracing::warn!(%error, "cannot delete the notes of what event types declared before");
        }
    }
    let outdated = find_outdated(store, Declaration::UniqueValues, registry.iter(), is_stored).await?;
    if !outdated.is_empty() {
        tracing::warn!(
            "stored events of {} may hold no unique values, or by a former rule: they were stored before the events \
             declared these; call `take_unique_values` on the repository of their aggregate once",
            listed(&outdated)
        );
    }
    let outdated = find_outdated(store, Declaration::Tags, registry.iter(), is_stored).await?;
    if !outdated.is_empty() {
        tracing::warn!(
            "stored events of {} may lack tags, and decisions do not find them: they were stored before the events \
             declared these; call `app.tag_stored_events` for each of them once",
            listed(&outdated)
        );
    }
    Ok(())
}

/// Notes the personal fields of the linked event types in the store, for tools without the types.
pub(super) async fn note_personal_fields(store: &dyn EventStore) {
    let registry = EventRegistry::discover();
    if let Err(error) = PersonalFields::note(store, registry.iter()).await {
        tracing::warn!(
            error = %ErrorLine(&*error),
            "a personal field of an event is not noted in the store: the command `eventbus dashboard` may show its values"
        );
    }
}

/// Returns `true` if the aggregate of the event is linked.
fn has_aggregate(event: &&EventDescriptor) -> bool {
    inventory::iter::<AggregateRegistration>().any(|aggregate| aggregate.aggregate_type == event.aggregate_type)
}

fn log_unknown(unknown: &[String]) {
    if unknown.is_empty() {
        return;
    }
    tracing::warn!(
        "the store holds event types that no code here knows, or in a higher schema version: {}; an event that was \
         renamed names its former type, `#[event(was(\"..\"))]`; a crate that the binary never names is not linked \
         (`use my_crate as _;`); `retired(\"..\")` on the aggregate skips events, and their effect on the state is \
         lost; if they belong to another program, all is well",
        listed(unknown)
    );
}

fn listed<T: AsRef<str>>(types: &[T]) -> String {
    let more = types.len().saturating_sub(LOGGED_TYPES_MAX);
    let named = types[..types.len() - more].iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named}, and {more} more") } else { named }
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
    known.extend(AggregateRegistration::all_retired().map(|(_, event_type)| (event_type, u32::MAX)));
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
