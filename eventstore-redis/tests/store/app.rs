//! An application on Redis alone: aggregates, relay, handlers that save, and a projection in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eventbus::{
    ExpectedVersion, InMemoryEventBus, Name, Never, NewEvent, Position,
    port::{AppendEvents, EventBus, FeedFilter, ReadFeed as _},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_redis::RedisEventStore;
use futures_util::TryStreamExt as _;

use crate::{
    common::{
        store::{config, config_on, open},
        until,
    },
    order,
};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order, type = "order.created")]
pub(crate) struct OrderCreated {
    pub(crate) customer_id: String,
    pub(crate) cents: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order, type = "order.paid")]
pub(crate) struct OrderPaid {
    pub(crate) cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderCreated, OrderPaid))]
struct Order {
    owed: u64,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated(created) => self.owed = created.cents,
            OrderEvent::OrderPaid(paid) => self.owed -= paid.cents,
        }
    }
}

/// The tutorial's statistics, in memory.
#[derive(Debug, Default)]
pub(crate) struct OrderStats {
    pub(crate) orders: u64,
    pub(crate) cents: u64,
    pub(crate) paid_cents: u64,
}

#[projection(name = "order-stats")]
impl OrderStats {
    fn created(&mut self, event: &OrderCreated) {
        self.orders += 1;
        self.cents += event.cents;
    }

    fn paid(&mut self, event: &OrderPaid) {
        self.paid_cents += event.cents;
    }
}

/// An invoice was written.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Invoice, type = "invoice.written")]
struct InvoiceWritten {
    cents: u64,
}

/// The invoice of a created order: a second save of the handler is a second event.
#[derive(Debug, Default, Aggregate)]
#[aggregate(events(InvoiceWritten))]
struct Invoice;

impl Apply for Invoice {
    fn apply(&mut self, _event: &InvoiceEvent) {}
}

#[handler(name = "invoice", group = "invoices", concurrency = 4)]
async fn invoice(event: &OrderCreated, meta: &Metadata, invoices: Repository<Invoice>) -> Result<(), HandlerError> {
    let written = InvoiceWritten { cents: event.cents };
    invoices.upsert(&meta.event_id().to_string().parse()?, |_| Ok::<_, Never>(written.clone())).await?;
    Ok(())
}

/// Returns the number of events of a type.
pub(crate) async fn count(store: &RedisEventStore, event_type: &'static str) -> u64 {
    let of_type = FeedFilter::all().event_types([Name::from_static(event_type)]);
    store.count_events(Position::START, store.head().await.unwrap(), &of_type).await.unwrap()
}

/// Waits until each created order has its invoice, and checks that none has two.
pub(crate) async fn each_order_has_one_invoice(store: &RedisEventStore) {
    let orders = count(store, "order.created").await;
    until("all invoices are written", async || count(store, "invoice.written").await >= orders).await;
    let feed: Vec<_> = store.read_all(Position::START).try_collect().await.unwrap();
    let written: Vec<_> = feed.iter().filter(|event| event.metadata().event_type() == "invoice.written").collect();
    assert_eq!(written.len() as u64, orders);
    assert!(written.iter().all(|event| event.version() == 1_u64), "an order has two invoices");
}

pub(crate) async fn bus_on(url: &str) -> RedisEventBus {
    let stream_prefix = eventbus_test::unique_name("bus");
    let config = RedisEventBusConfig { redis_url: url.into(), stream_prefix, block_ms: 200, ..Default::default() };
    RedisEventBus::connect(config).await.unwrap()
}

pub(crate) async fn app(store: &RedisEventStore, bus: impl EventBus) -> App {
    let builder = App::builder().store(store.clone()).bus(bus).handler::<invoice>();
    builder.projection_with(OrderStats::default).lease(Duration::from_millis(900)).start().await.unwrap()
}

/// Creates an order and pays half of it.
pub(crate) async fn buy(store: &impl AppendEvents, id: &str) {
    let customer_id = format!("cust-{}", id.len());
    let events = vec![
        NewEvent::from_event(&OrderCreated { customer_id, cents: 100 }).unwrap(),
        NewEvent::from_event(&OrderPaid { cents: 50 }).unwrap(),
    ];
    loop {
        match store.append(&order(id), ExpectedVersion::Any, events.clone()).await {
            Ok(_) => return,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until the projection has applied all events, and returns its orders, their cents and what is paid.
pub(crate) async fn stats(app: &App, store: &RedisEventStore) -> (u64, u64, u64) {
    let stats = app.projected::<OrderStats>(store.head().await.unwrap()).await.unwrap();
    (stats.orders, stats.cents, stats.paid_cents)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_runs_on_redis_alone() {
    let store = open(config()).await;
    let app = app(&store, bus_on(&store.config().redis_url).await).await;
    let orders = app.repository::<Order>();
    let id = "12345".parse().unwrap();
    let created = OrderCreated { customer_id: "cust_001".into(), cents: 4_999 };
    orders.upsert(&id, |_| Ok::<_, Never>(created.clone())).await.unwrap();
    let saved = orders.update(&id, |_| Ok::<_, Never>(OrderPaid { cents: 999 })).await.unwrap();
    assert_eq!(orders.load(&id).await.unwrap().owed, 4_000);
    app.published(saved.position).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(stats(&app, &store).await, (1, 4_999, 999));
    each_order_has_one_invoice(&store).await;
    app.rebuild::<OrderStats>().await.unwrap();
    assert_eq!(stats(&app, &store).await, (1, 4_999, 999));
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// Fails if a delivery that was handled before the server died is handled again, or if one is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_crashes_of_the_server_each_save_of_a_handler_takes_effect_once() {
    let mut server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    let (one, two) = (app(&store, bus_on(server.url()).await).await, app(&store, InMemoryEventBus::new()).await);
    let bought = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (store, bought) = (store.clone(), Arc::clone(&bought));
        async move {
            for number in 0..200 {
                buy(&store, &number.to_string()).await;
                bought.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for round in 1..=4 {
        until("orders come in", async || bought.load(Ordering::Relaxed) > round * 40).await;
        server.stop();
        server.start();
    }
    writer.await.unwrap();
    assert_eq!(stats(&one, &store).await, (200, 20_000, 10_000));
    each_order_has_one_invoice(&store).await;
    one.shutdown(Duration::from_secs(10)).await.unwrap();
    two.shutdown(Duration::from_secs(10)).await.unwrap();
}
