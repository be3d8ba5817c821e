//! Measures how much memory reading takes, by default of large events: `cargo run --release -p workspace-tests --bin memory`.
//!
//! Each way to read runs in a process of its own, and prints how far its resident memory rose above its value before
//! the first event (Linux: `VmHWM`). The program fails if one exceeds `--at-most`, or does not read every event. It
//! starts the stores and servers itself.
#![allow(clippy::print_stdout, reason = "the table")]

use std::{
    env, fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use eventbus::{
    BoxError, ExpectedVersion, Name, NewEvent, Position, StreamId, Version,
    event::EventFilter,
    port::{Append, AppendEvents as _, EventBus, FeedFilter, ReadFeed as _, Subscriber},
    prelude::*,
};
use eventbus_redis::{
    RedisEventBus, RedisEventBusConfig,
    streams::{RedisStreams, RedisStreamsConfig},
};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use futures_util::TryStreamExt as _;

/// Measures how much memory reading takes.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of events to read.
    #[arg(long, default_value_t = 300)]
    events: u64,
    /// Size of each event in bytes.
    #[arg(long, default_value_t = 2 << 20)]
    bytes: usize,
    /// The ways to read: these alone.
    #[arg(long, value_delimiter = ',', default_values = WAYS)]
    only: Vec<String>,
    /// Limit of memory for each way to read, in MiB.
    #[arg(long, default_value_t = 100)]
    at_most: u64,
}

const WAYS: [&str; 6] =
    ["postgres-feed", "postgres-rebuild", "redis-consumer", "redis-history", "redis-follow", "redis-reader"];

/// Events that are stored together, if they are small.
const STORED_TOGETHER: usize = 1_000;

/// Events of a stream, if they are stored together.
const OF_A_STREAM: usize = 10;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Document")]
struct DocumentStored {
    text: String,
}

/// Counts the documents.
#[derive(Debug, Default)]
struct Documents(u64);

#[projection(name = "documents", manual)]
impl Documents {
    fn stored(&mut self, _event: &DocumentStored) {
        self.0 += 1;
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    if let Ok(way) = env::var("MEMORY_WAY") {
        return read(&way, env::var("MEMORY_EVENTS")?.parse()?, env::var("MEMORY_PREFIX")?).await;
    }
    let Arguments { events, bytes, only, at_most } = Arguments::parse();
    let prefix = eventbus_test::unique_name("memory");
    if let Some(unknown) = only.iter().find(|way| !WAYS.contains(&way.as_str())) {
        return Err(format!("no way to read is called `{unknown}`; there are {}", WAYS.join(", ")).into());
    }
    fill(&prefix, events, bytes, &only).await?;
    println!("{events} events of {bytes} bytes, resident memory above the start of the process at most:");
    let mut wrong = Vec::new();
    for way in only {
        let said = Command::new(env::current_exe()?)
            .env("MEMORY_WAY", &way)
            .env("MEMORY_EVENTS", events.to_string())
            .env("MEMORY_PREFIX", &prefix)
            .env("DATABASE_URL", eventbus_test::postgres_url())
            .env("REDIS_URL", eventbus_test::redis_url())
            .output()?;
        let (out, err) = (String::from_utf8(said.stdout)?, String::from_utf8(said.stderr)?);
        println!("{way:>16} {}{err}", out.trim());
        let taken = out.trim().split(" MiB").next().and_then(|taken| taken.parse::<u64>().ok());
        if !said.status.success() || taken.is_none_or(|taken| taken > at_most) {
            wrong.push(way);
        }
    }
    let mut redis = eventbus_test::internal::redis_connection(eventbus_test::redis_url()).await;
    let keys: [String; 2] = [format!("{prefix}:stream"), format!("{prefix}-plain:large")];
    redis::cmd("DEL").arg(&keys[..]).exec_async(&mut redis).await?;
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("these failed or took more than {at_most} MiB: {}", wrong.join(", ")).into())
}

fn bus_config(prefix: &str) -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: eventbus_test::redis_url().into(),
        stream_prefix: prefix.into(),
        ..RedisEventBusConfig::default()
    }
}

async fn store(prefix: &str) -> Result<PgEventStore, BoxError> {
    let config = PgEventStoreConfig {
        database_url: eventbus_test::postgres_url().into(),
        schema: prefix.replace('-', "_"),
        ..PgEventStoreConfig::default()
    };
    Ok(PgEventStore::connect_with(config).await?)
}

async fn streams(prefix: &str) -> Result<RedisStreams, BoxError> {
    let redis_url = eventbus_test::redis_url().into();
    let stream_prefix = format!("{prefix}-plain");
    Ok(RedisStreams::connect(RedisStreamsConfig { redis_url, stream_prefix, ..RedisStreamsConfig::default() }).await?)
}

