//! Two releases of one consumer group that replace each other, in both orders and with default settings: events that
//! only the newer release handles are not lost.

mod release;
mod versions;
mod with_kills;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{InMemoryEventStore, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig, Trim};
use fastrand::Rng;
use parking_lot::Mutex;

use super::{HarnessError, kills::Program, run_summary::RunSummary};

pub(super) use release::Member;
pub use versions::run_with_versions;
pub use with_kills::run_with_kills;

const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// The time in which a machine under load handles the events of a round.
const WAIT_TIMEOUT: Duration = Duration::from_secs(180);

/// The event that both releases handle.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Parcel)]
struct ParcelSent {
    number: u64,
}

/// The event that only the newer release handles.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Parcel)]
struct ParcelLost {
    number: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(ParcelSent, ParcelLost))]
struct Parcel;

impl Apply for Parcel {
    fn apply(&mut self, _event: &ParcelEvent) {}
}

/// Number of times that each event was handled.
#[derive(Debug, Clone, Default)]
struct HandledCounts(Arc<Mutex<BTreeMap<u64, u64>>>);

impl HandledCounts {
    fn record(&self, number: u64) {
        *self.0.lock().entry(number).or_default() += 1;
    }

    /// Returns how many of the first `events` were never handled, and how many more than once.
    fn count_lost_and_repeated(&self, events: u64) -> (u64, u64) {
        let seen = self.0.lock();
        let lost = (0..events).filter(|number| !seen.contains_key(number)).count() as u64;
        (lost, seen.values().filter(|times| **times > 1).count() as u64)
    }
}

#[handler(manual, group = "rolling")]
async fn sent(event: &ParcelSent, State(seen): State<HandledCounts>) {
    seen.record(event.number);
}

#[handler(manual, group = "rolling")]
async fn lost(event: &ParcelLost, State(seen): State<HandledCounts>) {
    seen.record(event.number);
}

/// A group on a stream of its own.
struct RollingRound {
    config: RedisEventBusConfig,
    store: InMemoryEventStore,
    handled_counts: HandledCounts,
    writer: App,
    written: u64,
    random: Rng,
}

impl RollingRound {
    async fn begin(redis_url: &str, number: u64, random: Rng) -> Result<Self, HarnessError> {
        let (redis_url, stream_prefix) = (redis_url.into(), format!("rolling-{number}"));
        let config = RedisEventBusConfig { redis_url, stream_prefix, ..RedisEventBusConfig::default() };
        let store = InMemoryEventStore::new();
        let bus = RedisEventBus::connect(config.clone()).await?;
        let writer = App::builder().store(store.clone()).bus(bus).wait_timeout(WAIT_TIMEOUT).start().await?;
        Ok(Self { config, store, handled_counts: HandledCounts::default(), writer, written: 0, random })
    }

    async fn release(&self, is_new: bool) -> Result<App, HarnessError> {
        let bus = RedisEventBus::connect(self.config.clone()).await?;
        let app = App::builder().store(self.store.clone()).bus(bus).state(self.handled_counts.clone()).without_relay();
        let app = app.wait_timeout(WAIT_TIMEOUT).handler::<sent>();
        Ok(if is_new { app.handler::<lost>() } else { app }.start().await?)
    }

    /// Waits until the writer has published all events, and the group of `consumer` has handled them.
    async fn settle(&self, consumer: &App) -> Result<(), HarnessError> {
        self.writer.settled().await?;
        Ok(consumer.settled().await?)
    }

    /// Saves some events, of the newer type too with `with_new_type`.
    async fn write(&mut self, with_new_type: bool) -> Result<(), HarnessError> {
        let parcels = self.writer.repository::<Parcel>();
        for _ in 0..self.random.u64(20..200) {
            let mut parcel = parcels.create_new(AggregateId::new());
            let number = self.written;
            if with_new_type && self.random.bool() {
                parcel.record(ParcelLost { number });
            } else {
                parcel.record(ParcelSent { number });
            }
            parcels.save(&mut parcel).await?;
            self.written += 1;
        }
        Ok(())
    }

    /// Upgrades the writers first: for a while only consumers of the older release receive events of the newer type.
    async fn writers_first(&mut self) -> Result<App, HarnessError> {
        let old = self.release(false).await?;
        self.write(false).await?;
        self.write(true).await?;
        self.settle(&old).await?;
        if self.random.bool() {
            let trim = Trim { max_length: Some(5), max_age: None };
            RedisEventBus::connect(self.config.clone()).await?.trim(trim).await?;
        }
        let new = self.release(true).await?;
        self.write(true).await?;
        old.shutdown(SHUTDOWN_TIMEOUT).await?;
        self.write(true).await?;
        Ok(new)
    }

    /// Upgrades the consumers first; the first of them is down again when the writers follow.
    async fn consumers_first(&mut self) -> Result<App, HarnessError> {
        let old = self.release(false).await?;
        self.write(false).await?;
        let first = self.release(true).await?;
        self.settle(&first).await?;
        first.shutdown(SHUTDOWN_TIMEOUT).await?;
        self.write(true).await?;
        let new = self.release(true).await?;
        self.write(true).await?;
        old.shutdown(SHUTDOWN_TIMEOUT).await?;
        self.write(true).await?;
        Ok(new)
    }
}

/// Runs upgrades, in both orders in turn.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(rounds: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let began = Instant::now();
    let server = eventbus_test::private_redis();
    let mut figures = RunSummary::new("rolling");
    let (mut lost, mut repeated) = (0, 0);
    for number in 0..rounds {
        let mut round = RollingRound::begin(server.url(), number, Rng::with_seed(seed * 1_000 + number)).await?;
        let new = match number % 2 {
            0 => round.writers_first().await?,
            _ => round.consumers_first().await?,
        };
        round.settle(&new).await?;
        let (lost_here, repeated_here) = round.handled_counts.count_lost_and_repeated(round.written);
        lost += lost_here;
        repeated += repeated_here;
        figures.events += round.written;
        figures.faults += 1;
        new.shutdown(SHUTDOWN_TIMEOUT).await?;
        round.writer.shutdown(SHUTDOWN_TIMEOUT).await?;
    }
    if lost + repeated > 0 {
        figures.failures.push(format!("{lost} events never reached their handler, {repeated} did twice"));
    }
    figures.description = "releases of a consumer group rolled over each other".into();
    figures.took = began.elapsed();
    Ok(figures)
}

/// Runs `rollings` upgrades without kills, and a fifth as many while members are killed.
///
/// # Errors
/// Like [`run`] and [`run_with_kills`].
pub async fn run_all(program: &Program, rollings: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let (calm, killed) = (run(rollings, seed).await?, run_with_kills(program, rollings.div_ceil(5), seed).await?);
    Ok(RunSummary {
        events: calm.events + killed.events,
        faults: calm.faults + killed.faults,
        description: format!("{}; {}", calm.description, killed.description),
        took: calm.took + killed.took,
        failures: [calm.failures, killed.failures].concat(),
        ..killed
    })
}
