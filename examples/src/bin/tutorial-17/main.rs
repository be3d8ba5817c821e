//! Tutorial 17 of eventsource-py, "Redis Event Bus", on eventbus: its four demonstrations, and its integration with a
//! repository.
//!
//! `cargo run -p examples --bin tutorial-17 -- --bus redis://localhost:6379`; a second run finds the events that the
//! first one left in Redis.

mod demos;
mod orders;
mod repository;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use demos::Stage;

/// The edition whose output the demonstrations print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Edition {
    /// The published page with the expected output.
    #[default]
    Short,
    /// The tutorial of the repository.
    Long,
    #[value(skip)]
    Silent,
}

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// The Redis server
    #[arg(long, global = true, value_name = "URL", default_value = "redis://localhost:6379")]
    bus: String,
    /// Prefix of the streams' names
    #[arg(long, global = true, default_value = "demo")]
    prefix: String,
    /// The edition to print
    #[arg(long, value_enum, default_value_t)]
    edition: Edition,
}

#[derive(Subcommand)]
enum Part {
    /// Saves an order to a store, projects it through Redis, and rebuilds the projection from the store
    Repository {
        /// The store: `postgres://…`, or a file for SQLite
        #[arg(long, value_name = "URL")]
        store: String,
    },
}

pub fn heading(title: &str) {
    let line = "=".repeat(60);
    println!("\n{line}\n{title}\n{line}\n");
}

#[tokio::main]
async fn main() -> ExitCode {
    examples::log_warnings();
    let args = Args::parse();
    let played = match &args.part {
        Some(Part::Repository { store }) => repository::play(store, &args.bus, &args.prefix).await,
        None => demonstrations(&args).await,
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nError: {error:?}");
            eprintln!("\nMake sure Redis is running:\n  docker run -d --name redis -p 6379:6379 redis:7-alpine");
            ExitCode::FAILURE
        }
    }
}

async fn demonstrations(args: &Args) -> eventbus::Result<()> {
    let stage = Stage { redis_url: args.bus.clone(), prefix: args.prefix.clone(), edition: args.edition };
    heading(match stage.edition {
        Edition::Long => "Tutorial 17: Using Redis Event Bus",
        _ => "Tutorial 17: Redis Event Bus",
    });
    demos::publish_and_subscribe(&stage).await?;
    demos::consumer_groups(&stage).await?;
    demos::statistics_and_monitoring(&stage).await?;
    demos::projections(&stage).await?;
    heading("Tutorial 17 Complete!");
    if stage.edition == Edition::Long {
        println!("You've learned:");
        println!("  - Connecting to Redis and configuring the event bus");
        println!("  - Publishing and subscribing to events");
        println!("  - Using consumer groups for load balancing");
        println!("  - Monitoring statistics and stream information");
        println!("  - Integrating with projections");
    }
    Ok(())
}
