//! Publishing: adds events in one round trip, all or none, and returns an id per event.
//!
//! Invariant: after a refused batch no later one is sent; it would overtake the refused one.

use eventbus::{
    BoxError, RecordedEvent,
    port::{MessageId, PublishError},
};
use redis::{RedisError, RedisResult};
use tracing::{Instrument, Span};

use crate::{
    command,
    connection::SharedConnection,
    error::{CommandError, boxed},
    inner::BusInner,
    otel, reply,
    trace::{self, TraceCarrier},
    wire,
};

/// The number of entries that one round trip adds: the server runs no other command meanwhile.
const PUBLISH_BATCH_MAX: usize = 10_000;

/// The server refuses an event for the length of a field.
#[derive(Debug, thiserror::Error)]
#[error("a field of the event is longer than the `proto-max-bulk-len` of the server")]
struct FieldTooLong {
    source: RedisError,
}

pub(crate) async fn publish(bus: &BusInner, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    ensure_publishing(bus)?;
    let span = trace::publish_span(bus, events);
    let published = publish_in_span(bus, &span, events).instrument(span.clone()).await;
    match &published {
        Ok(ids) if ids.len() == 1 => otel::published(&span, ids[0].as_str()),
        Ok(_) => {}
        Err(error) => trace::record_error(&span, error_type(error)),
    }
    published
}

async fn publish_in_span(
    bus: &BusInner,
    span: &Span,
    events: &[RecordedEvent],
) -> Result<Vec<MessageId>, PublishError> {
    let carrier = TraceCarrier::for_span(bus, span);
    let refused = |event: &RecordedEvent, source| {
        let event_id = Some(event.metadata().event_id());
        PublishError::Refused { destination: bus.destination().clone(), event_id, source }
    };
    let entries = events.iter().map(|event| encode(bus, event, &carrier).map_err(|source| refused(event, source)));
    let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
    add_entries(bus, &entries).await.map_err(|error| publish_error_of(bus, error, events))
}

pub(crate) fn ensure_publishing(bus: &BusInner) -> Result<(), PublishError> {
    match bus.consuming().is_closed() {
        true => Err(PublishError::ShutDown { destination: bus.destination().clone() }),
        false => Ok(()),
    }
}

/// Returns the fields of an event's entry, or the reason why it cannot be published.
pub(crate) fn encode<'a>(
    bus: &BusInner,
    event: &'a RecordedEvent,
    carrier: &TraceCarrier,
) -> Result<wire::EntryFields<'a>, BoxError> {
    if bus.config().readable_by_python {
        wire::require_readable_by_python(event)?;
    }
    let mut fields = wire::encode(event)?;
    carrier.inject(event, &mut fields);
    Ok(fields)
}

/// Adds entries in as few steps as possible, and returns their ids.
async fn add_entries(bus: &BusInner, entries: &[wire::EntryFields<'_>]) -> Result<Vec<MessageId>, CommandError> {
    let mut ids = Vec::with_capacity(entries.len());
    for together in entries.chunks(PUBLISH_BATCH_MAX) {
        let before = ids.len();
        let added = add_batch(bus.connection(), bus.stream(), together, &mut ids).await;
        bus.counters().events_published((ids.len() - before) as u64);
        match added {
            Err(error) if !ids.is_empty() => return Err(CommandError::Sent(partial_publish_error(ids.len(), &error))),
            added => added?,
        }
    }
    Ok(ids)
}

/// Adds entries in one step, all or none, and their ids to `ids`. If the server refuses some of them, because the ids of
/// the stream have run out, it has added those before.
pub(crate) async fn add_batch(
    link: &SharedConnection,
    stream: &str,
    entries: &[wire::EntryFields<'_>],
    ids: &mut Vec<MessageId>,
) -> Result<(), CommandError> {
    if let [entry] = entries {
        // never sent twice: that would publish twice
        ids.push(MessageId::new(link.query::<String>(&command::add(stream, entry, None)).await?));
        return Ok(());
    }
    let replies: Vec<RedisResult<String>> = link.query_all(&command::add_all(stream, entries)).await?;
    let mut refusal = None;
    for reply in replies {
        match reply {
            Ok(id) => ids.push(MessageId::new(id)),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    refusal.map_or(Ok(()), |error| Err(CommandError::Sent(error)))
}

/// As [`publish_error`], for a command with events: if an argument is longer than the server accepts, the event with
/// the longest field is refused.
pub(crate) fn publish_error_of(bus: &BusInner, error: CommandError, events: &[RecordedEvent]) -> PublishError {
    match error {
        CommandError::Sent(source) if reply::is_argument_too_long(&source) => PublishError::Refused {
            destination: bus.destination().clone(),
            event_id: events.iter().max_by_key(|event| longest_field(event)).map(|event| event.metadata().event_id()),
            source: FieldTooLong { source }.into(),
        },
        error => publish_error(bus, error),
    }
}

/// Returns the number of bytes of the longest field of an event's entry.
fn longest_field(event: &RecordedEvent) -> usize {
    let fields = wire::encode(event).unwrap_or_default();
    fields.iter().map(|(_, value)| value.len()).max().unwrap_or_default()
}

pub(crate) fn publish_error(bus: &BusInner, error: CommandError) -> PublishError {
    let destination = bus.destination().clone();
    let CommandError::Sent(error) = error else {
        return PublishError::Unavailable { destination, source: boxed(error) };
    };
    let (is_refusal, nothing_done) = (reply::is_refusal(&error), reply::is_not_executed(&error));
    let source = error.into();
    if is_refusal {
        PublishError::Refused { destination, event_id: None, source }
    } else if nothing_done {
        PublishError::Unavailable { destination, source }
    } else {
        PublishError::OutcomeUnknown { destination, source }
    }
}

/// Returns the `error.type` of a span.
pub(crate) const fn error_type(error: &PublishError) -> &'static str {
    match error {
        PublishError::Refused { .. } => "refused",
        PublishError::Unavailable { .. } => "unavailable",
        PublishError::OutcomeUnknown { .. } => "outcome_unknown",
        _ => "_OTHER",
    }
}

/// Builds the error for a publish whose first events were added and whose later ones were not.
pub(crate) fn partial_publish_error(published: usize, error: &CommandError) -> RedisError {
    std::io::Error::other(format!("{published} events were published, then: {error}")).into()
}
