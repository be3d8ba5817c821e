//! Shared parts of the examples: opening the backends named on the command line, signals, and some layout.

pub mod signal;

use std::{path::PathBuf, sync::Arc};

use eventbus::{
    App, InMemoryEventBus, InMemoryEventStore, Result, Saved, bus::EventBus, store::EventStore, support::redacted,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::PgEventStore;
use eventstore_sqlite::SqliteEventStore;

/// Formats an amount in cents in the usual way: `99.99`. Events hold whole cents, which add up exactly.
#[must_use]
pub fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// The arguments `--store` and `--bus`.
#[derive(Debug, clap::Args)]
pub struct Backends {
    /// The event store: a file (SQLite), `postgres://…`, or `memory`
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// The bus: `memory` (within the process) or `redis://…`
    #[arg(long, value_name = "URL", default_value = "memory")]
    bus: String,
}

impl Backends {
    /// Opens the store; by default in the file `default_file` in the target folder.
    pub async fn open_store(&self, default_file: &str) -> Result<Arc<dyn EventStore>> {
        match &self.store {
            Some(url) => open_store(url).await,
            None => open_store(&in_target(default_file)?.to_string_lossy()).await,
        }
    }

    /// Opens the bus; on Redis its keys begin with `prefix`.
    pub async fn open_bus(&self, prefix: &str) -> Result<Arc<dyn EventBus>> {
        if self.bus == "memory" {
            return Ok(Arc::new(InMemoryEventBus::new()));
        }
        let config = RedisEventBusConfig {
            redis_url: self.bus.clone(),
            stream_prefix: prefix.into(),
            ..RedisEventBusConfig::default()
        };
        Ok(Arc::new(RedisEventBus::connect(config).await?))
    }

    /// Returns the locations that `open_store` and `open_bus` open, without passwords.
    pub fn describe(&self, default_file: &str) -> Result<String> {
        let store = match &self.store {
            Some(url) => shown(url),
            None => in_target(default_file)?.display().to_string(),
        };
        Ok(format!("store: {store}\nbus:   {}", shown(&self.bus)))
    }
}

/// Returns a file name unchanged, and a URL without its password.
pub fn shown(location: &str) -> String {
    if location.contains("://") { redacted(location) } else { location.into() }
}

/// Opens a store by URL: `postgres://…`, `memory`, or a file for SQLite.
pub async fn open_store(url: &str) -> Result<Arc<dyn EventStore>> {
    Ok(match url {
        "memory" => Arc::new(InMemoryEventStore::new()),
        _ if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Arc::new(PgEventStore::connect(url).await?)
        }
        _ if url.starts_with("sqlite:") => Arc::new(SqliteEventStore::connect(url).await?),
        _ => Arc::new(SqliteEventStore::open(url).await?),
    })
}

/// Returns the path of a file in the target folder, which is also the folder of the running binary.
pub fn in_target(file: &str) -> Result<PathBuf> {
    let binary = std::env::current_exe()?;
    let target = binary.parent().and_then(|profile| profile.parent()).ok_or("the binary is in no folder")?;
    Ok(target.join(file))
}

/// Opens the backends named on the command line of an example, and prints them.
pub async fn backends(example: &str) -> Result<(Arc<dyn EventStore>, Arc<dyn EventBus>)> {
    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        backends: Backends,
    }
    log_warnings();
    let file = format!("{example}.db");
    let backends = <Arguments as clap::Parser>::parse().backends;
    println!("{}", backends.describe(&file)?);
    Ok((backends.open_store(&file).await?, backends.open_bus(example).await?))
}

/// Prints a heading.
pub fn act(title: &str) {
    println!("\n\x1b[1m{title}\x1b[0m");
}

/// Prints the position of a save and, once it is published, its message id.
pub async fn show(app: &App, saved: &Saved) -> Result<()> {
    let position = saved.position.unwrap_or_default();
    println!("  stored     version {} at position {position}", saved.version);
    if let Some(id) = app.published(position).await?.message_id {
        println!("  published  {id}");
    }
    Ok(())
}

/// Shows warnings, or what `RUST_LOG` asks for.
pub fn log_warnings() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
