//! One trace goes from a save over the relay and a handler to the next save, as the SDK of OpenTelemetry exports it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    EventContext, Follow, InMemoryEventBus, InMemoryEventStore, Never, Position, StreamId, Uuid,
    clock::SharedClock,
    port::{AppendSignal, FeedFilter, MissingEvent, ReadError, ReadFeed, RecordStream},
    prelude::*,
    support::TraceContext,
    testkit::{Fault, FaultyBus, ManualClock, TableStore, Tables, TestApp, delegate},
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanId, SpanKind, Status, TraceId, TraceState, TracerProvider as _},
};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample, SpanData,
};
use parking_lot::Mutex;
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

/// Saves the invoice, and a row, in a transaction of the store.
#[handler(manual)]
async fn invoice_with_row(
    placed: &Placed,
    id: &AggregateId,
    tables: &mut Tables,
    invoices: Repository<Invoice>,
) -> eventbus::Result<()> {
    let cents = placed.cents;
    tables.row("invoices", id.to_string());
    invoices.upsert(id, |_| Ok::<_, Never>(Sent { cents })).await?;
    Ok(())
}

/// Panics once, then reaches its time limit.
#[handler(manual, timeout_ms = 1000, retries = 1)]
async fn hang(_placed: &Placed, attempt: Attempt, State(clock): State<ManualClock>) {
    assert_ne!(attempt.0, 1, "on purpose");
    SharedClock::new(clock).sleep(Duration::from_hours(1)).await;
}

#[derive(Debug, Default)]
struct Refusing;

#[projection(name = "refusing", manual)]
impl Refusing {
    fn placed(&mut self, placed: &Placed) -> Result<(), HandlerError> {
        if placed.cents == 13 { Err(HandlerError::permanent("unlucky")) } else { Ok(()) }
    }
}

#[derive(Debug, Default)]
struct Sales;

#[projection(name = "sales")]
impl Sales {
    fn placed(&mut self, _placed: &Placed) {}
}

/// Rows of a store with transactions.
#[derive(Debug, Default)]
struct SalesRows;

#[projection(name = "sales-rows", tables("sales"))]
impl SalesRows {
    fn placed(&self, placed: &Placed, tables: &mut Tables) {
        tables.row("sales", placed.cents.to_string());
    }
}

/// It handles no event of an order.
#[derive(Debug, Default)]
struct Mailed;

#[projection(name = "mailed")]
impl Mailed {
    fn sent(&mut self, _sent: &Sent) {}
}

#[derive(Debug, Default)]
struct SlowSales;

#[projection(name = "slow-sales")]
impl SlowSales {
    fn placed(&mut self, _placed: &Placed) {}
}

/// A store whose feed makes its readers wait before each event, and fails while it is damaged.
struct SlowStore {
    store: InMemoryEventStore,
    is_damaged: AtomicBool,
}

impl SlowStore {
    fn new(store: InMemoryEventStore) -> Self {
        Self { store, is_damaged: AtomicBool::new(false) }
    }
}

delegate!(SlowStore, self => self.store; AppendEvents, ReadStream, Checkpoints, Leases, EventStore);

#[async_trait]
impl ReadFeed for SlowStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        let events = self.store.read_feed(after, through, filter);
        Box::pin(events.then(move |event| async move {
            tokio::task::yield_now().await;
            if self.is_damaged.load(Ordering::SeqCst) { Err(ReadError::corrupt("here", "damaged")) } else { event }
        }))
    }

    async fn head(&self) -> Result<Position, ReadError> {
        self.store.head().await
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        self.store.count_events(after, through, filter).await
    }

    async fn first_recorded_after(&self, after: Position) -> Result<Option<time::OffsetDateTime>, ReadError> {
        self.store.first_recorded_after(after).await
    }

    async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
        self.store.find_missing_event(stream).await
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        self.store.store_id().await
    }

    fn appended(&self) -> &AppendSignal {
        self.store.appended()
    }
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
async fn place(app: &App, id: &str, cents: u64) -> TraceId {
    place_in(&app.repository::<Order>(), id, cents).await
}

