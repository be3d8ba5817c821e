//! A Redis without memory, and one that takes no writes; store and bus are both in it.

use eventbus::{
    App, BoxError, Position,
    port::{FeedFilter, ReadFeed as _},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig, RedisEventStore, RedisEventStoreConfig, RedisTransaction};
use redis::{Cmd, aio::MultiplexedConnection, cmd};

use super::{DRAIN, Deposited, Fault, Lasting, Scene, endure};
use crate::fire::{Trouble, figures::Figures};

#[handler(manual, group = "notes")]
async fn note(_event: &Deposited, meta: &Metadata, tx: &mut RedisTransaction) -> Result<(), BoxError> {
    Ok(tx.hincrby("notes", &meta.event_id().to_string(), 1)?)
}

#[derive(Default)]
struct Rows;

#[projection(name = "rows", manual)]
impl Rows {
    async fn deposited(&self, _event: &Deposited, meta: &Metadata, tx: &mut RedisTransaction) -> Result<(), BoxError> {
        Ok(tx.hincrby("rows", &meta.event_id().to_string(), 1)?)
    }
}

/// A Redis, and an app that has everything in it.
pub(super) struct Redis {
    app: App,
    store: RedisEventStore,
    admin: MultiplexedConnection,
}

/// Lets one suffer.
pub(super) async fn run(lasting: Lasting, seed: u64) -> Result<Figures, Trouble> {
    let server = test_servers::private_redis();
    let mut figures = Figures::of("faults");
    let config = RedisEventStoreConfig { redis_url: server.url().into(), ..Default::default() };
    let store = RedisEventStore::connect(config).await?;
    let config = RedisEventBusConfig { redis_url: server.url().into(), ..RedisEventBusConfig::default() };
    let builder = App::builder().store(store.clone()).bus(RedisEventBus::connect(config).await?);
    let app = builder.handler::<note>().projection(Rows).start().await?;
    let admin = test_servers::redis_connection(server.url()).await;
    let mut scene = Redis { app, store, admin };
    endure(&mut scene, lasting, seed, &mut figures).await?;
    scene.app.shutdown(DRAIN).await?;
    Ok(figures)
}

impl Redis {
    async fn tell(&mut self, command: &Cmd) -> Result<(), Trouble> {
        Ok(command.query_async(&mut self.admin).await?)
    }

    async fn follow(&mut self, host: &str, port: &str) -> Result<(), Trouble> {
        self.tell(cmd("REPLICAOF").arg(host).arg(port)).await
    }

    async fn limit(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.tell(cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes)).await
    }

    async fn counts(&mut self, table: &str) -> Result<Vec<u64>, Trouble> {
        Ok(cmd("HVALS").arg(table).query_async(&mut self.admin).await?)
    }
}

impl Scene for Redis {
    const FAULTS: &'static [Fault] = &[Fault::OutOfMemory, Fault::ReadOnly];

    fn app(&self) -> &App {
        &self.app
    }

    async fn strike(&mut self, fault: Fault) -> Result<(), Trouble> {
        match fault {
            Fault::OutOfMemory => self.limit(1).await,
            // no server listens there, so it keeps what it has
            _ => self.follow("127.0.0.1", "1").await,
        }
    }

    async fn go_on(&mut self, _fault: Fault) -> Result<(), Trouble> {
        Ok(())
    }

    async fn heal(&mut self, fault: Fault) -> Result<(), Trouble> {
        match fault {
            Fault::OutOfMemory => self.limit(0).await,
            _ => self.follow("NO", "ONE").await,
        }
    }

    async fn stored(&mut self) -> Result<u64, Trouble> {
        let head = self.store.head().await?;
        Ok(self.store.count_events(Position::START, head, &FeedFilter::all()).await?)
    }

    async fn written(&mut self) -> Result<u64, Trouble> {
        Ok(self.counts("notes").await?.len().min(self.counts("rows").await?.len()) as u64)
    }

    async fn wrong(&mut self) -> Result<u64, Trouble> {
        let stored = self.stored().await?;
        let mut wrong = 0;
        for table in ["notes", "rows"] {
            let counts = self.counts(table).await?;
            wrong += stored.abs_diff(counts.iter().filter(|count| **count == 1).count() as u64);
        }
        Ok(wrong)
    }
}
