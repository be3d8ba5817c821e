//! Something to write: an append or a checkpoint.

use eventbus::{BoxError, Name, Position, port::AppendError};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::append::{Append, Placed};

/// Something to write, and who waits for it.
#[derive(Debug)]
pub(crate) enum Job {
    Append {
        append: Append,
        /// Takes the append back, so that its records are made by who waits and not by who writes.
        done: oneshot::Sender<Result<(Append, Placed), AppendError>>,
    },
    Checkpoint {
        name: Name,
        position: Position,
        done: oneshot::Sender<Result<(), BoxError>>,
    },
}

/// What a job says, if the transaction commits.
pub(crate) enum Answer {
    Append(Result<Placed, AppendError>),
    Saved,
}

impl Job {
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Append { done, .. } => done.is_closed(),
            Self::Checkpoint { done, .. } => done.is_closed(),
        }
    }

    pub(crate) fn run(&self, connection: &Connection) -> rusqlite::Result<Answer> {
        match self {
            Self::Append { append, .. } => append.run(connection).map(Answer::Append),
            Self::Checkpoint { name, position, .. } => {
                connection
                    .prepare_cached(include_str!("sql/save_checkpoint.sql"))?
                    .execute((name.as_str(), position.as_i64()))?;
                Ok(Answer::Saved)
            }
        }
    }

    // whoever waited may be gone: then nobody wants the answer
    pub(crate) fn answer(self, answer: Answer) {
        match (self, answer) {
            (Self::Append { append, done }, Answer::Append(placed)) => {
                let _ = done.send(placed.map(|placed| (append, placed)));
            }
            (Self::Checkpoint { done, .. }, _) => {
                let _ = done.send(Ok(()));
            }
            (Self::Append { .. }, Answer::Saved) => {}
        }
    }

    pub(crate) fn fail(self, append_error: impl FnOnce(BoxError) -> AppendError, source: BoxError) {
        match self {
            Self::Append { done, .. } => {
                let _ = done.send(Err(append_error(source)));
            }
            Self::Checkpoint { done, .. } => {
                let _ = done.send(Err(source));
            }
        }
    }
}
