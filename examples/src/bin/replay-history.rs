//! A new projection, and the events before it: from the stream, and from the store.
//!
//! `cargo run -p examples --bin replay-history -- --bus redis://localhost:6379` saves some orders first. The stream
//! begins where it was last trimmed; the store holds all events, so prefer it as the source.

use std::{collections::HashSet, time::Duration};

use clap::Parser;
use eventbus::{Never, ProjectionHandle, Result, prelude::*, store::EventStore};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

#[derive(Parser)]
struct Args {
    /// The Redis server
    #[arg(long, value_name = "URL", default_value = "redis://localhost:6379")]
    bus: String,
    /// Prefix of the stream's name
    #[arg(long, default_value = "replay-history")]
    prefix: String,
    /// The event store: a file (SQLite) or `postgres://…`
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Number of orders to save first; every second one is shipped
    #[arg(long, default_value_t = 10)]
    orders: u32,
}

/// Its stored types are its own: other programs may keep orders of theirs in the same database.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order, type = "replay-history.OrderCreated")]
struct OrderCreated {
    total_cents: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order, type = "replay-history.OrderShipped")]
struct OrderShipped {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "replay-history.Order", events(OrderCreated, OrderShipped))]
struct Order;

impl Apply for Order {
    fn apply(&mut self, _event: &OrderEvent) {}
}

/// The new projection.
#[derive(Debug, Default, Clone, PartialEq)]
struct Statistics {
    orders: u64,
    revenue_cents: u64,
    shipped: u64,
}

#[projection(name = "statistics", manual)]
impl Statistics {
    fn created(&mut self, event: &OrderCreated) {
        self.orders += 1;
        self.revenue_cents += event.total_cents;
    }

    fn shipped(&mut self, _event: &OrderShipped) {
        self.shipped += 1;
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    examples::log_warnings();
    let args = Args::parse();
    let url = match args.store {
        Some(url) => url,
        None => examples::in_target("replay-history.db")?.to_string_lossy().into_owned(),
    };
    let store = examples::open_store(&url).await?;
    let config =
        RedisEventBusConfig { redis_url: args.bus, stream_prefix: args.prefix, ..RedisEventBusConfig::from_env()? };
    let bus = RedisEventBus::connect(config).await?;

    let app = App::builder().store(store.clone()).bus(bus.clone()).start().await?;
    save_orders(&app, args.orders).await?;

    let by_stream = from_stream(&bus).await?;
    println!("from the stream: {by_stream:?}");
    let by_store = from_store(&*store).await?;
    println!("from the store:  {by_store:?}");
    println!("equal: {}", by_stream == by_store);
    Ok(app.shutdown(Duration::from_secs(10)).await?)
}

async fn save_orders(app: &App, count: u32) -> Result<()> {
    let orders = app.repository::<Order>();
    for number in 1..=count {
        let mut order = orders.create_new(AggregateId::new());
        order.record(OrderCreated { total_cents: 1_000 * u64::from(number) });
        orders.save(&mut order).await?;
        if number % 2 == 0 {
            orders.update(order.id(), |_| Ok::<_, Never>(OrderShipped {})).await?;
        }
    }
    app.published(app.store().head().await?).await?;
    println!("saved and published {count} orders");
    Ok(())
}

/// Reads the stream page by page. It may hold an event twice, with the same id.
async fn from_stream(bus: &RedisEventBus) -> Result<Statistics> {
    let statistics = ProjectionHandle::new(Statistics::default());
    let (mut history, mut seen) = (bus.history(), HashSet::new());
    loop {
        let page = history.page(1_000).await?;
        if page.is_empty() {
            return Ok(statistics.read().await.clone());
        }
        for entry in page {
            match entry.event {
                Ok(event) if seen.insert(event.metadata().event_id()) => statistics.handle(&event).await?,
                Ok(_) => {}
                Err(not_an_event) => eprintln!("{not_an_event}"),
            }
        }
    }
}

/// Rebuilds from the feed: each event once, in order.
async fn from_store(store: &dyn EventStore) -> Result<Statistics> {
    let statistics = ProjectionHandle::with_factory(Statistics::default);
    let rebuilt = statistics.rebuild(store).await?;
    println!("rebuilt from {} events", rebuilt.events);
    Ok(statistics.read().await.clone())
}
