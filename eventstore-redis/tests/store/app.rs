//! An application on Redis alone: aggregates, relay, handlers and projections in the store's transactions.

use std::{collections::HashMap, sync::Arc, time::Duration};

use eventbus::{
    ExpectedVersion, InMemoryEventBus, NewEvent,
    port::{AppendEvents, EventBus, ReadFeed as _},
    prelude::*,
    projection::ProjectionError,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_redis::{RedisEventStore, RedisTransaction, RedisTransactionError};
use redis::aio::MultiplexedConnection;
use tokio_util::sync::CancellationToken;

use crate::{
    client,
    common::store::{config, config_on, open},
    key, order, tell,
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

/// The tutorial's statistics.
#[derive(Default)]
struct OrderStats;

#[projection(name = "order-stats", tables("stats:orders"))]
impl OrderStats {
    async fn created(&self, event: &OrderCreated, tx: &mut RedisTransaction) -> Result<(), RedisTransactionError> {
        tx.hincrby("stats:orders", "total_count", 1)?;
        tx.hincrby("stats:orders", "total_cents", event.cents.cast_signed())
    }

    async fn paid(&self, event: &OrderPaid, tx: &mut RedisTransaction) -> Result<(), RedisTransactionError> {
        tx.hincrby("stats:orders", "paid_cents", event.cents.cast_signed())
    }
}

/// A row for each order.
#[derive(Default)]
struct OrderRows;

#[projection(name = "order-rows", tables("order:*"), key = "key")]
impl OrderRows {
    async fn created(
        &self,
        event: &OrderCreated,
        meta: &Metadata,
        tx: &mut RedisTransaction,
    ) -> Result<(), RedisTransactionError> {
        tx.hset(&format!("order:{}", meta.aggregate_id()), "owed", event.cents)
    }

    async fn paid(
        &self,
        event: &OrderPaid,
        meta: &Metadata,
        tx: &mut RedisTransaction,
    ) -> Result<(), RedisTransactionError> {
        let row = format!("order:{}", meta.aggregate_id());
        let owed: u64 = tx.hget(&row, "owed").await?.unwrap_or_default();
        tx.hset(&row, "owed", owed - event.cents)
    }
}

/// Names a column as if its keys were a table of SQL, and fails.
#[derive(Default)]
struct WrongKey;

#[projection(name = "wrong-key", tables("order:*"), key = "order_id", manual)]
impl WrongKey {
    async fn created(&self, _event: &OrderCreated, _tx: &mut RedisTransaction) -> Result<(), &'static str> {
        Err("it fails")
    }
}

/// Counts its effects for each event.
#[handler(name = "note", group = "notes", concurrency = 4)]
async fn note(event: &OrderCreated, meta: &Metadata, tx: &mut RedisTransaction) -> Result<(), RedisTransactionError> {
    tx.hincrby("notes", &meta.event_id().to_string(), 1)?;
    tx.sadd("customers", event.customer_id.as_str())
}

pub(crate) async fn bus_on(url: &str) -> RedisEventBus {
    let stream_prefix = eventbus_test::unique_name("bus");
    let config = RedisEventBusConfig { redis_url: url.into(), stream_prefix, block_ms: 200, ..Default::default() };
    RedisEventBus::connect(config).await.unwrap()
}

pub(crate) async fn app(store: &RedisEventStore, bus: impl EventBus) -> App {
    let builder = App::builder().store(store.clone()).bus(bus).handler::<note>();
    let builder = builder.projection(OrderStats).projection(OrderRows).lease(Duration::from_millis(900));
    let builder = builder.lease(Duration::from_millis(900));
    builder.start().await.unwrap()
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

pub(crate) async fn stats(connection: &mut MultiplexedConnection, store: &RedisEventStore) -> HashMap<String, u64> {
    tell(connection, &["HGETALL", &key(store, "stats:orders")]).await
}

fn of_orders(count: u64) -> HashMap<String, u64> {
    let fields = [("total_count", count), ("total_cents", 100 * count), ("paid_cents", 50 * count)];
    fields.into_iter().map(|(field, number)| (field.to_owned(), number)).collect()
}

pub(crate) async fn projected(app: &App, store: &RedisEventStore) {
    let head = store.head().await.unwrap();
    app.projected::<OrderStats>(head).await.map(drop).unwrap();
    app.projected::<OrderRows>(head).await.map(drop).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_runs_on_redis_alone() {
    let store = open(config()).await;
    let app = app(&store, bus_on(&store.config().redis_url).await).await;
    let orders = app.repository::<Order>();
    let id = "12345".parse().unwrap();
    let created = OrderCreated { customer_id: "cust_001".into(), cents: 4_999 };
    orders.upsert(&id, |_| Ok::<_, eventbus::Never>(created.clone())).await.unwrap();
    let saved = orders.update(&id, |_| Ok::<_, eventbus::Never>(OrderPaid { cents: 999 })).await.unwrap();
    assert_eq!(orders.load(&id).await.unwrap().owed, 4_000);
    app.published(saved.position).await.unwrap();
    projected(&app, &store).await;
    app.settled().await.unwrap();

    let mut connection = client(&store.config().redis_url).await;
    let found = stats(&mut connection, &store).await;
    assert_eq!((found["total_count"], found["total_cents"], found["paid_cents"]), (1, 4_999, 999));
    let owed: u64 = tell(&mut connection, &["HGET", &key(&store, "order:12345"), "owed"]).await;
    assert_eq!(owed, 4_000);
    let notes: HashMap<String, u64> = tell(&mut connection, &["HGETALL", &key(&store, "notes")]).await;
    assert_eq!(notes.into_values().collect::<Vec<_>>(), [1]);
    let checkpoint: u64 = tell(&mut connection, &["GET", &key(&store, "projection:order-stats:checkpoint")]).await;
    assert_eq!(checkpoint, 2);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_have_no_such_column_are_told_of_also_if_the_methods_fail() {
    let store = open(config()).await;
    buy(&store, "1").await;
    let app = App::builder().store(store.clone()).projection(WrongKey).without_relay().start().await.unwrap();
    let error = app.projected::<WrongKey>(store.head().await.unwrap()).await.map(drop).unwrap_err();
    assert!(matches!(&error, ProjectionError::NoColumn { column: "order_id", .. }), "{error:?}");
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_under_writes_serves_the_old_numbers_until_the_switch() {
    let store = open(config()).await;
    for number in 0..300 {
        buy(&store, &format!("before-{number}")).await;
    }
    let app = app(&store, InMemoryEventBus::new()).await;
    projected(&app, &store).await;
    let mut connection = client(&store.config().redis_url).await;
    assert_eq!(stats(&mut connection, &store).await, of_orders(300));
    // as a bug that is now fixed left them
    tell::<u64>(&mut connection, &["HSET", &key(&store, "stats:orders"), "total_cents", "-1", "wrong", "1"]).await;
    let stop = CancellationToken::new();
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut bought = 0;
            while !stop.is_cancelled() {
                buy(&store, &format!("during-{bought}")).await;
                bought += 1;
            }
            bought
        }
    });
    let (mut seen, mut last) = (0_u64, 0);
    let mut other = client(&store.config().redis_url).await;
    let rebuild = app.rebuild::<OrderStats>().on_progress(|now| {
        seen += 1;
        last = now.events;
    });
    let watch = async {
        // either the old numbers, with the error of the bug, or the new ones; never a mixture
        loop {
            let words = ["HMGET", &key(&store, "stats:orders"), "total_count", "total_cents", "wrong"];
            let (count, cents, wrong): (Option<i64>, Option<i64>, Option<u64>) = tell(&mut other, &words).await;
            let (count, cents) = (count.unwrap_or_default(), cents.unwrap_or_default());
            assert!(count >= 300 && (wrong.is_some() || cents == 100 * count), "{count} orders, {cents}, {wrong:?}");
        }
    };
    let rebuilt = tokio::select! {
        rebuilt = rebuild => rebuilt.unwrap(),
        () = watch => unreachable!("it goes on"),
    };
    stop.cancel();
    let bought: u64 = writer.await.unwrap();
    assert!(rebuilt.events >= 600 && rebuilt.events == last && seen > 1, "{rebuilt:?}, {last} in {seen} reports");
    projected(&app, &store).await;
    assert_eq!(stats(&mut connection, &store).await, of_orders(300 + bought));

    let rows = [("order:never", "1"), ("order:before-7", "77"), ("order:before-8", "88")];
    for (row, owed) in rows {
        tell::<u64>(&mut connection, &["HSET", &key(&store, row), "owed", owed]).await;
    }
    let mut owed =
        async |row: &str| -> Option<u64> { tell(&mut connection, &["HGET", &key(&store, row), "owed"]).await };
    app.rebuild_aggregate::<OrderRows>(&order("before-7")).await.unwrap();
    assert_eq!([owed("order:before-7").await, owed("order:before-8").await], [Some(50), Some(88)]);
    app.rebuild::<OrderRows>().await.unwrap();
    assert_eq!([owed("order:before-8").await, owed("order:never").await], [Some(50), None]);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_crashes_of_the_server_everything_takes_effect_once() {
    let mut server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    let (one, two) = (app(&store, bus_on(server.url()).await).await, app(&store, InMemoryEventBus::new()).await);
    let bought = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let writer = tokio::spawn({
        let (store, bought) = (store.clone(), Arc::clone(&bought));
        async move {
            for number in 0..200 {
                buy(&store, &number.to_string()).await;
                bought.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    for round in 1..=4 {
        crate::common::until("orders come in", async || bought.load(std::sync::atomic::Ordering::Relaxed) > round * 40)
            .await;
        server.stop();
        server.start();
    }
    writer.await.unwrap();
    projected(&one, &store).await;
    let mut connection = client(server.url()).await;
    assert_eq!(stats(&mut connection, &store).await, of_orders(200));
    crate::common::until("all is noted", async || {
        tell::<u64>(&mut connection, &["HLEN", &key(&store, "notes")]).await == 200
    })
    .await;
    one.shutdown(Duration::from_secs(10)).await.unwrap();
    two.shutdown(Duration::from_secs(10)).await.unwrap();
    let notes: HashMap<String, u64> = tell(&mut connection, &["HGETALL", &key(&store, "notes")]).await;
    assert!(notes.values().all(|&times| times == 1), "{notes:?}");
}
