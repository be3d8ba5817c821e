//! The parameters of append statements: new events, and their tags, one array per column.

use eventbus::{NewEvent, StreamId, event::Tag, store::BoundaryCondition, support::TagUse};
use sqlx::{
    Encode, Postgres, Type,
    postgres::{PgBindIterExt as _, PgHasArrayType},
};
use uuid::Uuid;

use crate::{
    pool::Query,
    statements::{Claim, EventParameters, Statements},
};

/// Returns the statement that appends to one stream, with its parameters in the order of `append.sql`.
pub(crate) fn single_stream_append<'q>(
    statements: &Statements,
    stream: &'q StreamId,
    claim: Claim,
    events: &(impl Iterator<Item = &'q NewEvent> + Clone),
    lists_types: bool,
) -> Query<'q> {
    let mut all = events.clone();
    let query = match (all.next(), all.next()) {
        (Some(event), None) => {
            let query = statements.single_stream_append(claim, EventParameters::One, lists_types);
            bind_event(bind_stream(query, stream), event)
        }
        _ => {
            let query = statements.single_stream_append(claim, EventParameters::Arrays, lists_types);
            bind_events(bind_stream(query, stream), events)
        }
    };
    match claim {
        Claim::Exact(version) => query.bind(version.as_i64()),
        Claim::Any | Claim::Existing | Claim::New => query,
    }
}

/// Binds the identity of a stream as the first parameters, in the order of `is_stream.sql`.
pub(crate) fn bind_stream<'q>(query: Query<'q>, stream: &'q StreamId) -> Query<'q> {
    query.bind(stream.aggregate_id().as_str()).bind(stream.aggregate_type().as_str()).bind(stream.tenant_or_nil())
}

/// Binds the ten columns of an event, which `check_append` has passed.
fn bind_event<'q>(query: Query<'q>, event: &'q NewEvent) -> Query<'q> {
    query
        .bind(event.event_id().as_uuid())
        .bind(event.event_type().as_str())
        .bind(schema_version(event))
        .bind(event.occurred_at())
        .bind(event.payload())
        .bind(event.correlation_id())
        .bind(event.context().causation_id)
        .bind(event.context().actor_id.as_deref())
        .bind(attributes(event))
        .bind(event.original_recorded_at())
}

/// Binds the ten arrays of events, which `check_append` has passed.
pub(crate) fn bind_events<'q>(query: Query<'q>, events: &(impl Iterator<Item = &'q NewEvent> + Clone)) -> Query<'q> {
    query
        .bind(column(events, |event| event.event_id().as_uuid()))
        .bind(column(events, |event| event.event_type().as_str()))
        .bind(column(events, schema_version))
        .bind(column(events, NewEvent::occurred_at))
        .bind(column(events, NewEvent::payload))
        .bind(column(events, NewEvent::correlation_id))
        .bind(column(events, |event| event.context().causation_id))
        .bind(column(events, |event| event.context().actor_id.as_deref()))
        .bind(column(events, attributes))
        .bind(column(events, NewEvent::original_recorded_at))
}

fn schema_version(event: &NewEvent) -> i32 {
    i32::try_from(event.schema_version()).unwrap_or(i32::MAX)
}

/// Returns the attributes of an event as JSON; `None` if it has none.
fn attributes(event: &NewEvent) -> Option<&str> {
    let attributes = &event.context().attributes;
    (!attributes.is_empty()).then(|| attributes.as_json())
}

/// A tag with its tenant, and how an append uses it.
pub(crate) type UsedTag = ((Uuid, Tag), TagUse);

/// Binds the tags of events, the tags that the append counts or compares, in order, and the items of its condition.
pub(crate) fn bind_tags<'q>(
    query: Query<'q>,
    events: &(impl Iterator<Item = &'q NewEvent> + Clone),
    used: &'q [UsedTag],
    condition: Option<&'q BoundaryCondition>,
) -> Query<'q> {
    let tags_of = |event: &NewEvent| (!event.tags().is_empty()).then(|| array_text(event.tags()));
    let names = condition.into_iter().flat_map(|condition| condition.boundary.counted_names());
    let (mut items, mut tags) = (Vec::new(), Vec::new());
    if let Some(boundary) = condition.map(|condition| &condition.boundary) {
        let tenant = boundary.tenant_id.unwrap_or_default();
        for (item, of_item) in (1_i64..).zip(&boundary.items) {
            for wanted in of_item {
                let key = (tenant, wanted.clone());
                let place = used.binary_search_by(|(used, _)| used.cmp(&key));
                tags.extend(place.map(|place| place as i64 + 1));
                items.resize(tags.len(), item);
            }
        }
    }
    query
        .bind(column(events, tags_of))
        .bind(used.iter().map(|((_, tag), _)| tag.as_str()).collect::<Vec<_>>())
        .bind(used.iter().map(|((tenant, _), _)| *tenant).collect::<Vec<_>>())
        .bind(used.iter().map(|(_, tag_use)| counts_text(tag_use)).collect::<Vec<_>>())
        .bind(used.iter().map(|(_, tag_use)| tag_use.expected.map(as_count)).collect::<Vec<_>>())
        .bind(names.collect::<Vec<_>>())
        .bind(items)
        .bind(tags)
}

/// Returns a count as the server compares it; a count beyond the server's range becomes its highest number.
fn as_count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Returns tags as the text of an array: `{"course:c1"}`.
fn array_text(tags: &[Tag]) -> String {
    let quoted: Vec<_> = tags.iter().map(|tag| quoted(tag.as_str())).collect();
    format!("{{{}}}", quoted.join(","))
}

/// Returns the numbers of further events as JSON: `{"Enrolled":1}`. Names have no control characters to escape.
fn counts_text(tag_use: &TagUse) -> String {
    let counts: Vec<_> =
        tag_use.added.iter().map(|(name, count)| format!("{}:{count}", quoted(name.as_str()))).collect();
    format!("{{{}}}", counts.join(","))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

/// Returns an array with one value of each event, encoded without a copy.
fn column<'e, T>(
    events: &(impl Iterator<Item = &'e NewEvent> + Clone),
    value: impl Fn(&'e NewEvent) -> T,
) -> impl Encode<'e, Postgres> + Type<Postgres>
where
    T: Encode<'e, Postgres> + Type<Postgres> + PgHasArrayType,
{
    events.clone().map(value).bind_iter()
}
