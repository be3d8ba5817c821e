//! Spans of the runtime in OpenTelemetry's words, and traces that go on from an append over the relay and a handler to the
//! next append, also in other processes: the feature `opentelemetry`.
//!
//! Events carry the context of the append that stored them among their attributes.
//!
//! Invariant: attributes that only OpenTelemetry reads bypass `tracing`, whose fields precede each line of the log. The
//! kind of a span cannot: OpenTelemetry takes it when the span is created.

use opentelemetry::{
    Context, Value,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    domain::{context::EventContext, name::Name, record::RecordedEvent, stream::StreamId, trace_context::TraceContext},
    port::delivery::Delivery,
};

/// The most links of one span.
const LINKS_MAX: usize = 32;

/// Creates the span of an append, and makes its events continue the trace: `context` gets that of the span.
///
/// The span is a child of the current one. If the caller has attached a different trace to the events, such as that of
/// a request, the span is a part of that trace.
pub(crate) fn append(stream: impl FnOnce() -> Option<StreamId>, context: &mut EventContext) -> Span {
    let span = tracing::info_span!("append", otel.kind = "client", otel.status_code = Empty, error.type = Empty);
    if span.is_disabled() {
        return span;
    }
    if let Some(given) = TraceContext::from_attributes(&context.attributes)
        && context_of(&Span::current()).is_none_or(|current| current.trace_id() != given.trace_id())
    {
        set_parent(&span, &given);
    }
    set(&span, "db.operation.name", "append");
    if let Some(stream) = stream() {
        set(&span, "db.collection.name", stream.aggregate_type().to_string());
        set(&span, "eventbus.stream", stream.to_string());
    }
    stamp(&span, context);
    span
}

/// Makes events continue the trace of the current span.
pub(crate) fn continue_current(context: &mut EventContext) {
    stamp(&Span::current(), context);
}

/// Makes events continue the trace of a span: `context` gets that of the span, if it is part of a trace.
fn stamp(span: &Span, context: &mut EventContext) {
    let Some(trace) = context_of(span) else { return };
    let mut attributes = context.attributes.clone();
    if attributes.as_json().contains("trace") {
        let mut map = attributes.to_map();
        map.retain(|key, _| key != "traceparent" && key != "tracestate");
        attributes = map.into();
    }
    if let Some(attributes) = trace.append_to_attributes(&attributes) {
        context.attributes = attributes;
    }
}

/// Creates the span in which the relay publishes events.
pub(crate) fn relay(destination: &Name, events: &[RecordedEvent]) -> Span {
    let span = tracing::info_span!("relay", otel.status_code = Empty, error.type = Empty);
    if span.is_disabled() {
        return span;
    }
    follow_traces(&span, events);
    set(&span, "messaging.operation.name", "relay");
    set(&span, "messaging.destination.name", destination.to_string());
    set_batch_size(&span, events.len());
    span
}

/// Creates the span in which a projection handles events of its feed.
pub(crate) fn project(projection: &'static str, events: &[RecordedEvent]) -> Span {
    let span = tracing::info_span!("project", projection, otel.kind = "consumer", otel.status_code = Empty, error.type = Empty);
    if span.is_disabled() {
        return span;
    }
    follow_traces(&span, events);
    set(&span, "messaging.operation.name", "project");
    set(&span, "messaging.operation.type", "process");
    set_batch_size(&span, events.len());
    span
}

/// Creates the span of a rebuild.
pub(crate) fn rebuild(projection: &'static str) -> Span {
    tracing::info_span!("rebuild", projection, otel.status_code = Empty, error.type = Empty)
}

/// Describes the new span of a handler run in OpenTelemetry's words; the run continues the trace of the event.
pub(crate) fn describe_handling(span: &Span, delivery: &Delivery, handler: &Name) {
    if span.is_disabled() {
        return;
    }
    continue_trace_of(span, delivery.record());
    set(span, "messaging.system", "eventbus");
    set(span, "messaging.operation.name", "process");
    set(span, "messaging.operation.type", "process");
    set(span, "messaging.consumer.group.name", delivery.group().to_string());
    set(span, "messaging.message.conversation_id", delivery.metadata().correlation_id().to_string());
    set(span, "eventbus.handler", handler.to_string());
    if let Some(id) = delivery.message_id() {
        set(span, "messaging.message.id", id.to_string());
    }
}

/// Records in a span that it ended with an error.
pub(crate) fn record_error(span: &Span, error_type: &str) {
    span.record("otel.status_code", "ERROR").record("error.type", error_type);
}

/// Makes a span continue the trace of an event, if the event is part of one. Call it before the span has started.
pub fn continue_trace_of(span: &Span, event: &RecordedEvent) {
    if let Some(context) = TraceContext::from_event(event) {
        set_parent(span, &context);
    }
}

/// Returns the context with which other processes continue the trace of a span, if the span is part of one. The call starts
/// the span.
#[must_use]
pub fn context_of(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let span = context.span();
    let context = span.span_context();
    if !context.is_valid() {
        return None;
    }
    let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8());
    TraceContext::parse(&format!("00-{trace}-{span}-{flags:02x}"), Some(&context.trace_state().header()))
}

/// Makes a span a part of the traces of events: a child if they are of one trace, else it has links to them.
fn follow_traces(span: &Span, events: &[RecordedEvent]) {
    let mut contexts: Vec<TraceContext> = Vec::new();
    for context in events.iter().filter_map(TraceContext::from_event) {
        if contexts.contains(&context) {
            continue;
        }
        contexts.push(context);
        if contexts.len() == LINKS_MAX {
            break;
        }
    }
    let Some((first, more)) = contexts.split_first() else { return };
    if more.iter().all(|context| context.trace_id() == first.trace_id()) {
        return set_parent(span, first);
    }
    contexts.iter().filter_map(to_span_context).for_each(|context| span.add_link(context));
}

fn set_parent(span: &Span, parent: &TraceContext) {
    if let Some(parent) = to_span_context(parent)
        && let Err(error) = span.set_parent(Context::new().with_remote_span_context(parent))
    {
        tracing::debug!(%error, "a span does not continue the trace of its event");
    }
}

fn to_span_context(context: &TraceContext) -> Option<SpanContext> {
    let mut parts = context.parent().split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    let state = context.state().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    Some(SpanContext::new(trace, span, flags, true, state))
}

fn set_batch_size(span: &Span, events: usize) {
    if events > 1 {
        set(span, "messaging.batch.message_count", i64::try_from(events).unwrap_or(i64::MAX));
    }
}

fn set(span: &Span, name: &'static str, value: impl Into<Value>) {
    span.set_attribute(name, value);
}
