//! Publishes numbered events of any type, for workers to share; `OrderCreated` and `OrderShipped` are the orders of the
//! tutorial (`tutorial-17`).
//!
//! `cargo run -p examples --bin publisher -- --prefix exercise1 --count 100 --event TaskAssigned`

use clap::Parser;
use eventbus::{Name, NewEvent, Result, StreamId, Version, bus::EventBus, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use serde_json::json;

#[derive(Parser)]
struct Args {
    /// The Redis server
    #[arg(long, value_name = "URL", default_value = "redis://localhost:6379")]
    bus: String,
    /// Prefix of the stream's name
    #[arg(long, default_value = "events")]
    prefix: String,
    /// Number of events
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// The type of the events
    #[arg(long, value_name = "TYPE", default_value = "TaskAssigned")]
    event: String,
    /// The type of the aggregates they belong to; by default `Order` for the orders of the tutorial, else `Task`
    #[arg(long, value_name = "TYPE")]
    aggregate: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    examples::log_warnings();
    let args = Args::parse();
    let config = RedisEventBusConfig {
        redis_url: args.bus.clone(),
        stream_prefix: args.prefix.clone(),
        ..RedisEventBusConfig::from_env()?
    };
    let bus = RedisEventBus::connect(config).await?;
    let events = (1..=args.count).map(|number| event(&args, number)).collect::<Result<Vec<_>>>()?;
    let ids = bus.publish(&events).await?;
    match (ids.first(), ids.last()) {
        (Some(first), Some(last)) => println!("published {} events, {first} to {last}", ids.len()),
        _ => println!("published 0 events"),
    }
    bus.disconnect().await;
    Ok(())
}

/// Returns an event whose type is known only at run time. For one with a struct use `RecordedEvent::from_event`.
fn event(args: &Args, number: u64) -> Result<RecordedEvent> {
    let (aggregate, payload) = match args.event.as_str() {
        "OrderCreated" => ("Order", json!({ "customer_id": format!("cust-{number}"), "total_amount": 99.99 })),
        "OrderShipped" => ("Order", json!({ "tracking_number": format!("TRACK-{number}") })),
        _ => ("Task", json!({ "number": number })),
    };
    let new = NewEvent::new(Name::new("event type", &args.event)?, 1, payload.to_string());
    let aggregate = args.aggregate.as_deref().unwrap_or(aggregate);
    let stream = StreamId::new(Name::new("aggregate type", aggregate)?, AggregateId::new());
    Ok(new.recorded_as(stream, Version::FIRST, None))
}
