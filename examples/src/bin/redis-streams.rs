//! Event sourcing on Redis Streams alone, without a database: the content of common tutorials, without their bugs.
//!
//! ```sh
//! cargo run -p examples --bin redis-streams -- --redis redis://localhost:6379
//! ```
//!
//! It publishes two orders, bills them in a consumer group, reclaims the entries of a consumer that died, counts the
//! orders in a projection whose numbers and checkpoint change in one step, and trims entries that all groups have
//! finished. Run it again: the numbers grow, and each order counts once. The keys are those of the tutorials:
//! `events:orders`, `stats:orders`, `projection:order-stats:checkpoint`.

use std::time::Duration;

use clap::Parser;
use eventbus::{Result, bus::MessageId};
use eventbus_redis::{
    Trim,
    streams::{Claim, Consume, EventProjection, RedisStreams, RedisStreamsConfig, StreamEntry},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Parser)]
struct Args {
    /// The Redis server
    #[arg(long, value_name = "URL", default_value = "redis://localhost:6379")]
    redis: String,
    /// Prefix of the streams' names
    #[arg(long, default_value = "events")]
    prefix: String,
    /// Time to wait for events, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    block: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct OrderCreated {
    order_id: String,
    customer_id: String,
    total: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct OrderShipped {
    order_id: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    examples::log_warnings();
    let args = Args::parse();
    let config = RedisStreamsConfig { redis_url: args.redis, stream_prefix: args.prefix, ..Default::default() };
    let streams = RedisStreams::connect(config).await?;
    let orders = streams.config().stream_key("orders");

    publish(&streams).await?;
    read(&streams, &orders).await?;
    let how = Consume { block: Duration::from_millis(args.block), ..Consume::default() };
    bill(&streams, &orders, how).await?;
    count(&order_stats(&streams, &orders)).await?;
    maintain(&streams, &orders).await
}

async fn publish(streams: &RedisStreams) -> Result<()> {
    let publisher = streams.publisher();
    let created = json!({
        "order_id": "12345",
        "customer_id": "cust_001",
        "items": [{ "sku": "WIDGET-01", "qty": 2 }],
        "total": 49.99
    });
    publisher.publish("orders", "order.created", &created).await?;
    let paid = json!({ "order_id": "12345", "payment_id": "pay_abc123", "amount": 49.99 });
    publisher.publish_capped("orders", "order.paid", &paid, 100_000).await?;

    // all or none, with no entry of a second client between them
    let created = OrderCreated { order_id: "12346".into(), customer_id: "cust_002".into(), total: 99.99 };
    let shipped = OrderShipped { order_id: "12346".into() };
    let batch = [("order.created", json!(created)), ("order.shipped", json!(shipped))];
    let ids = publisher.publish_batch("orders", batch).await?;
    println!("published 2 events, and a batch of {}", ids.len());
    Ok(())
}

async fn read(streams: &RedisStreams, orders: &str) -> Result<()> {
    let last = streams.reader(orders).last(10).await?;
    println!("the last of at most 10: {}", last.last().map_or(Ok("none"), StreamEntry::event_type)?);
    if let Some(first) = last.first() {
        let after = streams.reader(orders).after(&first.id).page(100).await?;
        println!("after the first of them there are {}", after.len());
    }
    Ok(())
}

/// Bills in a group. The first consumer dies with its pending entries; the second one reclaims them.
async fn bill(streams: &RedisStreams, orders: &str, how: Consume) -> Result<()> {
    let mut doomed = streams.consumer(orders, "billing-service", "billing-1").await?;
    let given = doomed.consume(how).await?;
    drop(doomed);
    println!("billing-1 dies with {} events", given.len());

    let mut heir = streams.consumer(orders, "billing-service", "billing-2").await?;
    // in production the idle time is a minute, the default
    let claimed = heir.claim_pending(Claim { min_idle: Duration::ZERO, ..Claim::default() }).await?;
    for entry in &claimed.entries {
        process(entry);
    }
    heir.acknowledge(claimed.entries.iter().map(|entry| &entry.id)).await?;
    for entry in heir.consume(Consume { block: Duration::ZERO, ..how }).await? {
        process(&entry);
        heir.acknowledge([&entry.id]).await?;
    }
    println!("billing-2 has taken over {} events", claimed.entries.len());
    Ok(())
}

/// Prints an entry that cannot be decoded, and leaves it in place.
fn process(entry: &StreamEntry) {
    match entry.event_type() {
        Ok(event_type) => println!("  billed {event_type}"),
        Err(error) => eprintln!("  {error}"),
    }
}

fn order_stats(streams: &RedisStreams, orders: &str) -> EventProjection {
    streams
        .projection("order-stats", orders)
        .on("order.created", |order: OrderCreated, effects| {
            effects.hincrby("stats:orders", "total_count", 1);
            effects.hincrbyfloat("stats:orders", "total_value", order.total);
        })
        .on("order.shipped", |_: OrderShipped, effects| effects.hincrby("stats:orders", "shipped_count", 1))
}

async fn count(projection: &EventProjection) -> Result<()> {
    let applied = projection.catch_up().await?;
    let unknown: u64 = applied.unknown.values().sum();
    println!("order-stats has processed {} events, {unknown} of them unknown", applied.processed);
    let rebuilt = projection.rebuild(|now| println!("  rebuilt {} of {}", now.done, now.of)).await?;
    println!("rebuilt from {} events", rebuilt.processed);
    Ok(())
}

async fn maintain(streams: &RedisStreams, orders: &str) -> Result<()> {
    let limits = Trim { max_length: Some(100_000), max_age: Some(Duration::from_secs(24 * 3_600)) };
    let trimmed = streams.trim(orders, limits).await?;
    println!("trimmed: {} removed", trimmed.removed);
    let health = streams.health(orders).await?;
    println!("Stream length: {}", health.length);
    for group in &health.consumer_groups {
        println!("Group {}: {} pending messages", group.name, group.pending);
    }
    let behind = |id: &MessageId| health.last_entry.as_ref().is_some_and(|last| last.id != *id);
    for (name, position) in &health.projections {
        println!("Projection {name}: {}", if behind(position) { "behind" } else { "up to date" });
    }
    Ok(())
}
