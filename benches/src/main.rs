//! What the stores and buses cost, compared with code written by hand: see `benches/README.md`.

mod by_hand;
mod course;
mod driver;
mod growth;
mod hot_tag;
mod idle;
mod implementation;
mod order;
mod ours;
mod own_worker;
mod peers;
mod plot;
mod round_table;
mod scale;
mod spread;
mod workload;

use std::path::PathBuf;

use bench_common::{bench, items, meter, postgres_server, redis_server, worker};
use clap::{Args, Parser, Subcommand};
use eventbus::Result;

use crate::{growth::Axis, own_worker::OwnWorkerArgs, workload::Workload};

#[derive(Debug, Parser)]
#[command(about = "What the stores and buses cost, compared with code written by hand")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures all workloads, or some, and prints a table.
    Table(TableArgs),
    /// Measures how the cost of an operation grows, and prints a table for each axis.
    Growth(GrowthArgs),
    /// Draws the measurements that `table` or `growth` has written.
    Plot(PlotArgs),
    /// Lists the workloads, and the axes of `growth`.
    List,
    /// Measures decisions about one tag from several processes, and prints a table.
    HotTag(HotTagArgs),
    /// Measures what an app at rest costs, and prints a table.
    Idle(IdleArgs),
    /// Rests until the end of its input: the command `idle` starts it.
    #[command(hide = true)]
    IdleApp(IdleAppArgs),
    /// Decides about one tag, a round for each line of its input: the command `hot-tag` starts it.
    #[command(hide = true)]
    HotTagMember(HotTagMemberArgs),
    /// Measures one workload in one implementation, a round for each line of its input: the driver starts it.
    #[command(hide = true)]
    Worker(OwnWorkerArgs),
}

#[derive(Debug, Args)]
struct TableArgs {
    /// Fewer rounds of smaller workloads: under 10 minutes.
    #[arg(long)]
    quick: bool,
    /// The rounds of each workload; 15, or 5 if quick. Odd, so that a median is a measured value.
    #[arg(long)]
    rounds: Option<usize>,
    /// Measures only these workloads.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measures another build of this program, too, in the same rounds.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Fails if the median of `ours ÷ this`, CPU, is higher in a line of the other build; names these lines.
    #[arg(long, requires = "against")]
    cpu_at_most: Option<f64>,
    /// Builds and measures the peers, or some: other frameworks, each a line in the workloads that it has.
    #[arg(long, value_delimiter = ',', num_args = 0..=1, default_missing_value = peers::ALL_NAMES)]
    peers: Vec<String>,
    /// The file for all rounds as JSON; by default `table.json` in the target folder of the benches.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes a plot of each workload into this folder.
    #[arg(long)]
    plots: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct GrowthArgs {
    /// Fewer and smaller sizes, fewer rounds: under 10 minutes.
    #[arg(long)]
    quick: bool,
    /// The rounds of each size; 7, or 3 if quick. Odd, so that a median is a measured value.
    #[arg(long)]
    rounds: Option<usize>,
    /// Measures only these axes.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The file for all rounds as JSON; by default `growth.json` in the target folder of the benches.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes a plot of each axis into this folder.
    #[arg(long)]
    plots: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PlotArgs {
    /// The file with all rounds.
    json: PathBuf,
    /// The folder for the plots.
    folder: PathBuf,
}

#[derive(Debug, Args)]
struct HotTagArgs {
    /// Odd, so that a median is a measured value.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

#[derive(Debug, Args)]
struct HotTagMemberArgs {
    #[arg(long)]
    database: String,
    #[arg(long)]
    callers: u64,
}

#[derive(Debug, Args)]
struct IdleArgs {
    /// Counts for 5 seconds instead of 30.
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Args)]
struct IdleAppArgs {
    #[arg(long)]
    database: String,
    #[arg(long)]
    redis: String,
    #[arg(long)]
    projections: usize,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Table(args) => driver::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::List => {
            for Workload { name, operation, .. } in workload::ALL {
                println!("{name:24} {operation}");
            }
            println!();
            for Axis { name, title, .. } in growth::AXES {
                println!("{name:24} growth: {title}");
            }
            Ok(())
        }
        Command::Growth(args) => growth::run(&args),
        Command::HotTag(args) => hot_tag::run(&args),
        Command::Idle(args) => idle::run(&args),
        Command::IdleApp(args) => idle::run_app(&args),
        Command::HotTagMember(args) => hot_tag::run_member(&args),
        Command::Worker(args) => own_worker::run(&args),
    }
}
