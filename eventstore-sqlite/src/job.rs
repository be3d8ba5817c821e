//! Something to write: an append, or whatever else is one small change.

use eventbus::{BoxError, port::AppendError};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::append::{Append, Placed};

/// Something to write, and who waits for it.
pub(crate) enum Job {
    Append {
        append: Append,
        /// Takes the append back, so that its records are made by who waits and not by who writes.
        done: oneshot::Sender<Result<(Append, Placed), AppendError>>,
        /// Its place among those that may be queued.
        _room: Option<OwnedSemaphorePermit>,
    },
    Write(Box<dyn Write>),
}

/// What a job says, if the transaction commits.
pub(crate) enum Answer {
    Append(Result<Placed, AppendError>),
    Written,
}

/// A change, and who waits for what it says.
pub(crate) trait Write: Send {
    fn is_abandoned(&self) -> bool;
    /// May run again, after the transaction of the former time was rolled back.
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>);
    fn fail(self: Box<Self>, error: BoxError);
}

struct Change<T, F> {
    change: F,
    said: Option<T>,
    done: oneshot::Sender<Result<T, BoxError>>,
}

impl<T, F> Write for Change<T, F>
where
    T: Send,
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.done.is_closed()
    }

    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.said = Some((self.change)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>) {
        if let Some(said) = self.said {
            let _ = self.done.send(Ok(said));
        }
    }

    fn fail(self: Box<Self>, error: BoxError) {
        let _ = self.done.send(Err(error));
    }
}

impl Job {
    pub(crate) fn write<T: Send + 'static>(
        change: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        done: oneshot::Sender<Result<T, BoxError>>,
    ) -> Self {
        Self::Write(Box::new(Change { change, said: None, done }))
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Append { done, .. } => done.is_closed(),
            Self::Write(write) => write.is_abandoned(),
        }
    }

    pub(crate) fn run(&mut self, connection: &Connection) -> rusqlite::Result<Answer> {
        match self {
            Self::Append { append, .. } => append.run(connection).map(Answer::Append),
            Self::Write(write) => write.run(connection).map(|()| Answer::Written),
        }
    }

    // whoever waited may be gone: then nobody wants the answer
    pub(crate) fn answer(self, answer: Answer) {
        match (self, answer) {
            (Self::Append { append, done, .. }, Answer::Append(placed)) => {
                let _ = done.send(placed.map(|placed| (append, placed)));
            }
            (Self::Write(write), _) => write.answer(),
            (Self::Append { .. }, Answer::Written) => {}
        }
    }

    pub(crate) fn fail(self, append_error: impl FnOnce(BoxError) -> AppendError, source: BoxError) {
        match self {
            Self::Append { done, .. } => {
                let _ = done.send(Err(append_error(source)));
            }
            Self::Write(write) => write.fail(source),
        }
    }
}
