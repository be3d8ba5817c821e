//! The program of a peer: one worker, which the driver starts as it starts our own.

use async_trait::async_trait;
use clap::Parser;

use crate::{
    Result,
    bench::{Bench, Round},
    meter::Meter,
    postgres_server,
    worker::{self, WorkerArgs},
};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    worker: WorkerArgs,
}

/// Measures the workload that the command line names; `open` gets the URL of a new database.
pub fn measure_store(open: impl AsyncFnOnce(&WorkerArgs, &str) -> Result<Box<dyn Bench>>) -> Result<()> {
    let args = &Cli::parse().worker;
    worker::run(args, Meter::default().with_postgres(&args.postgres), open_store(open, args))
}

async fn open_store(
    open: impl AsyncFnOnce(&WorkerArgs, &str) -> Result<Box<dyn Bench>>,
    args: &WorkerArgs,
) -> Result<Box<dyn Bench>> {
    let database = postgres_server::new_database(&args.postgres).await?;
    let bench = open(args, &database).await?;
    postgres_server::analyze(&database).await?;
    Ok(Box::new(Analyzed { bench, database: Some(database) }))
}

/// A workload whose database is analyzed after the first round, as autovacuum does: until then the server has kept plans
/// for tables that were empty.
struct Analyzed {
    bench: Box<dyn Bench>,
    /// The database that is to be analyzed.
    database: Option<String>,
}

#[async_trait]
impl Bench for Analyzed {
    async fn run(&mut self) -> Result<Round> {
        self.bench.run().await
    }

    async fn clean_up(&mut self) -> Result<()> {
        if let Some(database) = self.database.take() {
            postgres_server::analyze(&database).await?;
        }
        self.bench.clean_up().await
    }

    async fn check(&mut self) -> Result<()> {
        self.bench.check().await
    }
}

/// Measures the workload that the command line names, on Redis.
pub fn measure_bus(open: impl AsyncFnOnce(&WorkerArgs) -> Result<Box<dyn Bench>>) -> Result<()> {
    let args = &Cli::parse().worker;
    worker::run(args, Meter::default().with_redis(&args.redis), open(args))
}
