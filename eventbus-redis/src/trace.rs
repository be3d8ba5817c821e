//! The trace context of an event, and the spans of publishing and handling.
//!
//! Invariant: with `enable_tracing = false` entries carry no context, and only `tracing` sees the spans. An invalid
//! context of another publisher counts as none.

use eventbus::{Name, RecordedEvent, delivery::handler_span, handler::Delivery, support::TraceContext};
use tracing::Span;

use crate::{inner::BusInner, otel, trace_context, wire};

/// Creates the span of one `publish` call.
pub(crate) fn publish_span(bus: &BusInner, events: &[RecordedEvent]) -> Span {
    if bus.config().enable_tracing { otel::publish(bus, events) } else { Span::none() }
}

/// Creates the span of one handler run; it continues the trace of the event.
pub(crate) fn delivery_span(bus: &BusInner, delivery: &Delivery, handler: &Name) -> Span {
    if bus.config().enable_tracing { otel::handle(bus, delivery, handler) } else { handler_span(delivery, handler) }
}

/// Records in a span that it ended with an error.
pub(crate) fn record_error(span: &Span, error_type: &str) {
    span.record("otel.status_code", "ERROR").record("error.type", error_type);
}

/// The trace context for the entries of one `publish` call.
pub(crate) struct TraceCarrier {
    /// The context of the span, if it has one; the outer `None` if tracing is off.
    current: Option<Option<TraceContext>>,
}

impl TraceCarrier {
    pub(crate) fn for_span(bus: &BusInner, span: &Span) -> Self {
        Self { current: bus.config().enable_tracing.then(|| otel::context(span)) }
    }

    /// Adds a context to the entry of an event: the one attached to the event, else the span's.
    pub(crate) fn inject(&self, event: &RecordedEvent, fields: &mut wire::EntryFields<'_>) {
        if let Some(current) = &self.current
            && let Some(context) = TraceContext::from_event(event).or_else(|| current.clone())
        {
            trace_context::append_to_fields(&context, fields);
        }
    }
}

/// Returns the event for its handlers: with the context of its entry attached, unless it has one of its own.
pub(crate) fn attach(bus: &BusInner, event: RecordedEvent, fields: &[(&[u8], &[u8])]) -> RecordedEvent {
    if !bus.config().enable_tracing {
        return event;
    }
    let Some(context) = trace_context::from_fields(fields).filter(|_| TraceContext::from_event(&event).is_none())
    else {
        return event;
    };
    let attributes = context.append_to_attributes(event.metadata().attributes());
    event.with_attributes(attributes)
}
