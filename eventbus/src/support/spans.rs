//! Spans of the runtime in OpenTelemetry's words, and traces that continue from an append through the relay and a
//! handler to the next append, also in other processes: the feature `opentelemetry`.
//!
//! Events carry the context of the append that stored them among their attributes.
//!
//! Invariant: attributes that only OpenTelemetry reads bypass `tracing`, whose fields precede each line of the log. The
//! kind of a span cannot: OpenTelemetry takes it when the span is created. The attributes are made only for spans that
//! the sampler has chosen. So a sampler sees the name, the kind and the parent of a span, but only those attributes
//! that are in the log.

use std::{io::Write as _, mem, time::SystemTime};

use opentelemetry::{
    Context, KeyValue,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use time::OffsetDateTime;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    domain::{
        attributes::Attributes,
        context::EventContext,
        name::Name,
        record::RecordedEvent,
        stream::StreamId,
        trace_context::{TraceContext, ids_of, is_state},
    },
    port::{ReadError, delivery::Delivery},
};

/// The most links of one span.
const LINKS_MAX: usize = 32;

/// The bytes of a `traceparent`.
const PARENT_BYTES: usize = 55;

/// Creates the span of an append, and makes its events continue the trace: `context` gets the trace of the span.
///
/// The span is a child of the current one. If the caller has attached a different trace to the events, such as that of
/// a request, the span is a part of that trace.
pub(crate) fn append(stream: impl FnOnce() -> Option<StreamId>, context: &mut EventContext) -> Span {
    let span = tracing::info_span!("append", otel.kind = "client", otel.status_code = Empty, error.type = Empty);
    if span.is_disabled() {
        return span;
    }
    let given =
        span_in(&context.attributes, |trace, _| Span::current().context().span().span_context().trace_id() == trace);
    if let Some(given) = given {
        set_parent(&span, given);
    }
    let started = start(&span, || {
        let stream = stream().map(|stream| {
            [
                KeyValue::new("db.collection.name", stream.aggregate_type().as_str().to_owned()),
                KeyValue::new("eventbus.stream", stream.to_string()),
            ]
        });
        [KeyValue::new("db.operation.name", "append")].into_iter().chain(stream.into_iter().flatten())
    });
    stamp(&started, context);
    span
}

/// Makes events continue the trace of the current span.
pub(crate) fn continue_current(context: &mut EventContext) {
    stamp(&Span::current().context(), context);
}

