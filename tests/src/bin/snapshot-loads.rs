//! Measures what a load of a long stream costs on each store: `cargo run --release -p workspace-tests --bin snapshot-loads`.
//!
//! Compares the loads of an order of ten events with those of one of 10,010 events, of which the last ten are not in its
//! snapshot. It starts the servers itself, and fails if a long load takes more than `--at-most` times as long.
#![allow(clippy::print_stdout, reason = "the table")]

use std::time::{Duration, Instant};

use clap::Parser;
use eventbus::{AggregateRepository, BoxError, InMemoryEventStore, Never, port::EventStore, prelude::*};
use eventstore_postgres::PgEventStore;
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use workspace_tests::stores;

/// Measures what a load of a long stream costs on each store.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of loads of each order.
    #[arg(long, default_value_t = 600)]
    loads: usize,
    /// Limit of a long load, as a multiple of a short one.
    #[arg(long, default_value_t = 1.3)]
    at_most: f64,
}

const SHORT: u64 = 10;
const LONG: u64 = 10_000;
/// The number of loads without a snapshot, which take long.
const WHOLE_LOADS: usize = 10;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct ItemAdded {
    number: u64,
    sku: String,
    name: String,
    options: Vec<String>,
}

impl ItemAdded {
    fn new(number: u64) -> Self {
        Self {
            number,
            sku: format!("BK-{number}"),
            name: "Grundzüge der Lagerhaltung, 4th edition".into(),
            options: vec!["hardcover".into(), "paper, blue".into()],
        }
    }
}

// no snapshot is taken in the background while this measures
#[derive(Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(events(ItemAdded), snapshot(every = 1_000_000))]
struct Order {
    items: u64,
    sum: u64,
}

impl Apply for Order {
    fn apply(&mut self, OrderEvent::ItemAdded(event): &OrderEvent) {
        self.items += 1;
        self.sum += event.number;
    }
}

type Orders = AggregateRepository<Order>;

async fn add(orders: &Orders, id: &AggregateId, items: u64) -> Result<(), BoxError> {
    for first in (0..items).step_by(500) {
        let batch = || (first..items.min(first + 500)).map(ItemAdded::new).collect::<Vec<_>>();
        orders.upsert(id, |_| Ok::<_, Never>(batch())).await?;
    }
    Ok(())
}

/// Loads an order, and returns how long that took.
async fn load(orders: &Orders, id: &AggregateId, items: u64) -> Result<Duration, BoxError> {
    let start = Instant::now();
    let order = orders.load(id).await?;
    let took = start.elapsed();
    if order.items == items { Ok(took) } else { Err(format!("{} items instead of {items}", order.items).into()) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Prints the medians of a store, and returns the long load as a multiple of the short one.
async fn measure(name: &str, store: impl EventStore, loads: usize) -> Result<f64, BoxError> {
    let orders = Orders::new(store);
    let (short, long) = ("short".parse()?, "long".parse()?);
    add(&orders, &short, SHORT).await?;
    add(&orders, &long, LONG).await?;
    let (mut whole, mut of_short, mut of_long) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..WHOLE_LOADS {
        whole.push(load(&orders, &long, LONG).await?);
    }
    orders.snapshot(&long).await?;
    add(&orders, &long, SHORT).await?;
    for _ in 0..loads {
        of_short.push(load(&orders, &short, SHORT).await?);
        of_long.push(load(&orders, &long, LONG + SHORT).await?);
    }
    let [whole, of_short, of_long] = [whole, of_short, of_long].map(median);
    let ratio = of_long.as_secs_f64() / of_short.as_secs_f64();
    println!("| {name} | {of_short:.1?} | {of_long:.1?} | {ratio:.2} | {whole:.1?} |");
    Ok(ratio)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let Arguments { loads, at_most } = Arguments::parse();
    println!(
        "| store | 10 events | a snapshot and 10 events | ratio | {LONG} events without a snapshot |\n|---|---|---|---|---|"
    );
    let folder = stores::folder("snapshot-loads");
    let postgres = eventbus_test::private_postgres();
    let redis = eventbus_test::private_redis();
    let config = RedisEventStoreConfig { redis_url: redis.url().into(), ..RedisEventStoreConfig::default() };
    let ratios = [
        measure("memory", InMemoryEventStore::new(), loads).await?,
        measure("SQLite", stores::sqlite(&folder).await, loads).await?,
        measure("PostgreSQL", PgEventStore::connect(postgres.url()).await?, loads).await?,
        measure("Redis", RedisEventStore::connect(config).await?, loads).await?,
    ];
    std::fs::remove_dir_all(folder)?;
    match ratios.into_iter().find(|ratio| *ratio > at_most) {
        Some(ratio) => Err(format!("a long load takes {ratio:.2} times as long as a short one").into()),
        None => Ok(()),
    }
}
