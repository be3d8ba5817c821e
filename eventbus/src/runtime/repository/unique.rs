//! Unique values of aggregates: looking them up, and taking them for events that were stored before they were unique.

use std::collections::{BTreeSet, HashSet};

use futures_util::TryStreamExt as _;
use uuid::Uuid;

use super::error::FindByError;
use crate::{
    domain::{
        aggregate::Aggregate,
        error::{BoxError, Error},
        field_text::FieldText,
        name::Name,
        record::{EncodeEvent as _, EventSet as _},
        stream::{Position, StreamId, Version},
        unique::{UniqueChange, UniqueName},
    },
    port::{
        AppendError, Direction, EventStore, FeedFilter,
        unique_values::{UniqueKey, UniqueValues},
    },
    runtime::stored_declarations::{Declaration, note_current},
    support::last_of_each_name,
};

/// Attempts to take the values of one aggregate, to which other writers append meanwhile.
const ATTEMPTS_MAX: u32 = 20;

/// Progress of [`take_unique_values`](crate::AggregateRepository::take_unique_values).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TakenValues {
    /// Events read: those that take or give back a value.
    pub events: u64,
    /// Aggregates whose values are taken.
    pub aggregates: u64,
    /// Values that an aggregate did not get, as another one holds them.
    pub duplicates: Vec<DuplicateValue>,
}

/// A value that two aggregates have.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DuplicateValue {
    /// The name of the value: `email`.
    pub name: Name,
    /// The aggregate that does not hold it.
    pub stream: StreamId,
    /// The aggregate that holds it; `None` if it gave the value back meanwhile.
    pub holder: Option<StreamId>,
}

/// Returns the stream that holds a value; `None` if none does.
pub(super) async fn find_holder<A: Aggregate>(
    store: &dyn EventStore,
    tenant_id: Option<Uuid>,
    name: &str,
    value: &impl FieldText,
) -> Result<Option<StreamId>, FindByError> {
    let declared =
        declared::<A>(name).ok_or_else(|| FindByError::UnknownName { name: name.into(), known: names::<A>() })?;
    let Some(value) = value.field_text() else { return Ok(None) };
    let value = (declared.normalize)(&value);
    let (of_type, name) = (Name::from_static(A::AGGREGATE_TYPE), Name::from_static(declared.name));
    Ok(unique_values(store)?.find_holder(&UniqueKey::new(tenant_id, of_type, name, value)).await?)
}

/// Takes the values that the stored events of all aggregates of a type declare.
pub(super) async fn take_unique_values<A: Aggregate>(
    store: &dyn EventStore,
    mut progress: impl FnMut(&TakenValues),
) -> Result<TakenValues, Error> {
    let values = unique_values(store)?;
    let (mut taken, mut seen, mut refused) = (TakenValues::default(), HashSet::new(), Vec::new());
    let Some(filter) = changing_events::<A>() else { return Ok(taken) };
    let head = store.head().await?;
    let mut feed = store.read_feed(Position::START, head, &filter);
    while let Some(event) = feed.try_next().await? {
        let stream = event.metadata().stream();
        taken.events += 1;
        if !seen.insert(stream.clone()) {
            continue;
        }
        if !take_values::<A>(store, values, stream).await?.is_empty() {
            refused.push(stream.clone());
        }
        taken.aggregates += 1;
        progress(&taken);
    }
    // a holder may have given the value back later in the pass
    for stream in refused {
        for duplicate in take_values::<A>(store, values, &stream).await? {
            let holder = match UniqueKey::taken_by(&stream, &duplicate) {
                Some(key) => values.find_holder(&key).await?,
                None => None,
            };
            taken.duplicates.push(DuplicateValue { name: duplicate.name().clone(), stream: stream.clone(), holder });
        }
    }
    note_current(store, Declaration::UniqueValues, A::Event::EVENTS.descriptors()).await?;
    progress(&taken);
    Ok(taken)
}

#[allow(clippy::result_large_err, reason = "its callers return the same error from a future, which is no smaller")]
fn unique_values(store: &dyn EventStore) -> Result<&dyn UniqueValues, FindByError> {
    store.unique_values().ok_or_else(|| FindByError::Unsupported { store: store.describe() })
}

/// Takes the values that a stream has by its events; returns those that another stream holds.
async fn take_values<A: Aggregate>(
    store: &dyn EventStore,
    values: &dyn UniqueValues,
    stream: &StreamId,
) -> Result<Vec<UniqueChange>, Error> {
    for _ in 0..ATTEMPTS_MAX {
        let (mut changes, mut version) = (Vec::new(), Version::NONE);
        let mut events = store.read_stream(stream, Version::FIRST, Direction::Forward);
        while let Some(event) = events.try_next().await? {
            version = event.version();
            if !A::RETIRED.contains(&event.event_type().as_str()) {
                let at = |error: BoxError| format!("event {version} of `{stream}`: {error}");
                let read = A::Event::decode(&event).map_err(|error| at(error.into()))?;
                changes.extend_from_slice(read.encode().map_err(|error| at(error.into()))?.unique());
            }
        }
        // one by one: a duplicate does not keep other values from being taken
        let (mut duplicates, mut is_current) = (Vec::new(), true);
        for change in last_of_each_name(&changes) {
            let mut assigned = values.assign(stream, version, std::slice::from_ref(&change)).await;
            if matches!(assigned, Err(AppendError::Taken { .. })) {
                let none = UniqueChange::new(change.name().clone(), None)?;
                assigned = values.assign(stream, version, &[none]).await;
                duplicates.push(change);
            }
            match assigned {
                Err(AppendError::Conflict { .. }) => is_current = false,
                assigned => assigned?,
            }
        }
        if is_current {
            return Ok(duplicates);
        }
    }
    Err(format!("`{stream}` changed under each attempt to take its unique values").into())
}

/// Returns the names of the unique values of an aggregate, sorted.
fn names<A: Aggregate>() -> Vec<&'static str> {
    let names = A::Event::EVENTS.descriptors().iter().flat_map(|event| event.unique).filter(|unique| unique.takes);
    names.map(|unique| unique.name).collect::<BTreeSet<_>>().into_iter().collect()
}

fn declared<A: Aggregate>(name: &str) -> Option<UniqueName> {
    let mut declared = A::Event::EVENTS.descriptors().iter().flat_map(|event| event.unique);
    declared.find(|unique| unique.takes && unique.name == name).copied()
}

/// Returns the filter of the events that take or give back a value; `None` if there are none.
fn changing_events<A: Aggregate>() -> Option<FeedFilter> {
    let changing = A::Event::EVENTS.descriptors().iter().filter(|event| !event.unique.is_empty());
    let types: Vec<Name> = changing.flat_map(|event| event.event_types()).map(Name::from_static).collect();
    let of_aggregate = FeedFilter::all().aggregate_types([Name::from_static(A::AGGREGATE_TYPE)]);
    (!types.is_empty()).then(|| of_aggregate.event_types(types))
}
