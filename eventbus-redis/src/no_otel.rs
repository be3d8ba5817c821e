//! Without the feature `opentelemetry` spans are known to `tracing` alone, and events keep the trace they came with.

use tracing::Span;

use crate::trace::TraceContext;

pub(crate) const fn context(_: &Span) -> Option<TraceContext> {
    None
}

pub(crate) const fn go_on(_: &Span, _: &TraceContext) {}
