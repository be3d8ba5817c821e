//! Consumers whose processes end while they handle events, with the default configuration of the Redis bus.
//!
//! No event may become a dead letter because consumers are killed at random; an event that ends its process must become
//! one.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version,
    event::EventFilter,
    port::{DeadLetterFilter, DeadLetters, EventBus, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use tokio::process::Child;

use super::{HarnessError, kills::Program, role::Role, run_summary::RunSummary};

/// The aggregate of the event that ends its process.
const CRASHING_AGGREGATE: &str = "killer";
/// The Redis set of handled aggregates.
const HANDLED_KEY: &str = "handled";
/// Number of consumers at any time, and of events that each handles at once.
const CONSUMERS: usize = 4;
const CONCURRENCY: usize = 16;
/// The longest time of a handler, in milliseconds.
const HANDLER_TIME_MAX_MS: u64 = 100;

fn config(redis: &str, consumer_name: Option<String>) -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: redis.into(),
        consumer_name,
        concurrency: CONCURRENCY,
        ..RedisEventBusConfig::default()
    }
}

/// A process that consumes for ever.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Consumer {
    redis: String,
    name: Option<String>,
}

impl Role for Consumer {
    const VARIABLE: &'static str = "FIRE_CONSUMER";

    async fn play(self) -> Result<(), HarnessError> {
        let connection = eventbus_test::internal::redis_connection(&self.redis).await;
        let bus = RedisEventBus::connect(config(&self.redis, self.name)).await?;
        let work = Subscriber::new(Name::from_static("work"), EventFilter::All, move |delivery| {
            let (id, mut connection) = (delivery.metadata().aggregate_id().to_string(), connection.clone());
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(..=HANDLER_TIME_MAX_MS))).await;
                if id == CRASHING_AGGREGATE {
                    std::process::abort();
                }
                let _: u64 = redis::cmd("SADD").arg(HANDLED_KEY).arg(&id).query_async(&mut connection).await?;
                Ok(())
            })
        });
        bus.add_subscriber(bus.default_group().clone(), work);
        Ok(bus.start_consuming().await?)
    }
}

fn start(program: &Program, redis: &str, name: Option<&str>) -> Result<Child, HarnessError> {
    let consumer = Consumer { redis: redis.into(), name: name.map(Into::into) };
    Ok(program.in_role(&consumer)?.stderr(Stdio::null()).spawn()?)
}

fn event(id: &str) -> Result<RecordedEvent, HarnessError> {
    let event = NewEvent::new(Name::from_static("Deposited"), 1, "{}");
    Ok(event.recorded_as(StreamId::parse("Account", id)?, Version::FIRST, None))
}

async fn publish(bus: &RedisEventBus, ids: impl Iterator<Item = String>) -> Result<(), HarnessError> {
    let events = ids.map(|id| event(&id)).collect::<Result<Vec<_>, _>>()?;
    for events in events.chunks(1_000) {
        bus.publish(events).await?;
    }
    Ok(())
}

async fn is_finished(bus: &RedisEventBus) -> Result<bool, HarnessError> {
    Ok(bus.progress(bus.default_group()).await?.is_settled())
}

/// Kills one of several consumers every second or two until all events are handled: none may become a dead letter.
///
/// # Errors
/// If a server or the system fails.
pub async fn run_random_kills(program: &Program, events: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let (began, mut rng) = (Instant::now(), Rng::with_seed(seed));
    let server = eventbus_test::private_redis();
    let url = server.url();
    let bus = RedisEventBus::connect(config(url, Some("watcher".into()))).await?;
    publish(&bus, (0..events).map(|number| number.to_string())).await?;
    let names: Vec<_> = (0..CONSUMERS).map(|number| format!("consumer-{number}")).collect();
    let mut consumers = names.iter().map(|name| start(program, url, Some(name))).collect::<Result<Vec<_>, _>>()?;
    let mut figures =
        RunSummary { events, description: "consumers killed every 1-2 s".into(), ..RunSummary::new("random") };
    while !is_finished(&bus).await? {
        tokio::time::sleep(Duration::from_millis(rng.u64(1_000..=2_000))).await;
        let number = rng.usize(..CONSUMERS);
        consumers[number].kill().await?;
        consumers[number] = start(program, url, Some(&names[number]))?;
        figures.faults += 1;
    }
    let mut connection = eventbus_test::internal::redis_connection(url).await;
    let handled: u64 = redis::cmd("SCARD").arg(HANDLED_KEY).query_async(&mut connection).await?;
    if handled != events {
        figures.failures.push(format!("{handled} of {events} events were handled"));
    }
    let dead_letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 1_000).await?.letters;
    if !dead_letters.is_empty() {
        figures.failures.push(format!("{} events are dead letters", dead_letters.len()));
    }
    Ok(RunSummary { took: began.elapsed(), ..figures })
}

/// Restarts a consumer under a new name whenever its process ends, until the event that ends it is a dead letter. That
/// must take ten minutes at most, and no further event may become one.
///
/// # Errors
/// If a server or the system fails.
pub async fn run_poison_event(program: &Program, events: u64) -> Result<RunSummary, HarnessError> {
    const AT_MOST: Duration = Duration::from_secs(600);
    let began = Instant::now();
    let server = eventbus_test::private_redis();
    let url = server.url();
    let bus = RedisEventBus::connect(config(url, Some("watcher".into()))).await?;
    let ids =
        (0..events).map(|number| if number == events / 2 { CRASHING_AGGREGATE.into() } else { number.to_string() });
    publish(&bus, ids).await?;
    let mut figures =
        RunSummary { events, description: "an event that ends its process".into(), ..RunSummary::new("killer") };
    let mut running = start(program, url, None)?;
    while !is_finished(&bus).await? && began.elapsed() < AT_MOST {
        tokio::select! {
            ended = running.wait() => {
                ended?;
                figures.faults += 1;
                running = start(program, url, None)?;
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
    let dead_letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 1_000).await?.letters;
    let dead: Vec<_> = dead_letters.iter().filter_map(|dead_letter| dead_letter.aggregate_id.as_deref()).collect();
    if dead != [CRASHING_AGGREGATE] {
        figures.failures.push(format!("dead letters after {:?}: {dead:?}", began.elapsed()));
    }
    figures.slowest_recovery = Some(began.elapsed());
    Ok(RunSummary { took: began.elapsed(), ..figures })
}
