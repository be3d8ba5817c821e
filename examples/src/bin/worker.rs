//! A worker: joins a group, handles its share of the events of every type, and prints each in its wire format.
//!
//! Start two in terminals of their own, then publish:
//!
//! ```sh
//! cargo run -p examples --bin worker -- --prefix exercise1 --group workers --consumer worker-1
//! cargo run -p examples --bin worker -- --prefix exercise1 --group workers --consumer worker-2
//! cargo run -p examples --bin publisher -- --prefix exercise1 --count 100 --event TaskAssigned
//! ```
//!
//! Ctrl-C ends a worker; it prints the number of events that it handled. Events are on stdout, the rest on stderr.
//! Settings without an argument come from the environment, such as `EVENTBUS_BATCH_SIZE` and `EVENTBUS_MAX_RETRIES`.

use std::{
    io::Write,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use eventbus::{Result, bus::EventBus, handler::Subscription, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig, wire_payload};
use examples::signal::Stop;
use tokio::sync::Notify;

#[derive(Parser)]
struct Args {
    /// The Redis server
    #[arg(long, value_name = "URL", default_value = "redis://localhost:6379")]
    bus: String,
    /// Prefix of the stream's name
    #[arg(long, default_value = "events")]
    prefix: String,
    /// The group whose work is shared
    #[arg(long, default_value = "default")]
    group: String,
    /// The name of this worker: unique in the group, and the same after a restart
    #[arg(long)]
    consumer: Option<String>,
    /// Exits after this number of events; with --fail, of dead letters
    #[arg(long, value_name = "EVENTS")]
    exit_after: Option<u64>,
    /// Fails every event
    #[arg(long)]
    fail: bool,
    /// Time to handle an event, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    work_ms: u64,
}

struct Worker {
    name: String,
    fail: bool,
    work: Duration,
    exit_after: Option<u64>,
    handled: AtomicU64,
    /// Its subscription, cancelled after the last event.
    subscription: OnceLock<Subscription>,
    enough: Notify,
}

impl Worker {
    async fn handle(&self, event: &RecordedEvent) -> Result<(), HandlerError> {
        let (kind, id) = (event.event_type(), event.metadata().event_id());
        tokio::time::sleep(self.work).await;
        if self.fail {
            eprintln!("{} fails {kind} {id}", self.name);
            return Err("failure on demand".into());
        }
        writeln!(std::io::stdout(), "{}", wire_payload(event)?)?;
        eprintln!("{} handled {kind} {id}", self.name);
        let handled = self.handled.fetch_add(1, Ordering::SeqCst) + 1;
        if self.exit_after == Some(handled) {
            // no delivery follows; this event is still acknowledged
            self.subscription.get().map(Subscription::cancel);
            self.enough.notify_one();
        }
        Ok(())
    }
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
    let config = bus.config();
    let worker = Arc::new(Worker {
        name: config.consumer_name.clone().unwrap_or_default(),
        fail: args.fail,
        work: Duration::from_millis(args.work_ms),
        exit_after: args.exit_after,
        handled: AtomicU64::new(0),
        subscription: OnceLock::new(),
        enough: Notify::new(),
    });
    let handle = {
        let worker = Arc::clone(&worker);
        move |event: RecordedEvent| {
            let worker = Arc::clone(&worker);
            async move { worker.handle(&event).await }
        }
    };
    eprintln!("{} joined {} of {}", worker.name, config.consumer_group, config.stream_name());
    if args.exit_after != Some(0) {
        worker.subscription.get_or_init(|| bus.subscribe_to_all(handle));
        let consumer = bus.start_consuming_in_background();
        // whichever end comes first: a signal, enough events, or enough dead letters
        tokio::select! {
            () = stop.requested() => {}
            () = worker.enough.notified() => {}
            () = given_up(&bus, args.exit_after), if args.fail => {}
        }
        bus.shutdown(Duration::from_secs(30)).await?; // events in flight are finished and acknowledged
        consumer.await??;
    }
    let (handled, dead) = (worker.handled.load(Ordering::SeqCst), bus.stats().messages_sent_to_dlq);
    eprintln!("{} is done: {handled} events handled, {dead} given up", worker.name);
    Ok(())
}

/// Waits until `events` events are dead letters.
async fn given_up(bus: &RedisEventBus, events: Option<u64>) {
    let events = events.unwrap_or(u64::MAX);
    while bus.stats().messages_sent_to_dlq < events {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
