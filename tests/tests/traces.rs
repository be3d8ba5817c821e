//! One trace goes from a save over the relay, Redis and a handler in a different process to the next save and its relay.
//!
//! The process of the handler is a second run of this test binary, with its role in an environment variable. Both
//! processes are of one application, on one PostgreSQL database and one Redis stream.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; the process of the handler reports by printing"
)]

mod exported_spans;

use std::{env, time::Duration};

use eventbus::{Never, prelude::*, support::spans::context_of};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::Actor;
use eventstore_postgres::PgEventStore;
use exported_spans::{Ended, ended, exporting, paths};
use tracing::Instrument as _;
use tracing_subscriber::util::SubscriberInitExt as _;

const SERVERS: &str = "TRACES_SERVERS";
const TIMEOUT: Duration = Duration::from_secs(60);

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

#[handler(manual, stream = "orders")]
async fn invoice(_event: &Placed, id: &AggregateId, invoices: Repository<Invoice>) -> eventbus::Result<()> {
    invoices.upsert(id, |_| Ok::<_, Never>(Sent {})).await?;
    Ok(())
}

/// Where both processes store and publish.
#[derive(Debug, Serialize, Deserialize)]
struct Servers {
    database_url: String,
    redis_url: String,
    stream_prefix: String,
}

impl Servers {
    async fn connect(&self) -> (PgEventStore, RedisEventBus) {
        let config = RedisEventBusConfig {
            redis_url: self.redis_url.clone(),
            stream_prefix: self.stream_prefix.clone(),
            block_ms: 50,
            ..RedisEventBusConfig::default()
        };
        let store = PgEventStore::connect(&self.database_url).await.unwrap();
        (store, RedisEventBus::connect(config).await.unwrap())
    }
}

/// The process whose handler saves, and which does not relay; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_invoices() {
    let Ok(servers) = env::var(SERVERS) else { return };
    Actor::end_with_parent();
    exporting().init();
    let servers: Servers = serde_json::from_str(&servers).unwrap();
    let (store, bus) = servers.connect().await;
    let app = App::builder().store(store).consume("orders", bus).handler::<invoice>().start().await.unwrap();
    println!("consumes");
    let spans = ended("run of the handler", |spans| spans.iter().any(|span| span.name.starts_with("process "))).await;
    println!("spans {}", serde_json::to_string(&spans).unwrap());
    std::future::pending::<()>().await;
    drop(app);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_over_postgres_and_redis_through_two_processes() {
    exporting().init();
    let (database, redis) = (eventbus_test::postgres(), eventbus_test::redis());
    let servers = Servers {
        database_url: database.url().into(),
        redis_url: redis.url().into(),
        stream_prefix: redis.prefix().into(),
    };
    let (store, bus) = servers.connect().await;
    let app = App::builder().store(store).bus(bus).start().await.unwrap();
    let other = Actor::play("the_process_that_invoices", &[(SERVERS, &serde_json::to_string(&servers).unwrap())]);
    other.until(&["consumes"]);

    let request = tracing::info_span!("request");
    let (orders, id) = (app.repository::<Order>(), "o-1".parse().unwrap());
    orders.upsert(&id, |_| Ok::<_, Never>(Placed {})).instrument(request.clone()).await.unwrap();
    let trace = context_of(&request).unwrap().trace_id().to_owned();
    drop(request);

    let there: Vec<Ended> = serde_json::from_str(&other.until(&["spans "])).unwrap();
    assert_eq!(there.iter().map(|span| &*span.trace).collect::<Vec<_>>(), [&trace, &trace], "{there:#?}");
    // the relay of this process reads from the store what the other process has saved
    let is_relay = |span: &&Ended| span.name == "relay" && span.trace == trace;
    let here = ended("relay of both saves", |spans| spans.iter().filter(is_relay).count() == 2).await;

    let here = here.iter().filter(|span| span.trace == trace).map(|span| ("one", span));
    let spans: Vec<_> = here.chain(there.iter().map(|span| ("two", span))).collect();
    let mut shown = paths(&spans);
    // its own event it has in memory, and reads it only if it comes too late to publish it from there
    shown.retain(|path| path != "request/append/read_feed in one");
    assert_eq!(
        shown,
        [
            "request in one",
            "request/append in one",
            "request/append/process in two",
            "request/append/process/append in two",
            "request/append/process/read_feed in one",
            "request/append/process/relay in one",
            "request/append/process/relay/publish in one",
            "request/append/relay in one",
            "request/append/relay/publish in one",
        ]
    );
    let read = spans.iter().find(|(_, span)| span.name == "read_feed").unwrap();
    assert!(read.1.attributes["eventbus.reader"].starts_with("relay:"));
    app.shutdown(TIMEOUT).await.unwrap();
}