/// Stores the events where these ways read them.
async fn fill(prefix: &str, events: u64, bytes: usize, ways: &[String]) -> Result<(), BoxError> {
    let is_read = |of: &[&str]| ways.iter().any(|way| of.contains(&way.as_str()));
    let in_store = is_read(&["postgres-feed", "postgres-rebuild"]);
    let on_bus = is_read(&["redis-consumer", "redis-history", "redis-follow"]);
    let plain = is_read(&["redis-reader"]);
    let (store, bus) = (store(prefix).await?, RedisEventBus::connect(bus_config(prefix)).await?);
    let streams = streams(prefix).await?;
    // a text that hardly compresses
    let text: String = (0..bytes).map(|_| fastrand::alphanumeric()).collect();
    let payload = format!(r#"{{"text":"{text}"}}"#);
    let new_event = || NewEvent::new(Name::from_static("DocumentStored"), 1, payload.clone());
    let together = (STORED_TOGETHER * 1_024 / bytes.max(1)).clamp(1, STORED_TOGETHER) as u64;
    let mut first = 0;
    while first < events {
        let numbers: Vec<_> = (first..events.min(first + together)).collect();
        first += together;
        let mut appends = Vec::new();
        for numbers in numbers.chunks(OF_A_STREAM) {
            let stream = StreamId::parse("Document", &numbers[0].to_string())?;
            let events = numbers.iter().map(|_| new_event()).collect();
            appends.push(Append { stream, expected: ExpectedVersion::NoStream, events });
        }
        if on_bus {
            let records = appends.iter().flat_map(|Append { stream, events, .. }| {
                let versions = (1..).map(Version::new);
                let events = events.iter().cloned().zip(versions);
                events.map(|(event, version)| event.recorded_as(stream.clone(), version, None))
            });
            bus.publish(&records.collect::<Vec<_>>()).await?;
        }
        if in_store {
            for appended in store.append_many(appends).await {
                appended?;
            }
        }
        if plain {
            for _ in numbers {
                streams.publisher().publish("large", "stored", &text).await?;
            }
        }
    }
    Ok(())
}

async fn read(way: &str, events: u64, prefix: String) -> Result<(), BoxError> {
    let before = resident("VmRSS:")?;
    let mut count = 0;
    match way {
        "postgres-feed" => {
            let store = store(&prefix).await?;
            let head = store.head().await?;
            let filter = FeedFilter::default();
            let mut feed = store.read_feed(Position::START, head, &filter);
            while feed.try_next().await?.is_some() {
                count += 1;
            }
        }
        "postgres-rebuild" => {
            let documents = eventbus::ProjectionHandle::with_factory(Documents::default);
            documents.rebuild(&store(&prefix).await?).await?;
            count = documents.read().await.0;
        }
        "redis-consumer" => {
            let bus = RedisEventBus::connect(bus_config(&prefix)).await?;
            let handled = Arc::new(AtomicU64::new(0));
            let counts = Arc::clone(&handled);
            let reader = Subscriber::new(Name::from_static("reader"), EventFilter::All, move |_| {
                counts.fetch_add(1, Ordering::SeqCst);
                Box::pin(async { Ok(()) })
            });
            bus.add_subscriber(bus.default_group().clone(), reader);
            let consuming = bus.clone();
            let consumer = tokio::spawn(async move { consuming.start_consuming().await });
            while handled.load(Ordering::SeqCst) < events {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            bus.stop_consuming().await;
            consumer.await??;
            count = handled.load(Ordering::SeqCst);
        }
        "redis-history" => {
            let bus = RedisEventBus::connect(bus_config(&prefix)).await?;
            let mut history = bus.history();
            loop {
                let page = history.page(1_000).await?;
                if page.is_empty() {
                    break;
                }
                count += page.len() as u64;
            }
        }
        "redis-follow" => {
            let mut follow = RedisEventBus::connect(bus_config(&prefix)).await?.history().follow();
            while count < events {
                follow.next().await?;
                count += 1;
            }
        }
        _ => {
            let streams = streams(&prefix).await?;
            let mut reader = streams.reader(&streams.config().stream_key("large"));
            loop {
                let page = reader.page(1_000).await?;
                if page.is_empty() {
                    break;
                }
                count += page.len() as u64;
            }
        }
    }
    let peak = resident("VmHWM:")?;
    println!("{:>6} MiB ({count} events)", (peak - before).div_ceil(1_024));
    if count == events { Ok(()) } else { Err(format!("{count} of {events} events were read").into()) }
}

/// Returns one line of the kernel's status of this process, in KiB.
fn resident(line: &str) -> Result<u64, BoxError> {
    let status = fs::read_to_string("/proc/self/status")?;
    let found = status.lines().find_map(|status| status.strip_prefix(line)).ok_or("the kernel does not say")?;
    Ok(found.trim().trim_end_matches(" kB").parse()?)
}
