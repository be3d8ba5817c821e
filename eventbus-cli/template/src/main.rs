//! Serves the accounts: in a file of SQLite without a server, or on PostgreSQL and Redis. With arguments it runs a command
//! of operators instead.

use std::{env, process::ExitCode, time::Duration};

use eventbus::{Result, app::AppBuilder, shutdown_signal};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::PgEventStore;
use eventstore_sqlite::SqliteEventStore;
use tokio::net::TcpListener;

use my_app::{app, routes::router};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // before the log is set up, which writes to standard output, as a command does
    #[cfg(feature = "operate")]
    if let Some(command) = eventbus_cli::from_args() {
        return Ok(command.run(|| on_servers(app())).await);
    }
    tracing_subscriber::fmt::init();
    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8000".into());
    // before the app starts, so that a process whose port is taken handles no event
    let listener = TcpListener::bind(&address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let app = on_servers(app()).await?.start().await?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = shutdown_signal()?; // SIGTERM or Ctrl-C
    axum::serve(listener, router(&app)).with_graceful_shutdown(stop).await?;
    if let Err(error) = app.shutdown(Duration::from_secs(30)).await {
        eprintln!("{error}");
        std::process::exit(70); // returning would wait forever for a handler that blocks its thread
    }
    Ok(ExitCode::SUCCESS)
}

/// Chooses the servers: PostgreSQL if `DATABASE_URL` is set, and Redis if `REDIS_URL` is.
async fn on_servers(app: AppBuilder) -> Result<AppBuilder> {
    let app = match env::var("DATABASE_URL") {
        Ok(url) => app.store(PgEventStore::connect(&url).await?),
        Err(_) => {
            tracing::warn!("DATABASE_URL is not set: the events are in the file my-app.db");
            app.store(SqliteEventStore::open("my-app.db").await?)
        }
    };
    let Ok(redis_url) = env::var("REDIS_URL") else { return Ok(app) };
    let config = RedisEventBusConfig {
        redis_url,
        stream_prefix: env!("CARGO_PKG_NAME").into(),
        consumer_name: env::var("EVENTBUS_CONSUMER_NAME").ok(), // unique, and the same after a restart
        trim_max_length: Some(1_000_000), // removes only what every group has finished; the store keeps all events
        ..RedisEventBusConfig::default()
    };
    Ok(app.bus(RedisEventBus::lazy(config)?))
}
