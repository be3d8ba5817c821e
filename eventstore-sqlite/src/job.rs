//! Jobs of the writer: an append, or a small change.

use eventbus::{BoxError, port::AppendError};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::checked_append::{AppendOutcome, CheckedAppend};

/// A write, and the sender of its result.
///
/// | state | event | next state |
/// |---|---|---|
/// | waiting | the queue has a permit for it | queued |
/// | queued | a drainer takes the next jobs | in a batch |
/// | queued | its caller is dropped | abandoned: the next batch leaves it out |
/// | in a batch | a different connection writes, in a task | queued again, at the front |
/// | in a batch | the batch commits or fails: see `Batch` | its caller gets the result |
pub(crate) enum Job {
    Append {
        append: CheckedAppend,
        /// Returns the append too, so that the caller's task makes the records, and not the drainer.
        result_sender: oneshot::Sender<Result<(CheckedAppend, AppendOutcome), AppendError>>,
        /// Its permit to be queued.
        _queue_permit: Option<OwnedSemaphorePermit>,
    },
    Write(Box<dyn PendingWrite>),
}

/// Outcome of a job, if the transaction commits.
pub(crate) enum JobOutcome {
    Append(Result<AppendOutcome, AppendError>),
    Written,
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

    pub(crate) fn run(&mut self, connection: &Connection) -> rusqlite::Result<JobOutcome> {
        match self {
            Self::Append { append, .. } => append.run(connection).map(JobOutcome::Append),
            Self::Write(write) => write.run(connection).map(|()| JobOutcome::Written),
        }
    }

    // a send fails only if the caller is gone
    pub(crate) fn answer(self, answer: JobOutcome) {
        match (self, answer) {
            (Self::Append { append, result_sender: done, .. }, JobOutcome::Append(placed)) => {
                let _ = done.send(placed.map(|placed| (append, placed)));
            }
            (Self::Write(write), _) => write.answer(),
            (Self::Append { .. }, JobOutcome::Written) => {}
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
