//! The command line of a worker of our own: those of the peers have neither implementations nor sizes that vary.

use std::{path::Path, process::Command};

use bench_common::worker::{self, WorkerArgs};
use clap::Args;
use eventbus::Result;

use crate::{implementation::Implementation, scale::Scale, workload};

/// The command line of a worker that measures ours, or code written by hand.
#[derive(Debug, Clone, Args)]
pub struct OwnWorkerArgs {
    #[arg(long)]
    pub implementation: Implementation,
    #[command(flatten)]
    pub common: WorkerArgs,
    #[command(flatten)]
    pub scale: Scale,
}

impl OwnWorkerArgs {
    /// Returns the command that starts the worker.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(self.implementation.worker_arguments());
        self.common.add_to(&mut command);
        self.scale.add_to(&mut command);
        command
    }
}

/// Measures a round for each line of the input.
pub fn run(args: &OwnWorkerArgs) -> Result<()> {
    #[cfg(feature = "traces")]
    crate::ours::export_traces()?;
    let workload = workload::find(&args.common.workload)?;
    worker::run(&args.common, workload.meter(&args.common), workload.open(args))
}