/// Makes events continue the trace of a span, if it is part of one: `context` gets it.
fn stamp(span: &Context, context: &mut EventContext) {
    let stamped = headers_of(span, |parent, state| context.attributes.with_trace(parent, state));
    if let Some(attributes) = stamped {
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
    start(&span, || {
        let attributes = [
            KeyValue::new("messaging.operation.name", "relay"),
            KeyValue::new("messaging.destination.name", destination.as_str().to_owned()),
        ];
        attributes.into_iter().chain(batch_size(events.len()))
    });
    span
}

/// Creates the span in which a projection handles events of its feed.
pub(crate) fn project(projection: &'static str, events: &[RecordedEvent]) -> Span {
    let span = tracing::info_span!("project", projection, otel.kind = "consumer", otel.status_code = Empty, error.type = Empty);
    if span.is_disabled() {
        return span;
    }
    follow_traces(&span, events);
    start(&span, || {
        let attributes = [
            KeyValue::new("messaging.operation.name", "project"),
            KeyValue::new("messaging.operation.type", "process"),
        ];
        attributes.into_iter().chain(batch_size(events.len()))
    });
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
    start(span, || {
        let attributes = [
            KeyValue::new("messaging.system", "eventbus"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.consumer.group.name", delivery.group().as_str().to_owned()),
            KeyValue::new("messaging.message.conversation_id", delivery.metadata().correlation_id().to_string()),
            KeyValue::new("eventbus.handler", handler.as_str().to_owned()),
        ];
        let id = delivery.message_id().map(|id| KeyValue::new("messaging.message.id", id.as_str().to_owned()));
        attributes.into_iter().chain(id)
    });
}

/// The span of a read of the feed, by the relay, a projection or a follower. It ends when the value is dropped.
///
/// The events that were read determine its parent, so it is not entered before they are known. A read without events
/// leaves no span: each append also makes readers read whose filters exclude its events.
pub(crate) struct FeedRead {
    span: Span,
    /// Set if there is a span.
    reader: Option<Name>,
    /// Set for a reader that begins with old events: the traces of those recorded before this time have ended.
    since: Option<OffsetDateTime>,
    /// The spans that the events continue, at most [`LINKS_MAX`].
    traces: Vec<SpanContext>,
    events: usize,
    /// Set if the read leaves a span: it found an event that is not old, or failed.
    is_kept: bool,
    /// When the first event or the error was there.
    ended_at: Option<SystemTime>,
}

impl FeedRead {
    /// Begins the span of a read by `reader`, which is one of the readers that the program declares.
    pub(crate) fn begin(reader: impl FnOnce() -> Name) -> Self {
        let span = tracing::info_span!("read_feed", otel.kind = "client", otel.status_code = Empty, error.type = Empty);
        let reader = (!span.is_disabled()).then(reader);
        Self { span, reader, since: None, traces: Vec::new(), events: 0, is_kept: false, ended_at: None }
    }

    /// Returns the value for a read that has no span.
    pub(crate) const fn none() -> Self {
        Self {
            span: Span::none(),
            reader: None,
            since: None,
            traces: Vec::new(),
            events: 0,
            is_kept: false,
            ended_at: None,
        }
    }

    /// Leaves no span if all events of the read were recorded before this time.
    pub(crate) fn since(mut self, since: Option<OffsetDateTime>) -> Self {
        self.since = since;
        self
    }

    /// Adds an event that the read returned. The first one ends the time that the span shows.
    pub(crate) fn add(&mut self, event: &RecordedEvent) {
        if self.span.is_disabled() {
            return;
        }
        self.set_end();
        self.events += 1;
        let is_old = self.since.zip(event.metadata().recorded_at()).is_some_and(|(since, at)| at < since);
        if !is_old {
            self.is_kept = true;
            add_trace(&mut self.traces, event);
        }
    }

    /// Records that the read failed.
    pub(crate) fn fail(&mut self, error: &ReadError) {
        if self.span.is_disabled() {
            return;
        }
        self.set_end();
        self.is_kept = true;
        let error_type = match error {
            ReadError::Unavailable(_) => "unavailable",
            ReadError::NoStore => "no_store",
            ReadError::Corrupt { .. } => "corrupt",
        };
        record_error(&self.span, error_type);
    }

    fn set_end(&mut self) {
        // the machine's time, of which OpenTelemetry takes the start of a span
        self.ended_at.get_or_insert_with(SystemTime::now);
    }
}

impl Drop for FeedRead {
    fn drop(&mut self) {
        if self.span.is_disabled() {
            return;
        }
        let Some(ended_at) = self.ended_at.filter(|_| self.is_kept) else {
            // a span cannot be taken back; below this parent OpenTelemetry creates none, whatever the sampler
            let _ = self.span.set_parent(Context::new().with_telemetry_suppressed());
            return;
        };
        follow(&self.span, mem::take(&mut self.traces));
        let started = start(&self.span, || {
            let reader =
                self.reader.as_ref().map(|reader| KeyValue::new("eventbus.reader", reader.as_str().to_owned()));
            let operation = KeyValue::new("db.operation.name", "read_feed");
            [operation].into_iter().chain(reader).chain(batch_size(self.events))
        });
        started.span().end_with_timestamp(ended_at);
    }
}

/// Records in a span that it ended with an error.
pub(crate) fn record_error(span: &Span, error_type: &str) {
    span.record("otel.status_code", "ERROR").record("error.type", error_type);
}

/// Makes a span continue the trace of an event, if the event is part of one. Call it before the span has started.
pub fn continue_trace_of(span: &Span, event: &RecordedEvent) {
    if let Some(parent) = span_in(event.metadata().attributes(), |_, _| false) {
        set_parent(span, parent);
    }
}

/// Returns the context with which other processes continue the trace of a span, if the span is part of one. The call starts
/// the span.
#[must_use]
pub fn context_of(span: &Span) -> Option<TraceContext> {
    headers_of(&span.context(), |parent, state| TraceContext::parse(parent.to_owned(), state)).flatten()
}

/// Calls `take` with the values of `traceparent` and `tracestate` that continue a span, if it is part of a trace.
fn headers_of<T>(context: &Context, take: impl FnOnce(&str, Option<&str>) -> T) -> Option<T> {
    let span = context.span();
    let context = span.span_context();
    if !context.is_valid() {
        return None;
    }
    let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags());
    let mut parent = [0_u8; PARENT_BYTES];
    write!(&mut parent[..], "00-{trace}-{span}-{flags:02x}").ok()?;
    let state = context.trace_state().header();
    let state = Some(state.as_str()).filter(|state| is_state(state));
    std::str::from_utf8(&parent).ok().map(|parent| take(parent, state))
}

/// Starts a span, whose parent is set, and returns its context; adds the attributes if the sampler has chosen the span.
pub fn start<I: IntoIterator<Item = KeyValue>>(span: &Span, attributes: impl FnOnce() -> I) -> Context {
    let context = span.context();
    let started = context.span();
    if started.is_recording() {
        started.set_attributes(attributes());
    }
    context
}

/// Makes a span a part of the traces of events.
fn follow_traces(span: &Span, events: &[RecordedEvent]) {
    if let [event] = events {
        return continue_trace_of(span, event);
    }
    let mut traces = Vec::new();
    events.iter().for_each(|event| add_trace(&mut traces, event));
    follow(span, traces);
}

/// Adds the trace of an event to those that a span is to be a part of.
fn add_trace(traces: &mut Vec<SpanContext>, event: &RecordedEvent) {
    if traces.len() < LINKS_MAX {
        let added = span_in(event.metadata().attributes(), |trace, span| {
            traces.iter().any(|known| known.trace_id() == trace && known.span_id() == span)
        });
        traces.extend(added);
    }
}

/// Makes a span a part of traces: a child if they are one trace, else it has links to them.
fn follow(span: &Span, traces: Vec<SpanContext>) {
    let is_one = traces.iter().all(|context| context.trace_id() == traces[0].trace_id());
    for context in traces {
        if is_one {
            return set_parent(span, context);
        }
        span.add_link(context);
    }
}

fn set_parent(span: &Span, parent: SpanContext) {
    if let Err(error) = span.set_parent(Context::new().with_remote_span_context(parent)) {
        tracing::debug!(%error, "a span does not continue the trace of its event");
    }
}

/// Returns the span that events with these attributes continue; `None` if `is_known` returns `true` for the ids of its
/// trace and its own.
fn span_in(attributes: &Attributes, is_known: impl FnOnce(TraceId, SpanId) -> bool) -> Option<SpanContext> {
    let (parent, state) = attributes.trace()?;
    let (trace, span, flags) = ids_of(&parent)?;
    let (trace, span) = (TraceId::from(trace), SpanId::from(span));
    if is_known(trace, span) {
        return None;
    }
    let state = state.filter(|state| is_state(state)).and_then(|state| state.parse::<TraceState>().ok());
    Some(SpanContext::new(trace, span, TraceFlags::new(flags), true, state.unwrap_or_default()))
}

fn batch_size(events: usize) -> Option<KeyValue> {
    let size = i64::try_from(events).unwrap_or(i64::MAX);
    (events > 1).then(|| KeyValue::new("messaging.batch.message_count", size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::record::NewEvent;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn traced(parent: &str, state: Option<&str>) -> Attributes {
        Attributes::EMPTY.with_trace(parent, state)
    }

    #[test]
    fn what_continues_a_span_is_written_as_it_was_read() {
        for (state, known) in [(None, None), (Some("a=1,b=2"), Some("a=1,b=2")), (Some("no list"), None)] {
            let span = span_in(&traced(PARENT, state), |_, _| false).unwrap();
            assert!(span.is_remote() && span.is_sampled());
            let span = Context::new().with_remote_span_context(span);
            let mut context = EventContext::default();
            stamp(&span, &mut context);
            assert_eq!(context.attributes, traced(PARENT, known));
        }
        assert_eq!(span_in(&traced("00-0-0-01", None), |_, _| false), None);
        let mut untraced = EventContext::default();
        stamp(&Context::new(), &mut untraced);
        assert!(untraced.attributes.is_empty());
    }

    #[test]
    fn events_of_one_span_count_once() {
        let mut spans = Vec::new();
        let of_a_different_span = PARENT.replace("902b7", "902b8");
        for parent in [PARENT, PARENT, &of_a_different_span, "none"] {
            let stream = StreamId::parse("Order", "1").unwrap();
            let event = NewEvent::new(Name::from_static("Noted"), 1, "{}").recorded_as(stream, 1_u64.into(), None);
            add_trace(&mut spans, &event.with_attributes(traced(parent, None)));
        }
        let ids: Vec<_> = spans.iter().map(|span| span.span_id().to_string()).collect();
        assert_eq!(ids, ["00f067aa0ba902b7", "00f067aa0ba902b8"]);
    }
}
