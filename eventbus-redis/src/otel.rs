//! The spans of the Redis bus in OpenTelemetry's words for messaging, and traces that continue from process to process.
//!
//! Invariant: attributes that only OpenTelemetry reads bypass `tracing`, whose fields precede each line of the log. The
//! kind of a span cannot: OpenTelemetry takes it when the span is created.

pub(crate) use eventbus::support::spans::context_of as context;
use eventbus::{Name, RecordedEvent, handler::Delivery, support::spans};
use opentelemetry::{Value, trace::TraceContextExt};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::inner::BusInner;

/// Creates the span of one `publish` call.
pub(crate) fn publish(bus: &BusInner, events: &[RecordedEvent]) -> Span {
    let span = tracing::info_span!("publish", otel.kind = "producer", otel.status_code = Empty, error.type = Empty);
    if span.is_disabled() {
        return span;
    }
    describe(&span, bus, "publish", "send");
    match events {
        [event] => conversation(&span, event),
        _ => set(&span, "messaging.batch.message_count", i64::try_from(events.len()).unwrap_or(i64::MAX)),
    }
    set_span_name(&span, bus, "publish");
    span
}

/// Records the id of the one event that the call published.
pub(crate) fn published(span: &Span, id: &str) {
    set(span, "messaging.message.id", id.to_owned());
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
    describe(&span, bus, "process", "process");
    set(&span, "messaging.consumer.group.name", delivery.group().to_string());
    if let Some(id) = delivery.message_id() {
        set(&span, "messaging.message.id", id.to_string());
    }
    conversation(&span, delivery.record());
    spans::continue_trace_of(&span, delivery.record());
    set_span_name(&span, bus, "process");
    span
}

fn describe(span: &Span, bus: &BusInner, operation: &'static str, kind: &'static str) {
    set(span, "messaging.system", "redis");
    set(span, "messaging.operation.name", operation);
    set(span, "messaging.operation.type", kind);
    set(span, "messaging.destination.name", bus.stream().to_owned());
    set(span, "messaging.client.id", bus.consumer_name().to_owned());
    let (host, port) = bus.connection().endpoint();
    if let Some(host) = host {
        set(span, "server.address", host.to_owned());
    }
    if let Some(port) = port {
        set(span, "server.port", i64::from(port));
    }
}

fn conversation(span: &Span, event: &RecordedEvent) {
    set(span, "messaging.message.conversation_id", event.metadata().correlation_id().to_string());
}

fn set(span: &Span, name: &'static str, value: impl Into<Value>) {
    span.set_attribute(name, value);
}

/// Sets the name that traces show. The call also starts the span, so its parent must be set before.
fn set_span_name(span: &Span, bus: &BusInner, operation: &str) {
    span.context().span().update_name(format!("{operation} {}", bus.stream()));
}
