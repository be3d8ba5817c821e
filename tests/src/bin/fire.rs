//! The fire suite as a program, for runs of any length.
//!
//! `cargo run --release -p workspace-tests --bin fire -- --kills 500 --seed 7` prints a table of the faults and their
//! results, and exits with 1 if a promise was broken. It starts its own servers. With `FIRE_LOG` set to a folder the
//! processes log there; with `FIRE_KEEP` set, a run leaves its data in files, Redis and PostgreSQL.
#![allow(clippy::print_stdout, reason = "the table")]

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use eventbus::{
    InMemoryEventStore, Position,
    port::{EventStore, FeedFilter},
};
use eventstore_sqlite::SqliteEventStore;
use tokio::runtime::Runtime;
use workspace_tests::fire::{
    HarnessError, commands, consumer_crashes,
    database::Database,
    decisions,
    faults::{self, FaultDurations},
    kills::{self, Program, process_role::Settings},
    metered, model, network_faults,
    place::StoreKind,
    processes, race, reactions, releases, role,
    run_summary::RunSummary,
    sqlite_files, stuck_handlers, unique_values,
};

/// Checks the promises of the project while servers, processes and connections fail.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of events that the ordering race stores.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Number of random programs on each store.
    #[arg(long, default_value_t = 10_000)]
    cases: u32,
    /// Number of processes to kill; a quarter as many again with a bus of several streams, and to compare their metrics.
    #[arg(long, default_value_t = 500)]
    kills: u64,
    /// Number of times a process is paused for longer than its lease.
    #[arg(long, default_value_t = 50)]
    pauses: u64,
    /// Number of processes with handlers to kill on PostgreSQL, and to stop; a tenth as many are paused, a twentieth as many
    /// times the server crashes, and a fifth as many processes are killed on an SQLite file.
    #[arg(long, default_value_t = 400)]
    process_kills: u64,
    /// Number of times that a release replaces the one before it and is replaced by it, process by process.
    #[arg(long, default_value_t = 50)]
    rounds: u64,
    /// Number of server failures, each kind in turn.
    #[arg(long, default_value_t = 300)]
    server_kills: u64,
    /// Number of transfers, each of which causes a reaction, on PostgreSQL by two processes with a relay to Redis; a tenth as
    /// many on Redis and in SQLite.
    #[arg(long, default_value_t = 100_000)]
    reactions: u64,
    /// Number of attempts to take one of 1,000 unique values, on each store.
    #[arg(long, default_value_t = 100_000)]
    attempts: u64,
    /// Number of decisions about courses and students, on PostgreSQL; a tenth as many in SQLite.
    #[arg(long, default_value_t = 1_000_000)]
    decisions: u64,
    /// Number of commands, each sent by 32 callers at once, on each store.
    #[arg(long, default_value_t = 2_000)]
    commands: u64,
    /// Number of connections to break.
    #[arg(long, default_value_t = 200)]
    cuts: u64,
    /// Number of times the file of a SQLite store is removed, replaced or moved.
    #[arg(long, default_value_t = 200)]
    file_faults: u64,
    /// Number of events to handle while consumers are killed every second or two.
    #[arg(long, default_value_t = 100_000)]
    handled: u64,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs only these parts.
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The feed, against writers that are slow, rolled back and killed.
    Race,
    /// Random programs, against a model.
    Model,
    /// Appends over a failing network.
    Cuts,
    /// SQLite files that are removed, replaced and moved.
    Files,
    /// Writers, relays, consumers and projectors that are killed.
    Kills,
    /// Metrics of processes that are killed, against what they count by themselves.
    Metrics,
    /// Processes paused for longer than their leases.
    Pauses,
    /// Servers that crash, lose data and return to older data.
    Servers,
    /// Processes that share the handlers of a store: killed, stopped, paused, and without a server.
    Processes,
    /// Releases with different handlers that replace each other under load, in both directions.
    Releases,
    /// Appends to several streams, and handlers that save, in processes that are killed.
    Reactions,
    /// Unique values, taken by writers that are killed; and by writers that look first, which must be caught.
    Unique,
    /// Commands that 32 callers send at once, to servers that die before they answer.
    Commands,
    /// Decisions about courses and students, by writers that are killed, and by the textbook's statement.
    Decisions,
    /// Consumers killed every second or two: no event becomes a dead letter.
    Random,
    /// An event that ends its process: it becomes a dead letter within ten minutes.
    Killer,
    /// Databases that are locked, full or out of memory, or kill connections and transactions.
    Faults,
    /// Handlers that never return: one awaits, one blocks its thread.
    Stuck,
}

