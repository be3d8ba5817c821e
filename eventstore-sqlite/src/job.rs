//! Something to write: an append, or whatever else is one small change.

use eventbus::{BoxError, port::AppendError};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::append::{AppendOutcome, CheckedAppend};

/// Something to write, and who waits for it.
pub(crate) enum Job {
    Append {
        append: CheckedAppend,
        /// Takes the append back, so that its records are made by who waits and not by who writes.
        result_sender: oneshot::Sender<Result<(CheckedAppend, AppendOutcome), AppendError>>,
        /// Its place among those that may be queued.
        _queue_permit: Option<OwnedSemaphorePermit>,
    },
    Write(Box<dyn PendingWrite>),
}

/// What a job says, if the transaction commits.
pub(crate) enum JobOutcome {
    Append(Result<AppendOutcome, AppendError>),
    Written,
}

/// A change, and who waits for what it says.
pub(crate) trait PendingWrite: Send {
    fn is_abandoned(&self) -> bool;
    /// May run again, after the transaction of the former time was rolled back.
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
        if let Some(said) = self.output {
            let _ = self.result_sender.send(Ok(said));
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

    // whoever waited may be gone: then nobody wants the answer
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
