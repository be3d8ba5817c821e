//! From the spans of `tracing` to the traces of OpenTelemetry, and back.

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::trace::TraceContext;

/// What others need to go on with the trace of a span, if it is part of one.
pub(crate) fn context(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let span = context.span();
    let context = span.span_context();
    if !context.is_valid() {
        return None;
    }
    let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8());
    let state = Some(context.trace_state().header()).filter(|state| !state.is_empty());
    Some(TraceContext { parent: format!("00-{trace}-{span}-{flags:02x}"), state })
}

/// Has a span go on with the trace of an event.
pub(crate) fn go_on(span: &Span, context: &TraceContext) {
    if let Some(parent) = parse(context)
        && let Err(error) = span.set_parent(Context::new().with_remote_span_context(parent))
    {
        tracing::debug!(%error, "a span does not go on with the trace of its event");
    }
}

fn parse(TraceContext { parent, state }: &TraceContext) -> Option<SpanContext> {
    let mut parts = parent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    let state = state.as_ref().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    Some(SpanContext::new(trace, span, flags, true, state))
}