async fn place_in(orders: &AggregateRepository<Order>, id: &str, cents: u64) -> TraceId {
    LazyLock::force(&SPANS);
    let (request, id) = (tracing::info_span!("request"), id.parse().unwrap());
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

/// Returns the spans of reads of the feed by a reader whose name begins with this text.
fn reads_of(reader: &str, spans: &[SpanData]) -> Vec<SpanData> {
    let is_read = |span: &&SpanData| {
        span.name == "read_feed" && attribute(span, "eventbus.reader").is_some_and(|name| name.starts_with(reader))
    };
    spans.iter().filter(is_read).cloned().collect()
}

fn all_reads_of(reader: &str) -> Vec<SpanData> {
    reads_of(reader, &SPANS.get_finished_spans().unwrap())
}

fn has_link(span: &SpanData, trace: TraceId) -> bool {
    span.links.iter().any(|link| link.span_context.trace_id() == trace)
}

#[tokio::test]
async fn a_trace_goes_from_a_save_over_a_handler_to_the_next_save() {
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
            "request/append/project",
            "request/append/read_feed",
        ]
    );
    let append = spans.iter().find(|span| attribute(span, "eventbus.stream").is_some()).unwrap();
    assert_eq!(append.span_kind, SpanKind::Client);
    assert_eq!(attribute(append, "db.operation.name").as_deref(), Some("append"));
    assert_eq!(attribute(append, "db.collection.name").as_deref(), Some("Order"));
    let handle = find(&spans, "handle");
    assert_eq!((&handle.span_kind, &handle.status), (&SpanKind::Consumer, &Status::Unset));
    assert_eq!(attribute(handle, "messaging.operation.type").as_deref(), Some("process"));
    assert_eq!(attribute(handle, "messaging.consumer.group.name").as_deref(), Some("invoice"));
    assert_eq!(attribute(handle, "handler").as_deref(), Some("invoice"));
    assert_eq!(attribute(find(&spans, "project"), "projection").as_deref(), Some("sales"));
    let read = &reads_of("projection:", &spans)[0];
    assert_eq!(read.parent_span_id, append.span_context.span_id());
    assert_eq!((&read.span_kind, &read.status), (&SpanKind::Client, &Status::Unset));
    assert_eq!(attribute(read, "db.operation.name").as_deref(), Some("read_feed"));
    assert_eq!(attribute(read, "eventbus.reader").as_deref(), Some("projection:sales"));
    assert_eq!(attribute(read, "messaging.batch.message_count"), None, "of one event");
    assert!(read.start_time <= read.end_time && read.end_time <= find(&spans, "project").end_time);

    // what the handler has saved carries the trace on
    let invoices = StreamId::parse("Invoice", "o-1").unwrap();
    let stored = app.store().read_stream(&invoices, eventbus::Version::FIRST, eventbus::store::Direction::Forward);
    let sent: Vec<_> = stored.try_collect().await.unwrap();
    let carried = TraceContext::from_event(&sent[0]).unwrap();
    assert_eq!(carried.trace_id(), trace.to_string());
    assert!(carried.parent().contains(&handle.span_context.span_id().to_string()));
}

