//! Publishing for relays: the position of a store moves in the script that adds its events.
//!
//! Invariant: each step is one script, which checks all conditions before its first write. A store's events between two
//! positions never change, so the relay repeats a step whose reply was lost.

mod partitions;

use eventbus::{
    BoxError, EventId, Name, Position,
    port::{MessageId, PublishError},
    relay::{
        GroupFloor, GroupFloors, PublishRange, PublishedPosition, Publisher, RangeOutcome, ResyncOutcome, ResyncRequest,
    },
    support::check_range,
};
use redis::ScriptInvocation;
use tracing::{Instrument, Span};
use uuid::Uuid;

use self::partitions::merge_outcomes;
use crate::{
    command,
    inner::BusInner,
    keys::{self, field},
    otel,
    partition::layout,
    publish::{self, error_type},
    reply::request,
    script,
    trace::{self, TraceCarrier},
};

/// An event of a range that cannot be written to the stream.
#[derive(Debug, thiserror::Error)]
#[error("event {event_id} at position {position} cannot be published")]
struct Unpublishable {
    event_id: EventId,
    position: Position,
    source: BoxError,
}

/// Index of the field with the store: after the fields of the shared wire format.
pub(crate) const STORE_FIELD_INDEX: usize = 7;

/// Publishes a range of a store to the stream, or to the partitions.
pub(crate) async fn publish_range(
    bus: &BusInner,
    publisher: Publisher,
    range: PublishRange<'_>,
) -> Result<RangeOutcome, PublishError> {
    match bus.partitions().is_empty() {
        true => publish_to_stream(bus, publisher, range, last_event_id(range)).await,
        false => partitions::publish_by_partition(bus, publisher, range).await,
    }
}

/// Resyncs each partition; returns the merged outcome.
pub(crate) async fn resync(
    bus: &BusInner,
    publisher: Publisher,
    request: ResyncRequest<'_>,
) -> Result<ResyncOutcome, PublishError> {
    let mut all = None;
    for part in bus.partitions_or_self() {
        all = Some(merge_outcomes(all, resync_stream(part, publisher, request).await?));
    }
    Ok(all.unwrap_or(ResyncOutcome::Moved(request.floor)))
}

/// Returns the published position of each partition that has one.
pub(crate) async fn published_positions(
    bus: &BusInner,
    publisher: Publisher,
) -> Result<Vec<PublishedPosition>, PublishError> {
    let mut published_positions = Vec::new();
    for part in bus.partitions_or_self() {
        published_positions.extend(published_position(part, publisher).await?);
    }
    Ok(published_positions)
}

/// Returns a store that has a record in a partition, unless `own` has one too.
pub(crate) async fn other_store(bus: &BusInner, own: Uuid) -> Result<Option<Uuid>, PublishError> {
    publish::ensure_publishing(bus)?;
    let mut other = None;
    for part in bus.partitions_or_self() {
        let fields = bus.connection().query_idempotent(&request("HKEYS", keys::relay(part.stream()))).await;
        let fields: Vec<String> = fields.map_err(|error| publish::publish_error(bus, error))?;
        let stores: Vec<Uuid> = fields.iter().filter_map(|field| Uuid::try_parse(field).ok()).collect();
        if stores.contains(&own) {
            return Ok(None);
        }
        other = other.or(stores.first().copied());
    }
    Ok(other)
}

/// Returns the low-water marks of the groups; with several partitions, the lowest one of each group.
pub(crate) async fn group_floors(
    bus: &BusInner,
    publisher: Publisher,
    known: &[Name],
) -> Result<GroupFloors, PublishError> {
    match bus.partitions().is_empty() {
        true => group_floors_of_stream(bus, publisher, known).await,
        false => partitions::group_floors_by_partition(bus, publisher, known).await,
    }
}

/// Rewinds each partition; returns the merged outcome.
pub(crate) async fn rewind(bus: &BusInner, publisher: Publisher, to: Position) -> Result<ResyncOutcome, PublishError> {
    let mut all = None;
    for part in bus.partitions_or_self() {
        all = Some(merge_outcomes(all, rewind_stream(part, publisher, to).await?));
    }
    Ok(all.unwrap_or(ResyncOutcome::Moved(to)))
}

