//! Handlers of a foreign stream: the inbox of their own store gives each entry one effect.
//!
//! Each process is a second run of this test binary, with its role in environment variables.

use std::env;

use eventbus::{
    Name, Never, NewEvent, Position, StreamId, Version,
    port::{EventBus as _, FeedFilter},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::{Actor, redis_connection};

use crate::unfinished::{folder, opened, until};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Ordered {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Invoice)]
struct Invoiced {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Invoiced))]
struct Invoice;

impl Apply for Invoice {
    fn apply(&mut self, _event: &InvoiceEvent) {}
}

#[handler(manual, stream = "orders")]
async fn invoice(_event: &Ordered, order: &AggregateId, invoices: Repository<Invoice>) -> eventbus::Result<()> {
    invoices.upsert(order, |_| Ok::<_, Never>(Invoiced {})).await?;
    Ok(())
}

async fn orders(redis_url: &str) -> RedisEventBus {
    let config = RedisEventBusConfig {
        redis_url: redis_url.into(),
        block_ms: 100,
        pending_idle_ms: 400,
        ..RedisEventBusConfig::default()
    };
    RedisEventBus::connect(config).await.unwrap()
}

/// The role of a process that invoices orders; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_invoices() {
    let (Ok(place), Ok(redis_url)) = (env::var("INVOICES_STORE"), env::var("INVOICES_REDIS")) else {
        return;
    };
    Actor::end_with_parent();
    let builder = App::builder().store(opened(&place).await).consume("orders", orders(&redis_url).await);
    let _app = builder.handler::<invoice>().start().await.unwrap();
    std::future::pending().await
}

async fn an_entry_takes_effect_once_though_its_process_dies_before_it_acknowledges(place: &str) {
    let redis = eventbus_test::private_redis();
    let mut connection = redis_connection(redis.url()).await;
    let mut allow = async |rule: &str| {
        let set = redis::cmd("ACL").arg(&["SETUSER", "default", rule]).query_async::<()>(&mut connection).await;
        set.unwrap();
    };
    allow("-xack").await;
    let (bus, store) = (orders(redis.url()).await, opened(place).await);
    let order = StreamId::parse("Order", "o-1").unwrap();
    let event = NewEvent::new(Name::from_static("Ordered"), 1, "{}").recorded_as(order, Version::FIRST, None);
    bus.publish(&[event]).await.unwrap();
    let start = || {
        let variables = [
            ("INVOICES_STORE", place),
            ("INVOICES_REDIS", redis.url()),
            ("DATABASE_URL", eventbus_test::postgres_url()),
        ];
        Actor::play("consumed_stream::the_process_that_invoices", &variables)
    };
    let invoices = async || {
        let (head, filter) = (store.head().await.unwrap(), FeedFilter::all());
        store.count_events(Position::START, head, &filter).await.unwrap()
    };
    let dies = start();
    until("the invoice is stored", async || invoices().await > 0).await;
    dies.kill();
    assert_eq!(bus.progress(bus.default_group()).await.unwrap().pending, 1, "the entry is not acknowledged");
    allow("+xack").await;
    let _next = start();
    until("the next process has acknowledged it", async || {
        let progress = bus.progress(bus.default_group()).await.unwrap();
        (progress.unread, progress.pending) == (0, 0)
    })
    .await;
    assert_eq!(invoices().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_an_entry_takes_effect_once_though_its_process_dies_before_it_acknowledges() {
    let folder = folder();
    let place = folder.join("invoices.db");
    an_entry_takes_effect_once_though_its_process_dies_before_it_acknowledges(place.to_str().unwrap()).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_an_entry_takes_effect_once_though_its_process_dies_before_it_acknowledges() {
    let place = format!("schema {}", eventbus_test::unique_name("invoices"));
    an_entry_takes_effect_once_though_its_process_dies_before_it_acknowledges(&place).await;
}
