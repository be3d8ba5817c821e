//! The queue of work for the write connection, and its jobs: an append, or a small change.

use std::{collections::VecDeque, sync::Arc};

use eventbus::{BoxError, port::AppendError};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::permit::{ExecutionContext, Handoff};
use crate::checked_append::{AppendOutcome, CheckedAppend};

/// Maximum number of jobs that share a transaction: the first of them waits for the last.
pub(crate) const BATCH_JOBS_MAX: usize = 512;

/// Work other than a write, between two transactions.
pub(crate) type ConnectionTask = Box<dyn FnOnce(&Connection) + Send>;

/// Work that waits for the write connection.
#[derive(Default)]
pub(crate) struct WriterQueue {
    jobs: VecDeque<Job>,
    tasks: Vec<ConnectionTask>,
    /// Code of the application, which may block: a drainer in a task leaves it to one on a thread.
    blocking_tasks: Vec<ConnectionTask>,
    /// Callers that want the connection for a transaction of their own.
    waiters: VecDeque<oneshot::Sender<Arc<Handoff>>>,
}

impl WriterQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.tasks.is_empty() && self.blocking_tasks.is_empty() && self.waiters.is_empty()
    }

    pub(crate) fn add_jobs(&mut self, jobs: impl IntoIterator<Item = Job>) {
        self.jobs.extend(jobs);
    }

    /// Adds a task for `context`; a task for [`ExecutionContext::Task`] may also run on a thread.
    pub(crate) fn add_task(&mut self, task: ConnectionTask, context: ExecutionContext) {
        match context {
            ExecutionContext::Task => self.tasks.push(task),
            ExecutionContext::Thread => self.blocking_tasks.push(task),
        }
    }

    pub(crate) fn add_waiter(&mut self, waiter: oneshot::Sender<Arc<Handoff>>) {
        self.waiters.push_back(waiter);
    }

    pub(crate) fn pop_waiter(&mut self) -> Option<oneshot::Sender<Arc<Handoff>>> {
        self.waiters.pop_front()
    }

    /// Takes the work that a drainer in `context` runs next.
    pub(crate) fn take_batch(&mut self, context: ExecutionContext) -> (Vec<ConnectionTask>, Vec<Job>) {
        let jobs = self.jobs.len().min(BATCH_JOBS_MAX);
        let mut tasks = std::mem::take(&mut self.tasks);
        if context == ExecutionContext::Thread {
            tasks.append(&mut self.blocking_tasks);
        }
        (tasks, self.jobs.drain(..jobs).collect())
    }

    /// Puts jobs back to the front, in their order.
    pub(crate) fn requeue(&mut self, jobs: impl DoubleEndedIterator<Item = Job>) {
        for job in jobs.rev() {
            self.jobs.push_front(job);
        }
    }

    /// Returns the numbers of jobs and of waiters.
    #[cfg(test)]
    pub(crate) fn lengths(&self) -> (usize, usize) {
        (self.jobs.len(), self.waiters.len())
    }
}

/// A write, and the sender of its result.
///
/// | state | event | next state |
/// |---|---|---|
/// | waiting | the queue has a permit for it | queued |
/// | queued | a drainer takes the next jobs | in a batch |
/// | queued | its caller is dropped | abandoned: the next batch leaves it out |
/// | in a batch | a different connection writes, in a task | queued again, at the front |
/// | in a batch | the batch commits or fails: see `Batch` | its caller gets the result |
#[allow(clippy::large_enum_variant, reason = "most jobs are appends: a box would cost each of them an allocation")]
pub(crate) enum Job {
    Append {
        append: CheckedAppend,
        /// `None` before the append runs.
        outcome: Option<Result<AppendOutcome, AppendError>>,
        /// Returns the append too, so that the caller's task makes the records, and not the drainer.
        result_sender: oneshot::Sender<Result<(CheckedAppend, AppendOutcome), AppendError>>,
        /// Its permit to be queued.
        _queue_permit: Option<OwnedSemaphorePermit>,
    },
    Write(Box<dyn PendingWrite>),
}

/// A change, and the sender of its result.
pub(crate) trait PendingWrite: Send {
    fn is_abandoned(&self) -> bool;
    /// Runs the change; may run again, after the transaction of the first run was rolled back.
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>);
    fn fail(self: Box<Self>, error: BoxError);
}

struct ClosureWrite<T, F> {
    change: F,
    output: Option<T>,
    result_sender: oneshot::Sender<Result<T, BoxError>>,
}

impl<T, F> PendingWrite for ClosureWrite<T, F>
where
    T: Send,
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.result_sender.is_closed()
    }

    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.output = Some((self.change)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>) {
        if let Some(output) = self.output {
            let _ = self.result_sender.send(Ok(output));
        }
    }

    fn fail(self: Box<Self>, error: BoxError) {
        let _ = self.result_sender.send(Err(error));
    }
}

impl Job {
    pub(crate) fn new_write<T: Send + 'static>(
        change: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        result_sender: oneshot::Sender<Result<T, BoxError>>,
    ) -> Self {
        Self::Write(Box::new(ClosureWrite { change, output: None, result_sender }))
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Append { result_sender: done, .. } => done.is_closed(),
            Self::Write(write) => write.is_abandoned(),
        }
    }

    /// Runs the job, and keeps its result until the transaction commits.
    pub(crate) fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::Append { append, outcome, .. } => *outcome = Some(append.run(connection)?),
            Self::Write(write) => write.run(connection)?,
        }
        Ok(())
    }

    /// Returns `true` if the job has stored events.
    pub(crate) fn has_appended(&self) -> bool {
        matches!(self, Self::Append { outcome: Some(Ok(AppendOutcome::Appended { .. })), .. })
    }

    /// Sends the result to the caller; for after the commit.
    pub(crate) fn answer(self) {
        match self {
            Self::Append { append, outcome, result_sender: done, .. } => {
                if let Some(Ok(AppendOutcome::Appended { has_new_types: true, .. })) = &outcome {
                    append.mark_types_listed();
                }
                if let Some(outcome) = outcome {
                    // fails only if the caller is gone
                    let _ = done.send(outcome.map(|outcome| (append, outcome)));
                }
            }
            Self::Write(write) => write.answer(),
        }
    }

    pub(crate) fn fail(self, append_error: impl FnOnce(BoxError) -> AppendError, source: BoxError) {
        match self {
            Self::Append { result_sender: done, .. } => {
                let _ = done.send(Err(append_error(source)));
            }
            Self::Write(write) => write.fail(source),
        }
    }
}
