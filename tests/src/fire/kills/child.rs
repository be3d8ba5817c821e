//! Processes that are killed, paused and started again.

use std::{env, os::unix::process::ExitStatusExt as _, path::PathBuf, process::Stdio, time::Duration};

use tokio::process::{Child, Command};

use super::process_role::ProcessConfig;
use crate::fire::{HarnessError, role::Role};

const SIGABRT: i32 = 6;

/// The program of the child processes: the running one.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// It was killed.
    Killed,
    /// It died at its crash point.
    AtPoint,
}

impl Program {
    /// Returns this program, with arguments that make it a child process.
    ///
    /// # Errors
    /// If the system does not know the running program.
    pub fn this(arguments: &[&str]) -> Result<Self, HarnessError> {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Ok(Self { path: env::current_exe()?, arguments })
    }

    /// Returns the command of a child process that plays this role. The process is killed when its handle is dropped.
    pub(in crate::fire) fn in_role<R: Role>(&self, role: &R) -> Result<Command, HarnessError> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env(R::VARIABLE, serde_json::to_string(role)?).env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// Starts a child process, which is killed when the value is dropped.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn spawn(&self, script: &ProcessConfig) -> Result<Process, HarnessError> {
        let child = self.in_role(script)?.stderr(Stdio::piped()).spawn()?;
        Ok(Process { child, may_crash: script.death.is_some() })
    }
}

/// A child process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    may_crash: bool,
}

impl Process {
    /// Lets the process run for `time`, then kills it with `kill -9`, unless it has died before.
    ///
    /// # Errors
    /// If it ended in any other way.
    pub async fn run_for(mut self, time: Duration) -> Result<ProcessEnd, HarnessError> {
        let Ok(ended) = tokio::time::timeout(time, self.child.wait()).await else {
            return self.kill().await;
        };
        self.classify_end(ended?).await
    }

    /// Kills the process with `kill -9`.
    ///
    /// # Errors
    /// If it ended in any other way before.
    pub async fn kill(mut self) -> Result<ProcessEnd, HarnessError> {
        self.child.start_kill()?;
        let ended = self.child.wait().await?;
        if ended.signal() == Some(9) { Ok(ProcessEnd::Killed) } else { self.classify_end(ended).await }
    }

    async fn classify_end(self, ended: std::process::ExitStatus) -> Result<ProcessEnd, HarnessError> {
        if self.may_crash && ended.signal() == Some(SIGABRT) {
            return Ok(ProcessEnd::AtPoint);
        }
        let said = self.child.wait_with_output().await?;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        Err(format!("a process ended by itself, {ended}: {said}").into())
    }

    /// Sends a signal to the process, such as `STOP`.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn signal(&self, signal: &str) -> Result<(), HarnessError> {
        let id = self.child.id().ok_or("the process is gone")?;
        send_signal(id, signal).await
    }
}

/// Sends a signal to a process that this one has started, itself or through a server of its own.
///
/// # Errors
/// If it has ended.
pub(in crate::fire) async fn send_signal(id: u32, signal: &str) -> Result<(), HarnessError> {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {id}")]).status().await?;
    if sent.success() { Ok(()) } else { Err(format!("no signal {signal} for process {id}").into()) }
}
