//! One trace from publisher to handler, as exported by the SDK of OpenTelemetry.
#![cfg(feature = "opentelemetry")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; a process of a test reports by printing"
)]

mod common;

use std::{
    env,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    another, config, fresh_bus,
    seen::{Seen, command, event, settled, start},
    until,
};
use eventbus::{InMemoryEventStore, Never, app::AppBuilder, port::EventBus, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::Actor;
use opentelemetry::trace::{SpanId, SpanKind, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::Instrument;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

/// The ended spans of this process.
static SPANS: LazyLock<InMemorySpanExporter> = LazyLock::new(|| {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing_subscriber::registry().with(layer).init();
    exporter
});

fn ended_spans() -> Vec<SpanData> {
    SPANS.get_finished_spans().unwrap()
}

fn find<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {names:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_from_one_bus_to_another() {
    LazyLock::force(&SPANS);
    let publisher = fresh_bus().await;
    let consumer = another(&publisher).await;
    Seen::default().join(&consumer);
    let stream = publisher.config().stream_name();
    let request = tracing::info_span!("direct request");
    publisher.publish(&[event("one")]).instrument(request.clone()).await.unwrap();
    drop(request);
    start(&consumer).await;
    assert_eq!(settled(&consumer).await, 0);
    consumer.shutdown(Duration::from_secs(5)).await.unwrap();

    let spans = ended_spans();
    let [request, publish, process] =
        ["direct request".into(), format!("publish {stream}"), format!("process {stream}")]
            .map(|name| find(&spans, &name));
    assert_eq!((&publish.span_kind, &process.span_kind), (&SpanKind::Producer, &SpanKind::Consumer));
    assert_eq!((request.parent_span_id, &process.status), (SpanId::INVALID, &Status::Unset));
    assert_eq!(publish.parent_span_id, request.span_context.span_id());
    assert_eq!(process.parent_span_id, publish.span_context.span_id());
    assert!(process.parent_span_is_remote);
    let trace = request.span_context.trace_id();
    assert_eq!([publish, process].map(|span| span.span_context.trace_id()), [trace; 2]);

    let entries: Vec<(String, Vec<(String, String)>)> = command(&publisher, "XRANGE", &[&stream, "-", "+"]).await;
    let parent = format!("00-{trace}-{}-01", publish.span_context.span_id());
    assert_eq!(entries[0].1[7..], [("traceparent".to_owned(), parent)]);
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct Placed {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Placed))]
struct Order;

impl Apply for Order {
    fn apply(&mut self, _event: &OrderEvent) {}
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Invoice)]
struct Sent {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Sent))]
struct Invoice;

impl Apply for Invoice {
    fn apply(&mut self, _event: &InvoiceEvent) {}
}

#[handler(manual, group = "invoices", stream = "orders")]
async fn invoice(_: &Placed, id: &AggregateId, invoices: Repository<Invoice>) -> eventbus::Result<()> {
    invoices.upsert(id, |_| Ok::<_, Never>(Sent {})).await?;
    Ok(())
}

#[handler(manual, group = "archive", stream = "orders")]
async fn archive(_: &Sent, State(archived): State<Arc<AtomicBool>>) {
    archived.store(true, Ordering::SeqCst);
}

/// An app with a store of its own, on a stream that it shares with an app in a different process.
async fn app_on(prefix: &str) -> AppBuilder {
    let config = RedisEventBusConfig { stream_prefix: prefix.into(), block_ms: 50, ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    App::builder().store(InMemoryEventStore::new()).bus(bus.clone()).share_stream().consume("orders", bus)
}

/// The process whose handler saves; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_invoices() {
    let Ok(prefix) = env::var("TRACE_STREAM") else {
        return;
    };
    Actor::end_with_parent();
    LazyLock::force(&SPANS);
    let _app = app_on(&prefix).await.handler::<invoice>().start().await.unwrap();
    let name = format!("process {prefix}:stream");
    until("it has handled the event", async || ended_spans().iter().any(|span| span.name == name)).await;
    let spans = ended_spans();
    let handle = find(&spans, &name);
    println!("handled below {}", handle.parent_span_id);
    println!("handled as {}", handle.span_context.span_id());
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_a_save_over_a_handler_in_a_different_process_to_its_save_and_back() {
    LazyLock::force(&SPANS);
    let prefix = eventbus_test::unique_name("trace");
    let other = Actor::play("the_process_that_invoices", &[("TRACE_STREAM", &prefix)]);
    let archived = Arc::new(AtomicBool::new(false));
    let app = app_on(&prefix).await.state(Arc::clone(&archived)).handler::<archive>().start().await.unwrap();
    let request = tracing::info_span!("request");
    let (orders, id) = (app.repository::<Order>(), "o-1".parse().unwrap());
    orders.upsert(&id, |_| Ok::<_, Never>(Placed {})).instrument(request.clone()).await.unwrap();
    drop(request);
    let handled_below = other.until(&["handled below "]);
    let handled_as = other.until(&["handled as "]);
    let archive_name = format!("process {prefix}:stream");
    until("what the handler saved is handled here", async || {
        archived.load(Ordering::SeqCst) && ended_spans().iter().any(|span| span.name == archive_name)
    })
    .await;

    let spans = ended_spans();
    let request = find(&spans, "request");
    let of_request = |span: &&SpanData| span.parent_span_id == request.span_context.span_id();
    let append = spans.iter().find(|span| span.name == "append" && of_request(span)).unwrap();
    assert_eq!(handled_below, append.span_context.span_id().to_string(), "the handler continues the save");
    let archive = find(&spans, &archive_name);
    assert_eq!(archive.parent_span_id.to_string(), handled_as, "what the handler saved continues the handler");
    assert!(archive.parent_span_is_remote);
    assert_eq!(archive.span_context.trace_id(), request.span_context.trace_id());
}
