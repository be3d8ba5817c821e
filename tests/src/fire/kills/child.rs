//! Processes that are killed, paused and started again.

use std::{env, os::unix::process::ExitStatusExt as _, path::PathBuf, process::Stdio, time::Duration};

use tokio::process::{Child, Command};

use super::role::{Script, VARIABLE};
use crate::fire::Trouble;

const SIGABRT: i32 = 6;

/// The program whose processes die: the one that runs now.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was killed.
    Killed,
    /// It died at the point that it was told.
    AtPoint,
}

impl Program {
    /// This program, with arguments that let it play.
    ///
    /// # Errors
    /// If the system does not know what runs.
    pub fn this(arguments: &[&str]) -> Result<Self, Trouble> {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Ok(Self { path: env::current_exe()?, arguments })
    }

    /// What starts a process that plays; it is killed when its handle is dropped.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env_remove("RUST_BACKTRACE").stdin(Stdio::null()).stdout(Stdio::null());
        command.kill_on_drop(true);
        command
    }

    /// Starts a process that plays; it is killed when the value is dropped.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn spawn(&self, script: &Script) -> Result<Process, Trouble> {
        let child = self.command().env(VARIABLE, serde_json::to_string(script)?).stderr(Stdio::piped()).spawn()?;
        Ok(Process { child, is_to_die: script.death.is_some() })
    }
}

/// A process that plays.
#[derive(Debug)]
pub struct Process {
    child: Child,
    is_to_die: bool,
}

impl Process {
    /// Lets it play for so long, then kills it with `kill -9`, unless it has died before.
    ///
    /// # Errors
    /// If it ended in any other way.
    pub async fn live(mut self, time: Duration) -> Result<End, Trouble> {
        let Ok(ended) = tokio::time::timeout(time, self.child.wait()).await else {
            return self.kill().await;
        };
        self.judge(ended?).await
    }

    /// Kills it with `kill -9`.
    ///
    /// # Errors
    /// If it ended in any other way before.
    pub async fn kill(mut self) -> Result<End, Trouble> {
        self.child.start_kill()?;
        let ended = self.child.wait().await?;
        if ended.signal() == Some(9) { Ok(End::Killed) } else { self.judge(ended).await }
    }

    async fn judge(self, ended: std::process::ExitStatus) -> Result<End, Trouble> {
        if self.is_to_die && ended.signal() == Some(SIGABRT) {
            return Ok(End::AtPoint);
        }
        let said = self.child.wait_with_output().await?;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        Err(format!("a process ended by itself, {ended}: {said}").into())
    }

    /// Sends it a signal, `STOP` for example.
    ///
    /// # Errors
    /// If it is gone.
    pub async fn signal(&self, signal: &str) -> Result<(), Trouble> {
        let id = self.child.id().ok_or("the process is gone")?;
        send(id, signal).await
    }
}

/// Sends a signal to a process that this one has started, itself or through a server of its own.
///
/// # Errors
/// If it is gone.
pub(in crate::fire) async fn send(id: u32, signal: &str) -> Result<(), Trouble> {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {id}")]).status().await?;
    if sent.success() { Ok(()) } else { Err(format!("no signal {signal} for process {id}").into()) }
}