/// Prepares a script with the keys and the first argument that all relay scripts have.
fn relay_script(script: &'static redis::Script, bus: &BusInner, publisher: Publisher) -> ScriptInvocation<'static> {
    let mut step = script.key(bus.stream());
    step.key(keys::relay(bus.stream())).arg(publisher.store.to_string());
    step
}

/// Parses the low-water mark of a group.
fn parse_group_floor(reply: &[Vec<u8>]) -> Option<(Name, GroupFloor)> {
    let group = Name::new("group", str::from_utf8(&reply[0]).ok()?).ok()?;
    let floor = match (reply[1].as_slice(), parse_position(&reply[2])) {
        (b"at", Some(position)) => GroupFloor::At(position),
        (b"missing", _) => GroupFloor::Missing,
        (b"hole", _) => GroupFloor::Gap,
        _ => GroupFloor::Unknown,
    };
    Some((group, floor))
}

fn parse_position(text: &[u8]) -> Option<Position> {
    str::from_utf8(text).ok()?.parse().ok().map(Position::new)
}

/// Returns the event at the end position of a range, if there is one.
fn last_event_id(range: PublishRange<'_>) -> Option<EventId> {
    let last = range.events.last()?;
    (last.position() == Some(range.through)).then(|| last.metadata().event_id())
}

async fn resync_stream(
    bus: &BusInner,
    publisher: Publisher,
    request: ResyncRequest<'_>,
) -> Result<ResyncOutcome, PublishError> {
    let mut resync = relay_script(&script::relay::RESYNC, bus, publisher);
    resync.key(keys::floors(bus.stream()));
    resync.arg(publisher.epoch).arg(request.floor.get()).arg(u8::from(request.is_shared));
    for group in request.groups {
        resync.arg(group.as_str()).arg(u8::from(request.new_groups.contains(group)));
    }
    parse_resync_reply(bus, &run_relay_script(bus, &resync).await?)
}

async fn published_position(bus: &BusInner, publisher: Publisher) -> Result<Option<PublishedPosition>, PublishError> {
    let reply = run_relay_script(bus, &relay_script(&script::relay::PUBLISHED_POSITION, bus, publisher)).await?;
    match split_reply(&reply) {
        ("at", [at, id]) => match parse_position(at.as_bytes()) {
            Some(position) => Ok(Some(PublishedPosition { position, event_id: EventId::parse(id).ok() })),
            None => Err(unexpected_reply(bus, reply)),
        },
        _ => Ok(None),
    }
}

async fn group_floors_of_stream(
    bus: &BusInner,
    publisher: Publisher,
    known: &[Name],
) -> Result<GroupFloors, PublishError> {
    let mut query = relay_script(&script::relay::GROUP_FLOORS, bus, publisher);
    query.key(keys::floors(bus.stream())).arg(publisher.epoch);
    for group in known {
        query.arg(group.as_str());
    }
    publish::ensure_publishing(bus)?;
    let reply: Vec<Vec<u8>> =
        bus.connection().run_idempotent(&query).await.map_err(|error| publish::publish_error(bus, error))?;
    match reply.split_first() {
        Some((word, groups)) if word == b"groups" => {
            Ok(GroupFloors::Groups(groups.chunks_exact(3).filter_map(parse_group_floor).collect()))
        }
        Some((word, _)) if word == b"lost" => Ok(GroupFloors::Lost),
        _ => Err(unexpected_reply(bus, &reply)),
    }
}

async fn rewind_stream(bus: &BusInner, publisher: Publisher, to: Position) -> Result<ResyncOutcome, PublishError> {
    let mut rewind = relay_script(&script::relay::REWIND, bus, publisher);
    rewind.arg(publisher.epoch).arg(to.get());
    parse_resync_reply(bus, &run_relay_script(bus, &rewind).await?)
}

/// Publishes a range, or this partition's share of one. `last` is the event at its end.
async fn publish_to_stream(
    bus: &BusInner,
    publisher: Publisher,
    range: PublishRange<'_>,
    last: Option<EventId>,
) -> Result<RangeOutcome, PublishError> {
    publish::ensure_publishing(bus)?;
    let span = if range.events.is_empty() { Span::none() } else { trace::publish_span(bus, range.events) };
    let outcome = publish_range_in_span(bus, &span, publisher, range, last).instrument(span.clone()).await;
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

async fn publish_range_in_span(
    bus: &BusInner,
    span: &Span,
    publisher: Publisher,
    range: PublishRange<'_>,
    last: Option<EventId>,
) -> Result<RangeOutcome, PublishError> {
    check_range(bus.destination(), range)?;
    let carrier = TraceCarrier::for_span(bus, span);
    let script =
        if bus.is_partition() { &script::relay::PUBLISH_RANGE_TO_PARTITION } else { &script::relay::PUBLISH_RANGE };
    let mut publish = relay_script(script, bus, publisher);
    publish.arg(publisher.epoch).arg(range.after.get()).arg(range.through.get());
    publish.arg(last.map_or_else(|| "-".into(), |id| id.to_string()));
    let store = publisher.store.to_string();
    for event in range.events {
        let (event_id, position) = (event.metadata().event_id(), event.position().unwrap_or_default());
        let refuse = |source| PublishError::Refused {
            destination: bus.destination().clone(),
            event_id: Some(event_id),
            source: Unpublishable { event_id, position, source }.into(),
        };
        let mut fields = publish::encode(bus, event, &carrier).map_err(refuse)?;
        fields.insert(STORE_FIELD_INDEX, (field::STORE, store.as_bytes().into()));
        publish.arg(position.get());
        command::add_fields(&mut publish, &fields);
    }
    let reply = match bus.is_partition() {
        true => {
            layout::add_layout_arguments(bus, &mut publish);
            layout::add_to_partitions::<Vec<String>>(bus, &publish).await
        }
        false => bus.connection().run::<Vec<String>>(&publish).await,
    };
    let reply = reply.map_err(|error| publish::publish_error_of(bus, error, range.events))?;
    match split_reply(&reply) {
        ("published", ids) => Ok(RangeOutcome::Published(ids.iter().map(|id| MessageId::new(&**id)).collect())),
        ("moved", [at]) if let Some(at) = parse_position(at.as_bytes()) => Ok(RangeOutcome::Moved(at)),
        ("fenced", _) => Ok(RangeOutcome::Fenced),
        ("lost", _) => Ok(RangeOutcome::Lost),
        _ => Err(unexpected_reply(bus, reply)),
    }
}

/// Runs a script that may run twice, and returns its reply as words.
async fn run_relay_script(bus: &BusInner, step: &ScriptInvocation<'_>) -> Result<Vec<String>, PublishError> {
    publish::ensure_publishing(bus)?;
    bus.connection().run_idempotent(step).await.map_err(|error| publish::publish_error(bus, error))
}

fn parse_resync_reply(bus: &BusInner, reply: &[String]) -> Result<ResyncOutcome, PublishError> {
    let outcome = match split_reply(reply) {
        ("at", [at]) => parse_position(at.as_bytes()).map(ResyncOutcome::At),
        ("moved", [at]) => parse_position(at.as_bytes()).map(ResyncOutcome::Moved),
        ("other", [store]) => Uuid::try_parse(store).ok().map(ResyncOutcome::OtherStore),
        ("fenced", _) => Some(ResyncOutcome::Fenced),
        _ => None,
    };
    outcome.ok_or_else(|| unexpected_reply(bus, reply))
}

fn unexpected_reply(bus: &BusInner, reply: impl std::fmt::Debug) -> PublishError {
    let source = format!("unexpected reply of the server: {reply:?}").into();
    PublishError::OutcomeUnknown { destination: bus.destination().clone(), source }
}

/// Splits a reply into its first word and the rest.
fn split_reply(reply: &[String]) -> (&str, &[String]) {
    reply.split_first().map_or(("", &[]), |(word, others)| (word, others))
}
