//! A web service: users register by HTTP, three workers write them welcome mails, a projection counts them.
//!
//! ```text
//! POST /users ──► User ──► store ──► relay ──► bus ──► worker, three events at once ──► welcome_mails
//!                            └─────► projection ─────────────────────────────────────► GET /analytics
//! ```
//!
//! ```sh
//! cargo run -p examples --bin web                     # SQLite in memory: no server
//! cargo run -p examples --bin web -- --store sqlite:users.db                               # the same in a file
//! cargo run -p examples --bin web -- --store postgres://localhost/users --bus redis://localhost
//!
//! curl -i localhost:8000/users --json '{"name": "Ada", "email": "ada@example.com"}'     # 201, with its place
//! curl -i localhost:8000/users --json '{"name": "Ada", "email": "ada@example.com"}'     # 409: once is enough
//! curl -i localhost:8000/users --json '{"name": "", "email": "ada"}'                    # 422: which fields, and why
//! curl localhost:8000/users/<id>                      # as the answer to the first one said
//! curl localhost:8000/analytics?position=1            # {"registered_users":1,…}: waits until position 1 is counted
//! curl -i localhost:8000/health/live
//! curl -i localhost:8000/health/ready                 # 503 while the store is away; `alerts` has the bus
//! redis-cli XINFO CONSUMERS users:stream email_workers
//! ```
//!
//! A second process on the same servers needs other worker names, such as `--worker other`, or no workers: `--workers
//! 0`.
//!
//! On SIGTERM or Ctrl-C it first answers the requests in flight, then the workers finish their events in flight.

mod analytics;
mod backend;
mod mail;
mod registration;
mod routes;
mod serve;
mod user;

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use eventbus::{App, Result};
use examples::signal::Stop;
use tokio::net::TcpListener;

use crate::{analytics::Analytics, backend::Backends, serve::Limits};

/// Time limit for workers to finish their events in flight.
const WORKERS_DRAIN: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Args {
    /// Address to listen on; port 0 is any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Time limit for receiving a request, and again for answering it, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    request_ms: u64,
    /// Time that a request waits for analytics to catch up, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    wait_ms: u64,
    /// Time limit for requests in flight during shutdown, in milliseconds; then they are cut off
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    drain_ms: u64,
    #[command(flatten)]
    backends: Backends,
}

#[tokio::main]
async fn main() -> Result<()> {
    examples::log_warnings();
    let args = Args::parse();
    let mut stop = Stop::on_signal()?;
    println!("{}", args.backends.describe()?);
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    let app = start(&args).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let limits =
        Limits { request: Duration::from_millis(args.request_ms), drain: Duration::from_millis(args.drain_ms) };
    let router = routes::router(&app, limits.request);
    let stopped = async {
        stop.requested().await;
        println!("shutting down");
    };
    if !serve::serve(listener, router, limits, stopped).await {
        eprintln!("requests are cut off that were not answered within {} ms", args.drain_ms);
    }
    app.shutdown(WORKERS_DRAIN).await?; // after the requests, which wait for it
    println!("shut down");
    Ok(())
}

/// Starts the parts behind the requests: the relay, the workers, and the projection.
async fn start(args: &Args) -> Result<App> {
    let app = args.backends.on_bus(args.backends.on_store(App::builder()).await?)?;
    let app = app.projection_with(Analytics::default).wait_timeout(Duration::from_millis(args.wait_ms));
    Ok(app.start().await?)
}
