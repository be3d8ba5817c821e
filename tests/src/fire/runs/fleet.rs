//! The processes of a test, and the faults that it injects into them.

use std::{os::unix::process::ExitStatusExt as _, path::Path, process::Stdio, time::Duration};

use tokio::process::Child;

use super::{RunEntry, RunLog};
use crate::fire::{
    HarnessError,
    kills::{Program, send_signal},
    role::Role,
};

const SIGTERM: i32 = 15;
/// Time after which SIGTERM is sent again.
const REPEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Time in which a process ends after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// The running processes. Those that are left are killed when this is dropped.
#[derive(Debug)]
pub(in crate::fire) struct Fleet {
    program: Program,
    faults: RunLog,
    running: Vec<(u32, Child)>,
    /// The number of processes that were started.
    started: u32,
}

impl Fleet {
    pub(in crate::fire) fn new(program: &Program, runs: &Path) -> Result<Self, HarnessError> {
        Ok(Self { program: program.clone(), faults: RunLog::open(0, runs)?, running: Vec::new(), started: 0 })
    }

    /// Returns the number of running processes.
    pub(in crate::fire) const fn len(&self) -> usize {
        self.running.len()
    }

    /// Returns the numbers of the running processes, in the order of their places.
    pub(in crate::fire) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.running.iter().map(|(number, _)| *number)
    }

    /// Starts a process in the role of its number, and returns the number.
    pub(in crate::fire) fn start<R: Role>(&mut self, role: impl FnOnce(u32) -> R) -> Result<u32, HarnessError> {
        self.started += 1;
        let child = self.program.in_role(&role(self.started))?.stderr(Stdio::inherit()).spawn()?;
        self.running.push((self.started, child));
        Ok(self.started)
    }

    fn take(&mut self, place: usize) -> Result<(u32, Child), HarnessError> {
        let (number, mut child) = self.running.remove(place);
        match child.try_wait()? {
            None => Ok((number, child)),
            Some(status) => Err(format!("process {number} ended by itself, {status}").into()),
        }
    }

    /// Kills the process at a place, and returns its number.
    pub(in crate::fire) async fn kill(&mut self, place: usize) -> Result<u32, HarnessError> {
        let (number, mut child) = self.take(place)?;
        self.faults.append(&RunEntry::Kill(number))?;
        child.kill().await?;
        Ok(number)
    }

    /// Ends the process at a place with SIGTERM, which is no fault, and returns its number.
    pub(in crate::fire) async fn stop(&mut self, place: usize) -> Result<u32, HarnessError> {
        let (number, mut child) = self.take(place)?;
        let stopping = async {
            // a signal that comes while the process begins to listen is lost
            while let Some(id) = child.id() {
                send_signal(id, "TERM").await?;
                if let Ok(ended) = tokio::time::timeout(REPEAT_INTERVAL, child.wait()).await {
                    return Ok(ended?);
                }
            }
            Err::<_, HarnessError>("the process is gone".into())
        };
        let ended = tokio::time::timeout(STOP_TIMEOUT, stopping).await;
        let ended = ended.map_err(|_| format!("process {number} does not end after SIGTERM"))??;
        // a process that is not up yet has no handler of the signal
        let is_stopped = ended.success() || ended.signal() == Some(SIGTERM);
        if is_stopped { Ok(number) } else { Err(format!("process {number} stopped with {ended}").into()) }
    }

    /// Stops the process at a place with SIGSTOP.
    pub(in crate::fire) async fn pause(&self, place: usize) -> Result<(), HarnessError> {
        let (number, child) = &self.running[place];
        self.faults.append(&RunEntry::Pause(*number))?;
        send_signal(child.id().ok_or("the process is gone")?, "STOP").await
    }

    /// Lets the process at a place go on after a pause.
    pub(in crate::fire) async fn resume(&self, place: usize) -> Result<(), HarnessError> {
        let (number, child) = &self.running[place];
        self.faults.append(&RunEntry::Resume(*number))?;
        send_signal(child.id().ok_or("the process is gone")?, "CONT").await
    }

    /// Records that the server of the store is about to crash, or that it runs again.
    pub(in crate::fire) fn record_server(&self, is_up: bool) -> Result<(), HarnessError> {
        self.faults.append(if is_up { &RunEntry::Restart } else { &RunEntry::Crash })
    }
}
