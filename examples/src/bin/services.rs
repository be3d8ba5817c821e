//! Three processes on one stream: an API that saves orders, and two consumers unknown to it.
//!
//! ```text
//! api: repository ──► store ──► relay ──► Redis ─┬─► projections: statistics, customers
//!                                                └─► notifications
//! ```
//!
//! Each in a terminal of its own, in any order; Ctrl-C ends a consumer:
//!
//! ```sh
//! cargo run -p examples --bin services -- projections
//! cargo run -p examples --bin services -- notifications
//! cargo run -p examples --bin services -- api --orders 5
//! ```

use std::{collections::BTreeMap, time::Duration};

use clap::{Parser, Subcommand};
use eventbus::{ProjectionHandle, Result, bus::EventBus, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use examples::signal::Stop;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
    /// The Redis server
    #[arg(long, global = true, value_name = "URL", default_value = "redis://localhost:6379")]
    bus: String,
    /// Prefix of the stream's name
    #[arg(long, global = true, default_value = "services")]
    prefix: String,
}

#[derive(Subcommand)]
enum Role {
    /// Saves orders, and publishes them
    Api {
        /// Number of orders
        #[arg(long, default_value_t = 3)]
        orders: u32,
        /// The event store: a file (SQLite) or `postgres://…`
        #[arg(long, value_name = "URL")]
        store: Option<String>,
    },
    /// Counts orders in two projections
    Projections,
    /// Tells customers about their orders
    Notifications,
}

// shared by all of them: usually a crate of its own

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct OrderPlaced {
    customer: String,
    total_cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderPlaced))]
struct Order {
    is_placed: bool,
}

impl Apply for Order {
    fn apply(&mut self, OrderEvent::OrderPlaced(_): &OrderEvent) {
        self.is_placed = true;
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the order was placed before")]
struct PlacedBefore;

impl Order {
    fn place(&self, customer: &str, total_cents: u64) -> Result<OrderPlaced, PlacedBefore> {
        match self.is_placed {
            true => Err(PlacedBefore),
            false => Ok(OrderPlaced { customer: customer.into(), total_cents }),
        }
    }
}

// the API

/// An app without handlers only saves and publishes.
async fn api(store: Option<String>, bus: RedisEventBus, count: u32) -> Result<()> {
    let url = match store {
        Some(url) => url,
        None => examples::in_target("services.db")?.to_string_lossy().into_owned(),
    };
    let app = App::builder().store(examples::open_store(&url).await?).bus(bus).start().await?;
    let orders = app.repository::<Order>();
    for number in 1..=count {
        let customer = if number % 2 == 0 { "grace" } else { "ada" };
        let mut order = orders.create_new(AggregateId::new());
        order.record(order.place(customer, 1_000 * u64::from(number))?);
        orders.save(&mut order).await?;
        println!("saved order {} of {customer}", order.id());
    }
    app.published(app.store().head().await?).await?;
    println!("published {count} orders");
    Ok(app.shutdown(Duration::from_secs(10)).await?)
}

// the first consumer

#[derive(Debug, Default)]
struct Statistics {
    orders: u64,
    revenue_cents: u64,
}

#[projection(name = "statistics")]
impl Statistics {
    fn placed(&mut self, event: &OrderPlaced, id: &AggregateId) {
        self.orders += 1;
        self.revenue_cents += event.total_cents;
        let revenue = examples::money(self.revenue_cents);
        println!("[statistics] order {id}: {} orders, {revenue} in all", self.orders);
    }
}

#[derive(Debug, Default)]
struct Customers {
    orders: BTreeMap<String, u64>,
}

#[projection(name = "customers")]
impl Customers {
    fn placed(&mut self, event: &OrderPlaced, id: &AggregateId) {
        let orders = self.orders.entry(event.customer.clone()).or_default();
        *orders += 1;
        println!("[customers] order {id}: no. {orders} of {}", event.customer);
    }
}

/// A projection fed from Redis, as in the tutorial: it receives every event at least once, and its counts end with the
/// process. For exact counts feed it from the store: `.store(..).without_relay().discover_groups(["projections"])`.
async fn projections(bus: RedisEventBus) -> Result<()> {
    let mut stop = Stop::on_signal()?;
    bus.subscribe_all(&ProjectionHandle::new(Statistics::default()));
    bus.subscribe_all(&ProjectionHandle::new(Customers::default()));
    let consumer = bus.start_consuming_in_background();
    println!("projections are ready");
    stop.requested().await;
    bus.shutdown(Duration::from_secs(30)).await?;
    Ok(consumer.await??)
}

// the second consumer

#[handler(group = "notifications")]
async fn notify(event: &OrderPlaced, id: &AggregateId) {
    let total = examples::money(event.total_cents);
    println!("[notifications] order {id}: dear {}, it is {total}", event.customer);
}

/// An app without a store only consumes.
async fn notifications(bus: RedisEventBus) -> Result<()> {
    let app = App::builder().bus(bus).discover_groups(["notifications"]).start().await?;
    println!("notifications are ready");
    app.run_until_signal().await
}

#[tokio::main]
async fn main() -> Result<()> {
    examples::log_warnings();
    let args = Args::parse();
    let group = match args.role {
        Role::Api { .. } | Role::Projections => "projections",
        Role::Notifications => "notifications",
    };
    let config = RedisEventBusConfig {
        redis_url: args.bus,
        stream_prefix: args.prefix,
        consumer_group: group.into(),
        consumer_name: Some(format!("{group}-1")), // a second process of this kind takes number 2
        ..RedisEventBusConfig::from_env()?
    };
    let bus = RedisEventBus::connect(config).await?;
    match args.role {
        Role::Api { orders, store } => api(store, bus, orders).await,
        Role::Projections => projections(bus).await,
        Role::Notifications => notifications(bus).await,
    }
}
