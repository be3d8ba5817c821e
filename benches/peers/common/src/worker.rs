//! One workload in one implementation, in a process of its own: measures a round for each line of its input.

use std::{
    io::{self, BufRead as _, Write as _},
    process::Command,
};

use clap::Args;
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::Builder;

use crate::{
    Result,
    bench::{Bench, Round},
    meter::Meter,
};

/// The command line of a worker.
#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    #[arg(long)]
    pub workload: String,
    #[arg(long)]
    pub callers: usize,
    #[arg(long)]
    pub quick: bool,
    /// Counts allocations instead of time, in one round on one thread.
    #[arg(long)]
    pub count_allocations: bool,
    #[arg(long)]
    pub postgres: String,
    #[arg(long)]
    pub redis: String,
}

impl WorkerArgs {
    /// Adds these arguments to the command that starts a worker.
    pub fn add_to(&self, command: &mut Command) {
        let Self { workload, callers, quick, count_allocations, postgres, redis } = self;
        command.args(["--workload", workload, "--callers", &callers.to_string()]);
        command.args(["--postgres", postgres, "--redis", redis]);
        for (flag, is_set) in [("--quick", quick), ("--count-allocations", count_allocations)] {
            if *is_set {
                command.arg(flag);
            }
        }
    }
}

/// Opens the workload, runs a round to warm up, and says that it is ready. At the end of the input it checks the
/// result.
pub fn run(
    args: &WorkerArgs,
    meter: impl Future<Output = Result<Meter>>,
    open: impl Future<Output = Result<Box<dyn Bench>>>,
) -> Result<()> {
    if args.count_allocations {
        return count_allocations(open);
    }
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let meter = runtime.block_on(meter)?;
    let mut bench = runtime.block_on(open)?;
    runtime.block_on(bench.run())?;
    runtime.block_on(bench.clean_up())?;
    reply(&())?;
    for line in io::stdin().lock().lines() {
        line?;
        let measured = runtime.block_on(meter.measure(bench.run()))?;
        runtime.block_on(bench.clean_up())?;
        reply(&measured)?;
    }
    runtime.block_on(bench.check())
}

/// Counts the allocations of the one thread on which everything but blocking work runs.
fn count_allocations(open: impl Future<Output = Result<Box<dyn Bench>>>) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut bench = runtime.block_on(open)?;
    runtime.block_on(bench.run())?;
    runtime.block_on(bench.clean_up())?;
    let mut round: Result<Round> = Err("no round was run".into());
    let counted = allocation_counter::measure(|| round = runtime.block_on(bench.run()));
    runtime.block_on(bench.clean_up())?;
    runtime.block_on(bench.check())?;
    reply(&(counted.count_total as f64 / round?.operations as f64))
}

pub fn reply(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Reads a reply of a worker.
pub fn read_reply<T: DeserializeOwned>(line: Option<io::Result<String>>) -> Result<T> {
    Ok(serde_json::from_str(&line.ok_or("the worker ended before it replied")??)?)
}
