//! One trace goes from a save over the relay and a handler to the next save, as the SDK of OpenTelemetry exports it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{sync::LazyLock, time::Duration};

use eventbus::{EventContext, Never, prelude::*, support::TraceContext, testkit::TestApp};
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceId, TracerProvider as _};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::Instrument as _;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct Placed {
    cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Placed))]
struct Order;

impl Apply for Order {
    fn apply(&mut self, _event: &OrderEvent) {}
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Invoice)]
struct Sent {
    cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Sent))]
struct Invoice;

impl Apply for Invoice {
    fn apply(&mut self, _event: &InvoiceEvent) {}
}

#[handler]
async fn invoice(placed: &Placed, id: &AggregateId, invoices: Repository<Invoice>) -> eventbus::Result<()> {
    let cents = placed.cents;
    if cents == 13 {
        return Err(HandlerError::permanent("unlucky").into());
    }
    invoices.upsert(id, |_| Ok::<_, Never>(Sent { cents })).await?;
    Ok(())
}

#[derive(Debug, Default)]
struct Sales;

#[projection(name = "sales")]
impl Sales {
    fn placed(&mut self, _placed: &Placed) {}
}

/// The ended spans of this test binary: each test finds its own by its trace.
static SPANS: LazyLock<InMemorySpanExporter> = LazyLock::new(|| {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing_subscriber::registry().with(layer).init();
    exporter
});

async fn start() -> TestApp {
    LazyLock::force(&SPANS);
    TestApp::start(|| App::builder().handler::<invoice>().projection(Sales)).await
}

fn spans_of(trace: TraceId) -> Vec<SpanData> {
    let spans = SPANS.get_finished_spans().unwrap();
    spans.into_iter().filter(|span| span.span_context.trace_id() == trace).collect()
}

/// Returns the spans of a trace as paths from its root: `request/append/handle`.
fn paths(spans: &[SpanData]) -> Vec<String> {
    fn path(spans: &[SpanData], span: &SpanData) -> String {
        match spans.iter().find(|parent| parent.span_context.span_id() == span.parent_span_id) {
            Some(parent) => format!("{}/{}", path(spans, parent), span.name),
            None => span.name.to_string(),
        }
    }
    let mut paths: Vec<_> = spans.iter().map(|span| path(spans, span)).collect();
    paths.sort();
    paths
}

/// Saves an order within a span, which is the root of a trace; returns the trace.
async fn place(app: &TestApp, id: &str, cents: u64) -> TraceId {
    let request = tracing::info_span!("request");
    let (orders, id) = (app.repository::<Order>(), id.parse().unwrap());
    orders.upsert(&id, |_| Ok::<_, Never>(Placed { cents })).instrument(request.clone()).await.unwrap();
    let context = eventbus::support::spans::context_of(&request).unwrap();
    TraceId::from_hex(context.trace_id()).unwrap()
}

fn find<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.to_string())
}

#[tokio::test]
async fn a_trace_goes_from_a_save_over_relay_and_handler_to_the_next_save() {
    let app = start().await;
    let trace = place(&app, "o-1", 120).await;
    app.settle().await;
    let spans = spans_of(trace);
    assert_eq!(
        paths(&spans),
        [
            "request",
            "request/append",
            "request/append/handle",
            "request/append/handle/append",
            "request/append/handle/relay",
            "request/append/project",
            "request/append/relay",
        ]
    );
    let append = spans.iter().find(|span| attribute(span, "eventbus.stream").is_some()).unwrap();
    assert_eq!(append.span_kind, SpanKind::Client);
    assert_eq!(attribute(append, "db.operation.name").as_deref(), Some("append"));
    assert_eq!(attribute(append, "db.collection.name").as_deref(), Some("Order"));
    let handle = find(&spans, "handle");
    assert_eq!((&handle.span_kind, &handle.status), (&SpanKind::Consumer, &Status::Unset));
    assert_eq!(attribute(handle, "messaging.operation.type").as_deref(), Some("process"));
    assert_eq!(attribute(handle, "messaging.consumer.group.name").as_deref(), Some("default"));
    assert_eq!(attribute(handle, "handler").as_deref(), Some("invoice"));
    assert_eq!(attribute(find(&spans, "project"), "projection").as_deref(), Some("sales"));
    assert_eq!(attribute(find(&spans, "relay"), "messaging.operation.name").as_deref(), Some("relay"));

    // what the handler has saved carries the trace on
    let invoices = eventbus::StreamId::parse("Invoice", "o-1").unwrap();
    let stored = app.store().read_stream(&invoices, eventbus::Version::FIRST, eventbus::store::Direction::Forward);
    let sent: Vec<_> = futures_util::TryStreamExt::try_collect(stored).await.unwrap();
    let carried = TraceContext::from_event(&sent[0]).unwrap();
    assert_eq!(carried.trace_id(), trace.to_string());
    assert!(carried.parent().contains(&handle.span_context.span_id().to_string()));
}

