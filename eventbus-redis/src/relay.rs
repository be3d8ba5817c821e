//! Publishing for relays: the record of a store moves in the script that adds its events.
//!
//! Invariant: each step is one script, which compares the record before its first write. A store's events between two
//! positions never change, so the relay repeats a step whose reply was lost.

use eventbus::{
    BoxError, EventId, Position,
    port::{MessageId, PublishError},
    relay::{PublishRange, PublishedPosition, RangeOutcome},
    support::check_range,
};
use redis::ScriptInvocation;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::{
    command::{
        self,
        pages::{self, EntryPage},
    },
    inner::BusInner,
    keys::{self, field},
    otel,
    publish::{self, error_type},
    reply::request,
    script,
    trace::{self, TraceCarrier},
    wire,
};

/// An event of a range that cannot be written to the stream.
#[derive(Debug, thiserror::Error)]
#[error("event {event_id} at position {position} cannot be published")]
struct Unpublishable {
    event_id: EventId,
    position: Position,
    source: BoxError,
}

/// The entries of a page that are searched for events of a store.
const PUBLISHED_PAGE_LEN: usize = 256;
/// The most pages in a row without one: the stream may be shared, and mostly of other stores.
const PUBLISHED_PAGES_MAX: usize = 1_000;

/// Index of the field with the store: after the fields of the shared wire format.
const STORE_FIELD_INDEX: usize = 7;

/// Publishes a range of a store to the stream.
pub(crate) async fn publish_range(
    bus: &BusInner,
    store: Uuid,
    range: PublishRange<'_>,
) -> Result<RangeOutcome, PublishError> {
    publish::ensure_publishing(bus)?;
    let span = if range.events.is_empty() { Span::none() } else { trace::publish_span(bus, range.events) };
    let outcome = publish_range_in_span(bus, &span, store, range).instrument(span.clone()).await;
    match &outcome {
        Ok(RangeOutcome::Published(ids)) => {
            bus.counters().events_published(ids.len() as u64);
            if let [id] = ids.as_slice() {
                otel::published(&span, id.as_str());
            }
        }
        Ok(_) => {}
        Err(error) => trace::record_error(&span, error_type(error)),
    }
    outcome
}

/// Returns the record of a store, if the server has one.
pub(crate) async fn published_position(bus: &BusInner, store: Uuid) -> Result<Option<PublishedPosition>, PublishError> {
    load_record(bus, store).await?.map(|record| parse_record(bus, &record)).transpose()
}

/// Returns the records of all stores.
pub(crate) async fn published_positions(bus: &BusInner) -> Result<Vec<(Uuid, PublishedPosition)>, PublishError> {
    publish::ensure_publishing(bus)?;
    let records = bus.connection().query_idempotent(&request("HGETALL", keys::relay(bus.stream()))).await;
    let records: Vec<(String, String)> = records.map_err(|error| publish::publish_error(bus, error))?;
    // other fields are notes about the stream
    let records = records.iter().filter_map(|(field, record)| Some((Uuid::try_parse(field).ok()?, record)));
    records.map(|(store, record)| Ok((store, parse_record(bus, record)?))).collect()
}

/// Sets the record of a store, unless it has moved from `from`; returns the record.
pub(crate) async fn set_position(
    bus: &BusInner,
    store: Uuid,
    from: Option<PublishedPosition>,
    to: PublishedPosition,
) -> Result<PublishedPosition, PublishError> {
    let found = load_record(bus, store).await?;
    let record = found.as_deref().map(|record| parse_record(bus, record)).transpose()?;
    if let Some(other) = record.filter(|record| Some(*record) != from) {
        return Ok(other);
    }
    let mut set = script::relay::SET_RECORD.key(keys::relay(bus.stream()));
    set.arg(store.to_string()).arg(found.unwrap_or_default()).arg(format!("{} -", record_text(to)));
    let record: String =
        bus.connection().run_idempotent(&set).await.map_err(|error| publish::publish_error(bus, error))?;
    parse_record(bus, &record)
}

