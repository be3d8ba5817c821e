//! A Redis without memory, and one that accepts no writes; store and bus both use it.

use eventbus::{
    App, BoxError, Position,
    port::{FeedFilter, ReadFeed as _},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig, RedisTransaction};
use redis::{Cmd, aio::MultiplexedConnection, cmd};

use super::{DatabaseFault, Deposited, FaultDurations, FaultScenario, SHUTDOWN_TIMEOUT, run_faults};
use crate::fire::{HarnessError, run_summary::RunSummary};

#[handler(manual, group = "notes")]
async fn note(_event: &Deposited, meta: &Metadata, tx: &mut RedisTransaction) -> Result<(), BoxError> {
    Ok(tx.hincrby("notes", &meta.event_id().to_string(), 1)?)
}

#[derive(Default)]
struct RedisRows;

#[projection(name = "rows", manual)]
impl RedisRows {
    async fn deposited(&self, _event: &Deposited, meta: &Metadata, tx: &mut RedisTransaction) -> Result<(), BoxError> {
        Ok(tx.hincrby("rows", &meta.event_id().to_string(), 1)?)
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
    let app = builder.handler::<note>().projection(RedisRows).start().await?;
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

    async fn counts(&mut self, table: &str) -> Result<Vec<u64>, HarnessError> {
        Ok(cmd("HVALS").arg(table).query_async(&mut self.admin).await?)
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
        let head = self.store.head().await?;
        Ok(self.store.count_events(Position::START, head, &FeedFilter::all()).await?)
    }

    async fn count_written(&mut self) -> Result<u64, HarnessError> {
        Ok(self.counts("notes").await?.len().min(self.counts("rows").await?.len()) as u64)
    }

    async fn count_wrong(&mut self) -> Result<u64, HarnessError> {
        let stored = self.count_stored().await?;
        let mut wrong = 0;
        for table in ["notes", "rows"] {
            let counts = self.counts(table).await?;
            wrong += stored.abs_diff(counts.iter().filter(|count| **count == 1).count() as u64);
        }
        Ok(wrong)
    }
}