#[tokio::test]
async fn the_trace_of_a_request_that_the_caller_attached_goes_on() {
    let app = start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let context = EventContext::default().with_trace(&format!("00-{trace}-00f067aa0ba902b7-01"), Some("a=1"));
    let orders = app.repository::<Order>();
    let id = "o-2".parse().unwrap();
    context.scope(async { orders.upsert(&id, |_| Ok::<_, Never>(Placed { cents: 1 })).await }).await.unwrap();
    app.settle().await;
    let spans = spans_of(TraceId::from_hex(trace).unwrap());
    assert_eq!(
        paths(&spans),
        ["append", "append/handle", "append/handle/append", "append/project", "append/read_feed",]
    );
    let append = spans.iter().find(|span| attribute(span, "eventbus.stream").is_some()).unwrap();
    assert_eq!(append.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert!(append.parent_span_is_remote);
    assert_eq!(append.span_context.trace_state().header(), "a=1");
}

#[tokio::test]
async fn a_relay_call_for_several_traces_has_a_link_to_each() {
    LazyLock::force(&SPANS);
    let app = App::builder().store(InMemoryEventStore::new()).bus(InMemoryEventBus::new());
    let app = app.handler::<invoice>().projection(Sales).start().await.unwrap();
    // without a pause in which the relay could run
    let (one, two) = (place(&app, "o-3", 1).await, place(&app, "o-4", 2).await);
    app.settled().await.unwrap();
    let spans = SPANS.get_finished_spans().unwrap();
    for name in ["relay", "read_feed"] {
        let span = spans.iter().find(|span| span.name == name && has_link(span, one) && has_link(span, two));
        let span = span.unwrap_or_else(|| panic!("no {name} of both events"));
        assert_eq!(span.parent_span_id, SpanId::INVALID);
        assert_eq!(attribute(span, "messaging.batch.message_count").as_deref(), Some("2"));
    }
    for trace in [one, two] {
        assert!(paths(&spans_of(trace)).contains(&"request/append/handle/append".to_owned()));
    }
}

#[tokio::test]
async fn a_state_that_is_filled_at_a_start_adds_no_spans_to_old_traces() {
    let mut app = start().await;
    let old = place(&app, "o-7", 1).await;
    app.settle().await;
    let count = |trace| {
        let spans = spans_of(trace);
        (spans.iter().filter(|span| span.name == "project").count(), reads_of("projection:sales", &spans).len())
    };
    assert_eq!(count(old), (1, 1));
    app.advance(Duration::from_secs(1)).await;
    app.restart().await;
    app.settle().await;
    let new = place(&app, "o-8", 2).await;
    app.settle().await;
    assert_eq!((count(old), count(new)), ((1, 1), (1, 1)));
}

#[tokio::test]
async fn relay_and_follower_show_their_reads_of_the_store() {
    let store = InMemoryEventStore::new();
    let orders = AggregateRepository::<Order>::new(store.clone());
    // before the follower and the relay
    let old = place_in(&orders, "o-9", 1).await;
    let mut followed = Follow::new(store.clone()).start();
    let new = place_in(&orders, "o-10", 2).await;
    for _ in 0..2 {
        followed.try_next().await.unwrap();
    }
    let app =
        App::builder().store(store.clone()).bus(InMemoryEventBus::new()).handler::<invoice>().start().await.unwrap();
    app.settled().await.unwrap();
    let reads = all_reads_of("follow");
    let read = reads.iter().find(|read| read.span_context.trace_id() == new).expect("a read of the new event");
    assert_eq!(attribute(read, "messaging.batch.message_count").as_deref(), Some("2"));
    assert!(!reads.iter().any(|read| read.span_context.trace_id() == old || has_link(read, old)), "it has ended");
    let reads = all_reads_of("relay:");
    let read = reads.iter().find(|read| has_link(read, old) && has_link(read, new)).expect("a read of both");
    assert_eq!(attribute(read, "messaging.batch.message_count").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_projection_with_transactions_shows_its_reads_and_a_rebuild_only_itself() {
    LazyLock::force(&SPANS);
    let clock = ManualClock::new();
    let store = TableStore::new();
    store.create_table("sales").await;
    let app = TestApp::start_on(clock, move || App::builder().store(store.clone()).projection(SalesRows)).await;
    let trace = place(&app, "o-11", 1).await;
    app.settle().await;
    let reads = all_reads_of("projection:sales-rows");
    let read = reads.iter().find(|read| read.span_context.trace_id() == trace).expect("a read of the event");
    let append = read.parent_span_id;
    assert_eq!(find(&spans_of(trace), "project").parent_span_id, append);
    app.rebuild::<SalesRows>().await.unwrap();
    assert_eq!(all_reads_of("projection:sales-rows").len(), reads.len());
    let spans = SPANS.get_finished_spans().unwrap();
    let rebuilds = spans.iter().filter(|span| span.name == "rebuild").map(|span| attribute(span, "projection"));
    assert_eq!(rebuilds.collect::<Vec<_>>(), [Some("sales-rows".to_owned())]);
}

#[tokio::test]
async fn a_read_that_finds_no_event_leaves_no_span() {
    LazyLock::force(&SPANS);
    let app = TestApp::start(|| App::builder().projection(Mailed)).await;
    for number in 0..3 {
        place(&app, &format!("o-12-{number}"), 1).await;
        app.settle().await;
    }
    assert_eq!(all_reads_of("projection:mailed").len(), 0);
    app.save("o-12", Sent { cents: 1 }).await;
    app.settle().await;
    assert_eq!(all_reads_of("projection:mailed").len(), 1);
}

#[tokio::test]
async fn each_wait_for_the_store_is_a_read_and_a_failed_one_says_why() {
    LazyLock::force(&SPANS);
    let clock = ManualClock::new();
    let store = Arc::new(SlowStore::new(InMemoryEventStore::with_clock(clock.clone())));
    let shared = Arc::clone(&store);
    let build = move || App::builder().store(Arc::clone(&shared)).projection(SlowSales);
    let app = TestApp::start_on(clock, build).await;
    let (one, two) = (place(&app, "o-13", 1).await, place(&app, "o-14", 2).await);
    app.settle().await;
    let reads = all_reads_of("projection:slow-sales");
    assert_eq!(reads.iter().map(|read| read.span_context.trace_id()).collect::<Vec<_>>(), [one, two]);
    assert!(reads.iter().all(|read| attribute(read, "messaging.batch.message_count").is_none()));

    store.is_damaged.store(true, Ordering::SeqCst);
    place(&app, "o-15", 3).await;
    app.settle().await;
    let failed = &all_reads_of("projection:slow-sales")[2];
    assert!(matches!(failed.status, Status::Error { .. }), "{:?}", failed.status);
    assert_eq!(attribute(failed, "error.type").as_deref(), Some("corrupt"));
    Follow::new(store).start().try_next().await.unwrap_err();
    let is_failed = |read: &SpanData| attribute(read, "error.type").as_deref() == Some("corrupt");
    assert!(all_reads_of("follow").iter().any(is_failed));
}

#[tokio::test]
async fn what_a_handler_saves_in_a_transaction_has_an_append_in_the_trace() {
    LazyLock::force(&SPANS);
    let store = TableStore::new();
    store.create_table("invoices").await;
    let shared = store.clone();
    let build = move || App::builder().store(shared.clone()).handler::<invoice_with_row>();
    let app = TestApp::start_on(ManualClock::new(), build).await;
    // the first commit fails, so that the handler runs twice
    store.commits.fail_next(Fault::Unavailable, 1);
    let trace = place(&app, "o-17", 120).await;
    app.advance(Duration::from_secs(60)).await;
    let spans = spans_of(trace);
    let appends: Vec<_> = spans.iter().filter(|span| span.name == "append").collect();
    let paths = paths(&spans);
    assert_eq!(paths.iter().filter(|path| *path == "request/append/handle/append").count(), 2, "{paths:?}");
    let errors: Vec<_> = appends.iter().filter_map(|append| attribute(append, "error.type")).collect();
    assert_eq!(errors, ["unknown"], "the store does not say how the commit ended");
    assert_eq!(store.tables().await.rows("invoices").len(), 1);
}

#[tokio::test]
async fn failures_of_relay_projection_and_rebuild_are_shown() {
    LazyLock::force(&SPANS);
    let bus = FaultyBus::new(InMemoryEventBus::new());
    bus.publishes.fail_next(Fault::Unavailable, 1);
    let builder = App::builder().store(InMemoryEventStore::new()).bus(bus).handler::<invoice>();
    let app = builder.projection_with(Refusing::default).start().await.unwrap();
    let errors = |name: &str, trace: Option<TraceId>| {
        let spans = SPANS.get_finished_spans().unwrap();
        let is_of = |span: &&SpanData| {
            let is_of_trace = trace.is_none_or(|trace| span.span_context.trace_id() == trace);
            span.name == name && is_of_trace && matches!(span.status, Status::Error { .. })
        };
        spans.iter().filter(is_of).filter_map(|span| attribute(span, "error.type")).collect::<Vec<_>>()
    };
    let trace = place_in(&app.repository::<Order>(), "o-18", 1).await;
    app.settled().await.unwrap();
    assert_eq!(errors("relay", Some(trace)), ["publish_failed"]);
    let trace = place_in(&app.repository::<Order>(), "o-19", 13).await;
    app.settled().await.unwrap_err();
    assert_eq!(errors("project", Some(trace)), ["projection_failed"]);
    app.rebuild::<Refusing>().await.unwrap_err();
    assert_eq!(errors("rebuild", None), ["rebuild_failed"]);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_run_that_failed_has_the_outcome_of_the_metrics() {
    LazyLock::force(&SPANS);
    let clock = ManualClock::new();
    let of_handlers = clock.clone();
    let build = move || App::builder().state(of_handlers.clone()).handler::<hang>();
    let app = TestApp::start_on(clock, build).await;
    let trace = place(&app, "o-20", 1).await;
    app.advance(Duration::from_hours(1)).await;
    let spans = spans_of(trace);
    let runs: Vec<_> = spans.iter().filter(|span| span.name == "handle").collect();
    let errors: Vec<_> = runs.iter().filter_map(|run| attribute(run, "error.type")).collect();
    assert_eq!(errors, ["panicked", "timed_out"]);
}

#[tokio::test]
async fn failures_are_shown() {
    let app = start().await;
    let trace = place(&app, "o-5", 13).await;
    app.advance(Duration::from_secs(60)).await;
    let spans = spans_of(trace);
    let handle = find(&spans, "handle");
    assert!(matches!(handle.status, Status::Error { .. }), "{:?}", handle.status);
    assert_eq!(attribute(handle, "error.type").as_deref(), Some("permanent"));

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

/// A span as a sampler sees it.
#[derive(Debug)]
struct Sampled {
    name: String,
    kind: SpanKind,
    /// The names of its attributes.
    attributes: Vec<String>,
}

/// A sampler that notes each span, and chooses none.
#[derive(Debug, Clone, Default)]
struct ChoosesNone(Arc<Mutex<Vec<Sampled>>>);

impl ShouldSample for ChoosesNone {
    fn should_sample(
        &self,
        _parent: Option<&Context>,
        _trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        _links: &[Link],
    ) -> SamplingResult {
        let attributes = attributes.iter().map(|attribute| attribute.key.to_string()).collect();
        self.0.lock().push(Sampled { name: name.to_owned(), kind: kind.clone(), attributes });
        let (decision, trace_state) = (SamplingDecision::Drop, TraceState::default());
        SamplingResult { decision, attributes: Vec::new(), trace_state }
    }
}

#[tokio::test]
async fn events_carry_a_trace_that_the_sampler_did_not_choose() {
    let (exporter, seen) = (InMemorySpanExporter::default(), ChoosesNone::default());
    let provider =
        SdkTracerProvider::builder().with_sampler(seen.clone()).with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let app = TestApp::start(|| App::builder().handler::<invoice>()).await;
    let trace = place(&app, "o-16", 1).await;
    app.settle().await;
    assert_eq!(exporter.get_finished_spans().unwrap().len(), 0);
    for aggregate_type in ["Order", "Invoice"] {
        let stream = StreamId::parse(aggregate_type, "o-16").unwrap();
        let stored = app.store().read_stream(&stream, eventbus::Version::FIRST, eventbus::store::Direction::Forward);
        let carried = TraceContext::from_event(&stored.try_collect::<Vec<_>>().await.unwrap()[0]).unwrap();
        assert_eq!(carried.trace_id(), trace.to_string(), "{aggregate_type}");
        assert!(carried.parent().ends_with("-00"), "not sampled: {}", carried.parent());
    }
    let seen = seen.0.lock();
    let of = |name: &str| seen.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {seen:?}"));
    let append = of("append");
    assert_eq!(append.kind, SpanKind::Client);
    assert!(!append.attributes.iter().any(|name| name == "eventbus.stream"), "made for nothing: {append:?}");
    let handle = of("handle");
    assert_eq!(handle.kind, SpanKind::Consumer);
    for name in ["handler", "event", "aggregate"] {
        assert!(handle.attributes.iter().any(|seen| seen == name), "the log shows `{name}`: {handle:?}");
    }
}
