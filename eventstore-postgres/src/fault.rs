//! What became of a statement that failed, from the point of view of the data.

use std::{error::Error, iter, sync::Arc, time::Duration};

use eventbus::{
    BoxError, Name,
    port::{CheckpointError, ReadError},
};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// A statement that failed, by what it means for the data.
#[derive(Debug)]
pub(crate) enum Fault {
    /// There was no connection to send it on.
    NotSent(BoxError),
    /// It ran into another statement and was undone; it can be sent again.
    Again(BoxError),
    /// It waited too long for a row that a transaction keeps for itself; nothing was kept.
    Blocked(BoxError),
    /// An event id is stored already; nothing was kept.
    EventIdStored(BoxError),
    /// The server refuses what was asked for, and always will; nothing was kept.
    Refused(BoxError),
    /// The server cannot do it now; nothing was kept.
    Failed(BoxError),
    /// There was no answer: it may be done, undone, or still running.
    NoAnswer(BoxError),
}

/// A statement whose answer was not waited for any longer.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct NoAnswerWithin(pub(crate) Duration);

/// What befell several appends, because one statement held them all.
#[derive(Debug, thiserror::Error)]
#[error("a statement that held {appends} appends failed")]
struct Joint {
    appends: usize,
    source: Arc<dyn Error + Send + Sync>,
}

/// The same source for each of a number of appends.
pub(crate) fn shared(source: BoxError, appends: usize) -> Box<dyn Iterator<Item = BoxError> + Send> {
    if appends == 1 {
        return Box::new(iter::once(source));
    }
    let source: Arc<dyn Error + Send + Sync> = source.into();
    Box::new(iter::repeat_n(source, appends).map(move |source| Joint { appends, source }.into()))
}

impl Fault {
    /// Sorts what the driver says about a statement that was sent.
    pub(crate) fn of_statement(error: sqlx::Error) -> Self {
        let answer = match &error {
            sqlx::Error::Database(answer) => answer.try_downcast_ref::<PgDatabaseError>(),
            // never left this process
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => {
                return Self::Refused(error.into());
            }
            _ => None,
        };
        let Some(answer) = answer else {
            return Self::NoAnswer(error.into());
        };
        if !matches!(answer.severity(), PgSeverity::Error) {
            // a backend that is going down says so in the middle of anything, also of a commit
            return Self::NoAnswer(error.into());
        }
        let sort = match answer.code() {
            "40001" | "40P01" => Self::Again,
            "55P03" => Self::Blocked,
            "23505" if answer.constraint() == Some("events_event_id_key") => Self::EventIdStored,
            "57014" => Self::Failed, // the server's time limit
            code => match code.get(..2) {
                // data, integrity, names and rights, limits of the server
                Some("22" | "23" | "42" | "54") => Self::Refused,
                _ => Self::Failed,
            },
        };
        sort(error.into())
    }

    /// What the driver or the server said.
    pub(crate) fn into_source(self) -> BoxError {
        match self {
            Self::NotSent(source)
            | Self::Again(source)
            | Self::Blocked(source)
            | Self::EventIdStored(source)
            | Self::Refused(source)
            | Self::Failed(source)
            | Self::NoAnswer(source) => source,
        }
    }

    /// The error of a checkpoint.
    pub(crate) fn of_checkpoint(self, name: &Name) -> CheckpointError {
        CheckpointError::new(name, self.into_source())
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        Self::Unavailable(fault.into_source())
    }
}
