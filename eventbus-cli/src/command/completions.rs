//! `completions`: the completions of a shell.

use std::io::{self, Write as _};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::error::CommandError;

/// Write the completions of a shell to standard output
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

impl CompletionArgs {
    pub(crate) fn run(&self, mut command: Command, binary: &str) -> Result<(), CommandError> {
        // the generator panics on an output that cannot be written
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, binary, &mut script);
        let mut out = io::stdout().lock();
        out.write_all(&script)?;
        Ok(out.flush()?)
    }
}