/// The lease of handlers in the parts that wait for many takeovers.
const LEASE: Duration = Duration::from_secs(3);

/// Time limit of the ordering race.
const RACE: Duration = Duration::from_secs(3_600);

fn main() -> Result<ExitCode, HarnessError> {
    let runtime = Runtime::new()?;
    if runtime.block_on(role::play())? {
        return Ok(ExitCode::SUCCESS);
    }
    let arguments = Arguments::parse();
    let mut is_good = true;
    println!("{}", RunSummary::table_header());
    for part in Part::value_variants() {
        if arguments.only.is_empty() || arguments.only.contains(part) {
            let figures = part.run(&arguments, &runtime)?;
            println!("{figures}");
            is_good &= figures.is_good();
        }
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Part {
    fn run(self, arguments: &Arguments, runtime: &Runtime) -> Result<RunSummary, HarnessError> {
        let Arguments {
            events,
            cases,
            cuts,
            kills,
            pauses,
            process_kills,
            rounds,
            server_kills,
            reactions,
            attempts,
            commands,
            decisions,
            file_faults,
            handled,
            seed,
            ..
        } = *arguments;
        match self {
            Self::Race => runtime.block_on(race::run(race::Plan { events, time: RACE, seed })),
            Self::Model => model_on_all(runtime, cases, seed),
            Self::Cuts => runtime.block_on(network_faults::run(cuts, seed)),
            Self::Files => runtime.block_on(sqlite_files::run(file_faults, seed)),
            Self::Kills => runtime.block_on(kills::kill(&Program::this(&[])?, Settings::Default, kills, seed)),
            Self::Metrics => runtime.block_on(metered::run(&Program::this(&[])?, kills / 4, seed)),
            Self::Pauses => runtime.block_on(kills::pause(&Program::this(&[])?, Settings::Default, pauses, seed)),
            Self::Servers => runtime.block_on(spawned(server_kills, seed)),
            Self::Processes => runtime.block_on(share_handlers(process_kills, seed)),
            Self::Releases => runtime.block_on(release(rounds, seed)),
            Self::Reactions => runtime.block_on(react(reactions, seed)),
            Self::Unique => runtime.block_on(take_addresses(attempts, seed)),
            Self::Commands => runtime.block_on(command(commands, seed)),
            Self::Decisions => runtime.block_on(decide(decisions, seed)),
            Self::Random => runtime.block_on(consumer_crashes::run_random_kills(&Program::this(&[])?, handled, seed)),
            Self::Killer => runtime.block_on(consumer_crashes::run_poison_event(&Program::this(&[])?, 200)),
            Self::Stuck => runtime.block_on(stuck_handlers::run(&Program::this(&[])?, true)),
            Self::Faults => runtime.block_on(faults::run(FaultDurations::LONG, seed)),
        }
    }
}

/// Runs the server failures on a thread of the runtime, which may block.
async fn spawned(server_kills: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let program = Program::this(&[])?;
    tokio::spawn(async move { kills::fail_servers(&program, Settings::Default, server_kills, seed).await }).await?
}

/// Runs the processes on PostgreSQL and on an SQLite file, on a thread of the runtime, which may block.
async fn share_handlers(kills: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let (program, mut figures) = (Program::this(&[])?, RunSummary::new("processes"));
    let plan = processes::Plan {
        on_sqlite: false,
        processes: 4,
        kills,
        stops: kills,
        pauses: kills / 10,
        crashes: kills / 20,
        lease: LEASE,
        seed,
    };
    let on_file = processes::Plan {
        on_sqlite: true,
        processes: 2,
        kills: kills / 5,
        stops: kills / 5,
        pauses: 0,
        crashes: 0,
        ..plan
    };
    for plan in [plan, on_file] {
        let program = program.clone();
        figures.add(tokio::spawn(async move { processes::run(&program, plan).await }).await??);
    }
    Ok(figures)
}

async fn release(rounds: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let plan = releases::Plan { processes: 4, rounds, lease: LEASE, seed };
    releases::run(&Program::this(&[])?, plan).await
}

/// Takes unique values on each store, and by writers that look first.
async fn take_addresses(attempts: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let program = Program::this(&[])?;
    let mut figures = RunSummary::new("unique");
    for (store, select_then_insert) in [
        (StoreKind::Postgres, false),
        (StoreKind::Redis, false),
        (StoreKind::Sqlite, false),
        (StoreKind::Postgres, true),
    ] {
        let plan = unique_values::Plan { store, attempts, addresses: 1_000, select_then_insert, seed };
        figures.add(unique_values::run(&program, plan).await?);
    }
    Ok(figures)
}

/// Sends commands to servers on each store, and to servers without keys.
async fn command(commands: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let program = Program::this(&[])?;
    let mut figures = RunSummary::new("commands");
    // a server without keys stores each command 32 times, in streams that each save reads
    let caught = (commands / 20).max(20);
    for (store, commands, without_keys) in [
        (StoreKind::Postgres, commands, false),
        (StoreKind::Redis, commands, false),
        (StoreKind::Sqlite, commands, false),
        (StoreKind::Postgres, caught, true),
    ] {
        let crashes = (commands / 20).max(4);
        let plan = commands::Plan { store, commands, crashes, without_keys, seed };
        figures.add(commands::run(&program, plan).await?);
    }
    Ok(figures)
}

/// Runs the reactions on each store, and adds the figures up.
async fn react(transfers: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let program = Program::this(&[])?;
    let mut figures = RunSummary::new("reactions");
    for (store, over_redis, transfers) in [
        (StoreKind::Postgres, true, transfers),
        (StoreKind::Redis, true, transfers / 10),
        (StoreKind::Sqlite, false, transfers / 10),
    ] {
        let crashes = (transfers / 200).max(4);
        let plan = reactions::Plan { store, transfers, crashes, over_redis, seed };
        figures.add(reactions::run(&program, plan).await?);
    }
    Ok(figures)
}

fn model_on_all(runtime: &Runtime, cases: u32, seed: u64) -> Result<RunSummary, HarnessError> {
    let database = runtime.block_on(Database::create())?;
    let postgres = runtime.block_on(database.store("model", 4))?;
    let stores: [(&str, Arc<dyn EventStore>); 3] = [
        ("in memory", Arc::new(InMemoryEventStore::new())),
        ("sqlite", Arc::new(runtime.block_on(SqliteEventStore::in_memory())?)),
        ("postgres", Arc::new(postgres.clone())),
    ];
    let (begin, mut figures) = (Instant::now(), RunSummary::new("model"));
    figures.description = format!("{cases} programs on each of {} stores", stores.len());
    for (name, store) in stores {
        match model::run(runtime, &store, cases, seed) {
            Ok(faults) => figures.faults += faults,
            Err(difference) => figures.failures.push(format!("{name}: {difference}")),
        }
        let head = runtime.block_on(store.head())?;
        figures.events += runtime.block_on(store.count_events(Position::START, head, &FeedFilter::all()))?;
    }
    runtime.block_on(postgres.close());
    runtime.block_on(database.remove())?;
    Ok(RunSummary { took: begin.elapsed(), ..figures })
}

/// Decides on each store that has tags, and by the textbook's statement.
async fn decide(decisions: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let program = Program::this(&[])?;
    let mut figures = RunSummary::new("decisions");
    for (store, decisions) in [(StoreKind::Postgres, decisions), (StoreKind::Sqlite, decisions / 10)] {
        let plan = decisions::Plan { store, decisions, courses: 200, seed };
        figures.add(decisions::run(&program, plan).await?);
    }
    figures.add(decisions::run_textbook(20_000, 20, seed).await?);
    Ok(figures)
}
