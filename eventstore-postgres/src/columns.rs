//! The parameters of append statements: new events, one array per column.

use eventbus::{NewEvent, StreamId};

use crate::{pool::Query, statements::Claim};

/// Binds the parameters of an append to one stream, in the order of `append.sql`.
pub(crate) fn bind_claim<'q>(
    query: Query<'q>,
    stream: &'q StreamId,
    claim: Claim,
    events: &(impl Iterator<Item = &'q NewEvent> + Clone),
) -> Query<'q> {
    let query = bind_events(bind_stream(query, stream), events);
    match claim {
        Claim::Exact(version) => query.bind(version.as_i64()),
        Claim::Any | Claim::Existing | Claim::New => query,
    }
}

/// Binds the identity of a stream as the first parameters, in the order of `is_stream.sql`.
pub(crate) fn bind_stream<'q>(query: Query<'q>, stream: &'q StreamId) -> Query<'q> {
    query.bind(stream.aggregate_id().as_str()).bind(stream.aggregate_type().as_str()).bind(stream.tenant_or_nil())
}

/// Binds the ten arrays of events, which `check_append` has passed.
pub(crate) fn bind_events<'q>(query: Query<'q>, events: &(impl Iterator<Item = &'q NewEvent> + Clone)) -> Query<'q> {
    query
        .bind(column(events, |event| event.event_id().as_uuid()))
        .bind(column(events, |event| event.event_type().as_str()))
        .bind(column(events, |event| i32::try_from(event.schema_version()).unwrap_or(i32::MAX)))
        .bind(column(events, NewEvent::occurred_at))
        .bind(column(events, NewEvent::payload))
        .bind(column(events, NewEvent::correlation_id))
        .bind(column(events, |event| event.context().causation_id))
        .bind(column(events, |event| event.context().actor_id.as_deref()))
        .bind(column(events, |event| {
            let attributes = &event.context().attributes;
            (!attributes.is_empty()).then(|| attributes.as_json())
        }))
        .bind(column(events, NewEvent::original_recorded_at))
}

fn column<'e, T>(events: &(impl Iterator<Item = &'e NewEvent> + Clone), value: impl Fn(&'e NewEvent) -> T) -> Vec<T> {
    events.clone().map(value).collect()
}
