//! A service as in production: it drains on SIGTERM and Ctrl-C, reclaims entries of dead consumers, reports its health,
//! and raises alerts.
//!
//! `cargo run -p examples --bin production -- --bus redis://localhost:6379 --prefix orders`. It prints its health to
//! stdout, one JSON object per line as an endpoint would return it, and all else to stderr. Settings without an
//! argument come from the environment, such as `EVENTBUS_PENDING_IDLE_MS`.

use std::time::Duration;

use clap::Parser;
use eventbus::{Result, bus::EventBus, health::HealthThresholds, prelude::*};
use eventbus_redis::{Recovery, RedisEventBus, RedisEventBusConfig};
use examples::signal::Stop;
use tokio::time::{Instant, interval, interval_at};

#[derive(Parser)]
struct Args {
    /// The Redis server
    #[arg(long, value_name = "URL", default_value = "redis://localhost:6379")]
    bus: String,
    /// Prefix of the stream's name
    #[arg(long, default_value = "events")]
    prefix: String,
    /// The consumer group
    #[arg(long, default_value = "default")]
    group: String,
    /// The name of this process: unique in the group, and the same after a restart
    #[arg(long)]
    consumer: Option<String>,
    /// Time to handle an event, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    work_ms: u64,
    /// Interval of reclaiming entries of dead consumers, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..))]
    recover_every_ms: u64,
    /// Idle time of a pending entry before it is reclaimed, in milliseconds [default: that of the bus, 60000]
    #[arg(long, value_name = "MS")]
    recover_idle_ms: Option<u64>,
    /// Interval of the health check, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..))]
    check_every_ms: u64,
    /// Alerts above this number of pending messages
    #[arg(long, default_value_t = HealthThresholds::default().pending_messages)]
    max_pending: u64,
    /// Alerts above this number of dead letters
    #[arg(long, default_value_t = HealthThresholds::default().dlq_messages)]
    max_dead_letters: u64,
}

#[derive(Clone)]
struct Work(Duration);

#[handler]
async fn process(event: &RecordedEvent, State(work): State<Work>) {
    let (kind, id) = (event.event_type(), event.metadata().event_id());
    eprintln!("handling {kind} {id}");
    tokio::time::sleep(work.0).await;
    eprintln!("handled {kind} {id}");
}

#[tokio::main]
async fn main() -> Result<()> {
    examples::log_warnings();
    let args = Args::parse();
    let mut stop = Stop::on_signal()?;
    let config = RedisEventBusConfig {
        redis_url: args.bus,
        stream_prefix: args.prefix,
        consumer_group: args.group,
        consumer_name: args.consumer,
        ..RedisEventBusConfig::from_env()?
    };
    let bus = RedisEventBus::connect(config).await?;
    let app =
        App::builder().bus(bus.clone()).state(Work(Duration::from_millis(args.work_ms))).discover().start().await?;

    let recovery = Recovery { min_idle_time_ms: args.recover_idle_ms, ..Recovery::default() };
    let every = Duration::from_millis(args.recover_every_ms);
    let recovering = tokio::spawn(recover(bus.clone(), recovery, every, stop.clone()));
    let most = HealthThresholds {
        pending_messages: args.max_pending,
        dlq_messages: args.max_dead_letters,
        ..Default::default()
    };
    let every = Duration::from_millis(args.check_every_ms);
    let watching = tokio::spawn(watch_health(bus, most, every, stop.clone()));

    stop.requested().await;
    eprintln!("Shutting down...");
    recovering.await?; // before the bus closes, so that reclaimed entries are finished
    watching.await??;
    app.shutdown(Duration::from_secs(30)).await?;
    eprintln!("Shutdown complete");
    Ok(())
}

/// Reclaims entries of dead consumers periodically. A running consumer does so by itself; this is for services that
/// control it themselves.
async fn recover(bus: RedisEventBus, recovery: Recovery, every: Duration, mut stop: Stop) {
    let mut times = interval_at(Instant::now() + every, every);
    while stop.unless(times.tick()).await.is_some() {
        match bus.recover_pending_messages(recovery).await {
            Ok(stats) if stats.reprocessed > 0 || stats.dlq > 0 => {
                eprintln!("Recovery: {} reprocessed, {} to DLQ", stats.reprocessed, stats.dlq);
            }
            Ok(_) => {}
            Err(error) => eprintln!("Recovery error: {:?}", eventbus::Error::from(error)),
        }
    }
}

/// Prints the health of the bus at once and then periodically, and its alerts.
async fn watch_health(bus: RedisEventBus, most: HealthThresholds, every: Duration, mut stop: Stop) -> Result<()> {
    let mut times = interval(every);
    while stop.unless(times.tick()).await.is_some() {
        let health = bus.health().await;
        println!("{}", serde_json::to_string(&health)?);
        for alert in health.alerts(&most) {
            eprintln!("ALERT: {alert}");
        }
    }
    Ok(())
}
