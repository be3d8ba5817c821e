//! Publishes numbered events of any type, for workers to share.
//!
//! `cargo run -p examples --bin publisher -- --prefix exercise1 --count 100 --event TaskAssigned`

use clap::Parser;
use eventbus::{Name, NewEvent, Result, StreamId, Version, port::EventBus, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

#[derive(Parser)]
struct Args {
    /// The Redis server
    #[arg(long, value_name = "URL", default_value = "redis://localhost:6379")]
    bus: String,
    /// What the name of the stream begins with
    #[arg(long, default_value = "events")]
    prefix: String,
    /// How many events
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// The type of the events
    #[arg(long, value_name = "TYPE", default_value = "TaskAssigned")]
    event: String,
    /// The type of the aggregates they belong to
    #[arg(long, value_name = "TYPE", default_value = "Task")]
    aggregate: String,
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

/// An event whose type is known only now. One that has a struct of its own is made by `RecordedEvent::of`.
fn event(args: &Args, number: u64) -> Result<RecordedEvent> {
    let new = NewEvent::new(Name::new("event type", &args.event)?, 1, format!(r#"{{"number":{number}}}"#));
    let stream = StreamId::new(Name::new("aggregate type", &args.aggregate)?, AggregateId::new());
    Ok(new.recorded_as(stream, Version::FIRST, None))
}
