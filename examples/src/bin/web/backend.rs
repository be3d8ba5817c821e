//! The backends: the event store, and the bus that brings events to the workers.

use eventbus::{Result, app::AppBuilder};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::PgEventStore;
use eventstore_sqlite::SqliteEventStore;
use examples::{in_target, shown};

use crate::mail;

/// The consumer group of the workers, and of the handlers in `mail`.
const GROUP: &str = "email_workers";
/// Number of events that a worker reads at once.
const BATCH: usize = 10;
/// Time that a worker waits for events in one read, in milliseconds.
const BLOCK_MS: u64 = 5_000;

// the arguments `--store` and `--bus`, among others; a doc comment would become the first line of `--help`
#[derive(Debug, clap::Args)]
pub struct Backends {
    /// The event store: `sqlite::memory:`, `sqlite:<file>` or `postgres://…` [default: in memory; with Redis, which
    /// outlives the process, a file in the target folder]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// The bus: `memory` (within the process) or `redis://…`
    #[arg(long, value_name = "URL", default_value = "memory")]
    bus: String,
    /// Prefix of the stream's name
    #[arg(long, default_value = "users")]
    prefix: String,
    /// Prefix of the workers' names, followed by a number: different in each process, and the same after a restart
    #[arg(long, default_value = "worker")]
    worker: String,
    /// Number of workers in this process; with 0 it only answers requests
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    workers: usize,
}

impl Backends {
    /// Gives the app its store and, if it has workers, the handler that writes the mails in the store's transactions.
    pub async fn on_store(&self, app: AppBuilder) -> Result<AppBuilder> {
        let (url, has_workers) = (self.store_url()?, self.workers > 0);
        let embedded = self.is_embedded();
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let app = app.store(PgEventStore::connect(&url).await?);
            mail::make_table_on_postgres(&url).await?;
            return Ok(match has_workers {
                true if embedded => app.handler::<mail::welcome_on_postgres>(),
                true => app.handler::<mail::welcome_from_stream_on_postgres>(),
                false => app,
            });
        }
        let store = SqliteEventStore::connect(&url).await?;
        mail::make_table_on_sqlite(&store).await?;
        let app = app.store(store);
        Ok(match has_workers {
            true if embedded => app.handler::<mail::welcome_on_sqlite>(),
            true => app.handler::<mail::welcome_from_stream_on_sqlite>(),
            false => app,
        })
    }

    /// Gives the app the stream on which its relay publishes, and which its workers consume. Without Redis the workers read
    /// the store.
    pub fn on_bus(&self, app: AppBuilder) -> Result<AppBuilder> {
        if self.is_embedded() {
            return Ok(app);
        }
        let config = RedisEventBusConfig {
            redis_url: self.bus.clone(),
            stream_prefix: self.prefix.clone(),
            consumer_group: GROUP.into(), // created if missing, from the oldest event on
            consumer_name: Some(self.worker.clone()),
            concurrency: self.workers.max(1), // used only if the process consumes
            batch_size: BATCH,
            block_ms: BLOCK_MS,
            ..RedisEventBusConfig::from_env()?
        };
        let bus = RedisEventBus::lazy(config)?; // the app connects it, and retries if it must
        let app = app.bus(bus.clone());
        Ok(if self.workers > 0 { app.consume("users", bus) } else { app })
    }

    /// Returns the locations of store and bus, without passwords.
    pub fn describe(&self) -> Result<String> {
        Ok(format!("store: {}\nbus:   {}", shown(&self.store_url()?), shown(&self.bus)))
    }

    fn store_url(&self) -> Result<String> {
        Ok(match &self.store {
            Some(url) => url.clone(),
            None if self.is_embedded() => "sqlite::memory:".into(),
            None => format!("sqlite:{}", in_target("web.db")?.display()),
        })
    }

    fn is_embedded(&self) -> bool {
        self.bus == "memory"
    }
}
