//! The spans of the Redis bus, by OpenTelemetry's conventions for messaging, and traces that continue from process to
//! process.
//!
//! Invariant: attributes that only OpenTelemetry reads bypass `tracing`, whose fields precede each line of the log. The
//! kind of a span cannot: OpenTelemetry reads it when the span is created. The attributes are computed only for spans
//! that the sampler has chosen.

pub(crate) use eventbus::support::spans::context_of as context;
use eventbus::{Name, RecordedEvent, handler::Delivery, support::spans};
use opentelemetry::{KeyValue, trace::TraceContextExt};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::inner::BusInner;

/// Creates the span of one `publish` call.
pub(crate) fn publish(bus: &BusInner, events: &[RecordedEvent]) -> Span {
    let span = tracing::info_span!("publish", otel.kind = "producer", otel.status_code = Empty, error.type = Empty);
    if span.is_disabled() {
        return span;
    }
    start(&span, bus, "publish", "send", || {
        Some(match events {
            [event] => conversation(event),
            _ => KeyValue::new("messaging.batch.message_count", i64::try_from(events.len()).unwrap_or(i64::MAX)),
        })
    });
    span
}

/// Records the id of the one event that the call published.
pub(crate) fn published(span: &Span, id: &str) {
    let context = span.context();
    if context.span().is_recording() {
        context.span().set_attribute(KeyValue::new("messaging.message.id", id.to_owned()));
    }
}

/// Creates the span of one handler run; it continues the trace of the event.
pub(crate) fn handle(bus: &BusInner, delivery: &Delivery, handler: &Name) -> Span {
    let metadata = delivery.metadata();
    // the fields of `delivery::handler_span` first
    let span = tracing::error_span!(
        "handle",
        group = %delivery.group(),
        %handler,
        event = %metadata.event_type(),
        aggregate = %metadata.stream(),
        otel.kind = "consumer",
        otel.status_code = Empty,
        error.type = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    spans::continue_trace_of(&span, delivery.record());
    start(&span, bus, "process", "process", || {
        let group = KeyValue::new("messaging.consumer.group.name", delivery.group().as_str().to_owned());
        let id = delivery.message_id().map(|id| KeyValue::new("messaging.message.id", id.as_str().to_owned()));
        [group, conversation(delivery.record())].into_iter().chain(id)
    });
    span
}

/// Starts a span, whose parent is set; describes it and sets the name that traces show, if the sampler has chosen the
/// span.
fn start<I: IntoIterator<Item = KeyValue>>(
    span: &Span,
    bus: &BusInner,
    operation: &'static str,
    kind: &'static str,
    more: impl FnOnce() -> I,
) {
    let context = spans::start(span, || {
        let attributes = [
            KeyValue::new("messaging.system", "redis"),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.operation.type", kind),
            KeyValue::new("messaging.destination.name", bus.stream().to_owned()),
            KeyValue::new("messaging.client.id", bus.consumer_name().to_owned()),
        ];
        let (host, port) = bus.connection().endpoint();
        let host = host.map(|host| KeyValue::new("server.address", host.to_owned()));
        let port = port.map(|port| KeyValue::new("server.port", i64::from(port)));
        attributes.into_iter().chain(host).chain(port).chain(more())
    });
    let started = context.span();
    if started.is_recording() {
        started.update_name([operation, " ", bus.stream()].concat());
    }
}

fn conversation(event: &RecordedEvent) -> KeyValue {
    KeyValue::new("messaging.message.conversation_id", event.metadata().correlation_id().to_string())
}
