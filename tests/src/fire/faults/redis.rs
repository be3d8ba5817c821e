//! A Redis without memory, and one that accepts no writes; store and bus both use it.

use std::collections::BTreeMap;

use eventbus::{
    App, EventId, Name, Never, Position,
    port::{FeedFilter, ReadFeed as _},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use futures_util::TryStreamExt as _;
use redis::{Cmd, aio::MultiplexedConnection, cmd};

use super::{DatabaseFault, Deposited, FaultDurations, FaultScenario, SHUTDOWN_TIMEOUT, run_faults};
use crate::fire::{HarnessError, run_summary::RunSummary};

/// A deposit was noted.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Note)]
struct Noted {
    amount: i64,
}

/// The note of a deposit: a second save of the handler is a second event.
#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Noted))]
struct Note;

impl Apply for Note {
    fn apply(&mut self, _event: &NoteEvent) {}
}

#[handler(manual, group = "notes")]
async fn note(event: &Deposited, meta: &Metadata, notes: Repository<Note>) -> Result<(), HandlerError> {
    let noted = Noted { amount: event.amount };
    notes.upsert(&meta.event_id().to_string().parse()?, |_| Ok::<_, Never>(noted.clone())).await?;
    Ok(())
}

/// The deposits that each event adds, by its id.
#[derive(Debug, Default)]
struct RedisRows(BTreeMap<EventId, u64>);

#[projection(name = "rows", manual)]
impl RedisRows {
    fn deposited(&mut self, _event: &Deposited, meta: &Metadata) {
        *self.0.entry(meta.event_id()).or_default() += 1;
    }
}

/// A Redis, and an app with store and bus in it.
pub(super) struct RedisScenario {
    app: App,
    store: RedisEventStore,
    admin: MultiplexedConnection,
}

/// Runs all faults against a Redis.
pub(super) async fn run(lasting: FaultDurations, seed: u64) -> Result<RunSummary, HarnessError> {
    let server = eventbus_test::private_redis();
    let mut figures = RunSummary::new("faults");
    let config = RedisEventStoreConfig { redis_url: server.url().into(), ..Default::default() };
    let store = RedisEventStore::connect(config).await?;
    let config = RedisEventBusConfig { redis_url: server.url().into(), ..RedisEventBusConfig::default() };
    let builder = App::builder().store(store.clone()).bus(RedisEventBus::connect(config).await?);
    let app = builder.handler::<note>().projection_with(RedisRows::default).start().await?;
    let admin = eventbus_test::internal::redis_connection(server.url()).await;
    let mut scenario = RedisScenario { app, store, admin };
    run_faults(&mut scenario, lasting, seed, &mut figures).await?;
    scenario.app.shutdown(SHUTDOWN_TIMEOUT).await?;
    Ok(figures)
}

impl RedisScenario {
    async fn execute(&mut self, command: &Cmd) -> Result<(), HarnessError> {
        Ok(command.query_async(&mut self.admin).await?)
    }

    async fn replicate_from(&mut self, host: &str, port: &str) -> Result<(), HarnessError> {
        self.execute(cmd("REPLICAOF").arg(host).arg(port)).await
    }

    async fn limit_memory(&mut self, bytes: u64) -> Result<(), HarnessError> {
        self.execute(cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes)).await
    }

    /// Returns the number of events of a type.
    async fn count(&self, event_type: &'static str) -> Result<u64, HarnessError> {
        let (head, of_type) =
            (self.store.head().await?, FeedFilter::all().event_types([Name::from_static(event_type)]));
        Ok(self.store.count_events(Position::START, head, &of_type).await?)
    }

    async fn rows(&self) -> Result<Vec<u64>, HarnessError> {
        let rows = self.app.projection::<RedisRows>()?;
        Ok(rows.read().await.0.values().copied().collect())
    }
}

impl FaultScenario for RedisScenario {
    const FAULTS: &'static [DatabaseFault] = &[DatabaseFault::OutOfMemory, DatabaseFault::ReadOnly];

    fn app(&self) -> &App {
        &self.app
    }

    async fn inject(&mut self, fault: DatabaseFault) -> Result<(), HarnessError> {
        match fault {
            DatabaseFault::OutOfMemory => self.limit_memory(1).await,
            // no server listens there, so it keeps its data
            _ => self.replicate_from("127.0.0.1", "1").await,
        }
    }

    async fn sustain(&mut self, _fault: DatabaseFault) -> Result<(), HarnessError> {
        Ok(())
    }

    async fn repair(&mut self, fault: DatabaseFault) -> Result<(), HarnessError> {
        match fault {
            DatabaseFault::OutOfMemory => self.limit_memory(0).await,
            _ => self.replicate_from("NO", "ONE").await,
        }
    }

    async fn count_stored(&mut self) -> Result<u64, HarnessError> {
        self.count("Deposited").await
    }

    async fn count_written(&mut self) -> Result<u64, HarnessError> {
        Ok(self.count("Noted").await?.min(self.rows().await?.len() as u64))
    }

    async fn count_wrong(&mut self) -> Result<u64, HarnessError> {
        let stored = self.count_stored().await?;
        let notes: Vec<_> = self.store.read_all(Position::START).try_collect().await?;
        let notes = notes.iter().filter(|event| event.metadata().event_type() == "Noted" && event.version() == 1_u64);
        let rows = self.rows().await?.iter().filter(|count| **count == 1).count() as u64;
        let is_doubled = self.count("Noted").await? != notes.clone().count() as u64;
        Ok(stored.abs_diff(notes.count() as u64) + stored.abs_diff(rows) + u64::from(is_doubled))
    }
}
