//! One workload in one implementation, in a process of its own: measures a round for each line of its input.

use std::{
    io::{self, BufRead as _, Write as _},
    path::Path,
    process::Command,
};

use clap::ValueEnum as _;
use eventbus::Result;
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::Builder;

use crate::{WorkerArgs, bench::Round, workload};

/// Returns the command that starts a worker.
pub fn command(program: &Path, args: &WorkerArgs) -> Command {
    let implementation = args.implementation.to_possible_value();
    let mut command = Command::new(program);
    command.args(["worker", "--workload", &args.workload, "--callers", &args.callers.to_string()]);
    command.args(["--implementation", implementation.as_ref().map_or("", |value| value.get_name())]);
    command.args(["--postgres", &args.postgres, "--redis", &args.redis]);
    for (flag, is_set) in [("--quick", args.quick), ("--count-allocations", args.count_allocations)] {
        if is_set {
            command.arg(flag);
        }
    }
    args.scale.add_to(&mut command);
    command
}

/// Opens the workload, runs a round to warm up, and says that it is ready. At the end of the input it checks the
/// result.
pub fn run(args: &WorkerArgs) -> Result<()> {
    let workload = workload::find(&args.workload)?;
    if args.count_allocations {
        return count_allocations(workload, args);
    }
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let meter = runtime.block_on(workload.meter(args))?;
    let mut bench = runtime.block_on(workload.open(args))?;
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
fn count_allocations(workload: &workload::Workload, args: &WorkerArgs) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut bench = runtime.block_on(workload.open(args))?;
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
