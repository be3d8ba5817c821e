//! Spans without the feature `opentelemetry`: only `tracing` sees them, and events keep the trace context that they
//! have.

use eventbus::{Name, RecordedEvent, delivery::handler_span, handler::Delivery, support::TraceContext};
use tracing::Span;

use crate::inner::BusInner;

pub(crate) fn publish(_: &BusInner, _: &[RecordedEvent]) -> Span {
    Span::none()
}

pub(crate) fn handle(_: &BusInner, delivery: &Delivery, handler: &Name) -> Span {
    handler_span(delivery, handler)
}

pub(crate) const fn published(_: &Span, _: &str) {}

pub(crate) const fn context(_: &Span) -> Option<TraceContext> {
    None
}