#[tokio::test]
async fn the_trace_of_a_request_that_the_caller_attached_goes_on() {
    let app = start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let context = EventContext::default().with_trace(format!("00-{trace}-00f067aa0ba902b7-01"), Some("a=1".into()));
    let orders = app.repository::<Order>();
    let id = "o-2".parse().unwrap();
    context.scope(async { orders.upsert(&id, |_| Ok::<_, Never>(Placed { cents: 1 })).await }).await.unwrap();
    app.settle().await;
    let spans = spans_of(TraceId::from_hex(trace).unwrap());
    assert_eq!(
        paths(&spans),
        ["append", "append/handle", "append/handle/append", "append/handle/relay", "append/project", "append/relay",]
    );
    let append = spans.iter().find(|span| attribute(span, "eventbus.stream").is_some()).unwrap();
    assert_eq!(append.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert!(append.parent_span_is_remote);
    assert_eq!(append.span_context.trace_state().header(), "a=1");
}

#[tokio::test]
async fn a_relay_call_for_several_traces_has_a_link_to_each() {
    let app = start().await;
    // without a pause in which the relay could run
    let (one, two) = (place(&app, "o-3", 1).await, place(&app, "o-4", 2).await);
    app.settle().await;
    let spans = SPANS.get_finished_spans().unwrap();
    let has_link = |span: &&SpanData, trace| span.links.iter().any(|link| link.span_context.trace_id() == trace);
    let relay = spans.iter().find(|span| span.name == "relay" && has_link(span, one) && has_link(span, two));
    let relay = relay.expect("the relay published both in one call");
    assert_eq!(relay.parent_span_id, SpanId::INVALID);
    assert_eq!(attribute(relay, "messaging.batch.message_count").as_deref(), Some("2"));
    for trace in [one, two] {
        assert!(paths(&spans_of(trace)).contains(&"request/append/handle/append".to_owned()));
    }
}

#[tokio::test]
async fn a_state_that_is_filled_at_a_start_adds_no_spans_to_old_traces() {
    let mut app = start().await;
    let old = place(&app, "o-7", 1).await;
    app.settle().await;
    let count = |trace| spans_of(trace).iter().filter(|span| span.name == "project").count();
    assert_eq!(count(old), 1);
    app.advance(Duration::from_secs(1)).await;
    app.restart().await;
    app.settle().await;
    let new = place(&app, "o-8", 2).await;
    app.settle().await;
    assert_eq!((count(old), count(new)), (1, 1));
}

#[tokio::test]
async fn failures_are_shown() {
    let app = start().await;
    let trace = place(&app, "o-5", 13).await;
    app.advance(Duration::from_secs(60)).await;
    let spans = spans_of(trace);
    let handle = find(&spans, "handle");
    assert!(matches!(handle.status, Status::Error { .. }), "{:?}", handle.status);
    assert_eq!(attribute(handle, "error.type").as_deref(), Some("handler_failed"));

    let orders = app.repository::<Order>();
    let mut late = orders.create_new("o-5".parse().unwrap());
    late.record(Placed { cents: 1 });
    let request = tracing::info_span!("request");
    let error = orders.save(&mut late).instrument(request.clone()).await.unwrap_err();
    assert!(error.is_conflict());
    let context = eventbus::support::spans::context_of(&request).unwrap();
    let spans = spans_of(TraceId::from_hex(context.trace_id()).unwrap());
    assert_eq!(attribute(find(&spans, "append"), "error.type").as_deref(), Some("conflict"));
}

#[tokio::test]
async fn without_a_span_events_carry_no_trace() {
    // no subscriber of OpenTelemetry in this scope
    let _none = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
    let app = TestApp::start(App::builder).await;
    let orders = app.repository::<Order>();
    let saved = orders.upsert(&"o-6".parse().unwrap(), |_| Ok::<_, Never>(Placed { cents: 1 })).await.unwrap();
    assert!(saved.events[0].metadata().attributes().is_empty());
}