/// Returns events of a store that the stream has before an entry, newest first; none at its beginning, or if the last 256,000
/// entries are of other stores.
pub(crate) async fn published_before(
    bus: &BusInner,
    store: Uuid,
    before: Option<&MessageId>,
) -> Result<Vec<(MessageId, PublishedPosition)>, PublishError> {
    publish::ensure_publishing(bus)?;
    let (store, mut before) = (store.to_string(), before.map(ToString::to_string));
    for _ in 0..PUBLISHED_PAGES_MAX {
        let page = pages::newest_before(bus.stream(), before.as_deref(), PUBLISHED_PAGE_LEN);
        let page: EntryPage =
            bus.connection().run_idempotent(&page).await.map_err(|error| publish::publish_error(bus, error))?;
        let Some(last) = page.entries.last() else { return Ok(Vec::new()) };
        before = Some(last.id.clone());
        let published = page.entries.iter().filter_map(|entry| {
            let fields = entry.field_refs()?;
            wire::flat_field(&fields, field::STORE).filter(|of| *of == store)?;
            let event = wire::decode(&fields).ok()?;
            let (position, event_id) = (event.position()?, Some(event.metadata().event_id()));
            Some((MessageId::new(&*entry.id), PublishedPosition { position, event_id }))
        });
        let published: Vec<_> = published.collect();
        if !published.is_empty() {
            return Ok(published);
        }
    }
    Ok(Vec::new())
}

/// Returns a store that has a record, unless `own` has one too.
pub(crate) async fn other_store(bus: &BusInner, own: Uuid) -> Result<Option<Uuid>, PublishError> {
    publish::ensure_publishing(bus)?;
    let fields = bus.connection().query_idempotent(&request("HKEYS", keys::relay(bus.stream()))).await;
    let fields: Vec<String> = fields.map_err(|error| publish::publish_error(bus, error))?;
    let stores: Vec<Uuid> = fields.iter().filter_map(|field| Uuid::try_parse(field).ok()).collect();
    Ok(if stores.contains(&own) { None } else { stores.first().copied() })
}

async fn load_record(bus: &BusInner, store: Uuid) -> Result<Option<String>, PublishError> {
    publish::ensure_publishing(bus)?;
    let load = request("HGET", (keys::relay(bus.stream()), store.to_string()));
    bus.connection().query_idempotent(&load).await.map_err(|error| publish::publish_error(bus, error))
}

/// Returns the position and event of a record, as `publish_range.lua` spells them.
fn record_text(record: PublishedPosition) -> String {
    let event_id = record.event_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    format!("{} {event_id}", record.position.get())
}

fn parse_record(bus: &BusInner, record: &str) -> Result<PublishedPosition, PublishError> {
    let mut words = record.split(' ');
    let position = words.next().and_then(|position| position.parse().ok()).map(Position::new);
    let event_id = words.next().and_then(|id| EventId::parse(id).ok());
    position
        .map(|position| PublishedPosition { position, event_id })
        .ok_or_else(|| unexpected_reply(bus, format!("the record of a store is `{record}`")))
}

async fn publish_range_in_span(
    bus: &BusInner,
    span: &Span,
    store: Uuid,
    range: PublishRange<'_>,
) -> Result<RangeOutcome, PublishError> {
    check_range(bus.destination(), range)?;
    let publish = publish_range_script(bus, span, store, range)?;
    let reply = bus.connection().run::<Vec<String>>(&publish).await;
    let reply = reply.map_err(|error| publish::publish_error_of(bus, error, range.events))?;
    match reply.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        Some(("published", ids)) => Ok(RangeOutcome::Published(ids.iter().map(|id| MessageId::new(&**id)).collect())),
        Some(("moved", [record])) => parse_record(bus, record).map(RangeOutcome::Moved),
        Some(("none", _)) => Ok(RangeOutcome::Lost),
        _ => Err(unexpected_reply(bus, reply)),
    }
}

fn publish_range_script(
    bus: &BusInner,
    span: &Span,
    store: Uuid,
    range: PublishRange<'_>,
) -> Result<ScriptInvocation<'static>, PublishError> {
    let carrier = TraceCarrier::for_span(bus, span);
    let store = store.to_string();
    let mut publish = script::relay::PUBLISH_RANGE.key(bus.stream());
    publish.key(keys::relay(bus.stream())).arg(&store);
    publish.arg(record_text(range.after)).arg(record_text(range.end()));
    for event in range.events {
        let (event_id, position) = (event.metadata().event_id(), event.position().unwrap_or_default());
        let refuse = |source| PublishError::Refused {
            destination: bus.destination().clone(),
            event_id: Some(event_id),
            source: Unpublishable { event_id, position, source }.into(),
        };
        let mut fields = publish::encode(bus, event, &carrier).map_err(refuse)?;
        fields.insert(STORE_FIELD_INDEX, (field::STORE, store.as_bytes().into()));
        publish.arg(record_text(PublishedPosition { position, event_id: Some(event_id) }));
        command::add_fields(&mut publish, &fields);
    }
    Ok(publish)
}

fn unexpected_reply(bus: &BusInner, reply: impl std::fmt::Debug) -> PublishError {
    let source = format!("unexpected reply of the server: {reply:?}").into();
    PublishError::OutcomeUnknown { destination: bus.destination().clone(), source }
}
