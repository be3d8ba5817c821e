//! Jobs that share a transaction, each of which succeeds or fails alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{BoxError, Name, Position, port::AppendError};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{
    append::{Append, Placed, execute},
    error::is_busy,
};

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
enum Answer {
    Append(Result<Placed, AppendError>),
    Saved,
}

impl Job {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Append { done, .. } => done.is_closed(),
            Self::Checkpoint { done, .. } => done.is_closed(),
        }
    }

    fn run(&self, connection: &Connection) -> rusqlite::Result<Answer> {
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
    fn answer(self, answer: Answer) {
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

    fn fail(self, append_error: impl FnOnce(BoxError) -> AppendError, source: BoxError) {
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

/// Jobs that share a transaction.
#[derive(Debug)]
pub(crate) struct Batch(Vec<Job>);

/// What became of a batch, beside the answers to its jobs.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Whether events were appended.
    pub(crate) appended: bool,
    /// How long the commit took.
    pub(crate) commit: Option<Duration>,
    /// The jobs that were not even begun, because another connection writes.
    pub(crate) busy: Option<(Batch, rusqlite::Error)>,
}

impl Batch {
    /// Takes jobs, but not those that nobody waits for any more; `None` if nothing is left.
    pub(crate) fn of(jobs: impl Iterator<Item = Job>) -> Option<Self> {
        let jobs: Vec<_> = jobs.filter(|job| !job.is_abandoned()).collect();
        (!jobs.is_empty()).then_some(Self(jobs))
    }

    pub(crate) fn into_jobs(self) -> impl DoubleEndedIterator<Item = Job> {
        self.0.into_iter()
    }

    /// Runs all jobs in one transaction and answers them once it has committed.
    pub(crate) fn run(self, connection: &Connection) -> Report {
        roll_back(connection); // what a panic may have left open
        if let Err(error) = execute(connection, "BEGIN IMMEDIATE") {
            if is_busy(&error) {
                return Report {
                    busy: Some((self, error)),
                    ..Report::default()
                };
            }
            self.fail(error);
            return Report::default();
        }
        let answers: rusqlite::Result<Vec<_>> =
            self.0.iter().map(|job| job.run(connection)).collect();
        match answers {
            Ok(answers) => self.commit(connection, answers),
            Err(error) => {
                roll_back(connection);
                self.run_alone(connection, error)
            }
        }
    }

    fn commit(self, connection: &Connection, answers: Vec<Answer>) -> Report {
        let appended = answers
            .iter()
            .any(|answer| matches!(answer, Answer::Append(Ok(Placed::New { .. }))));
        let started = Instant::now();
        if let Err(error) = execute(connection, "COMMIT") {
            roll_back(connection);
            // the log may hold the transaction all the same, and a crash now would bring it back
            self.fail_with(AppendError::OutcomeUnknown, error);
            return Report::default();
        }
        let commit = Some(started.elapsed());
        for (job, answer) in self.0.into_iter().zip(answers) {
            job.answer(answer);
        }
        Report {
            appended,
            commit,
            busy: None,
        }
    }

    /// After one job spoiled the transaction of all, as a full disk does: each gets one of its own.
    fn run_alone(self, connection: &Connection, error: rusqlite::Error) -> Report {
        if self.0.len() == 1 {
            self.fail(error);
            return Report::default();
        }
        let mut all = Report::default();
        let mut jobs = self.0.into_iter();
        while let Some(job) = jobs.next() {
            let report = Self(vec![job]).run(connection);
            all.appended |= report.appended;
            all.commit = report.commit.or(all.commit);
            if let Some((mut batch, error)) = report.busy {
                batch.0.extend(jobs);
                all.busy = Some((batch, error));
                break;
            }
        }
        all
    }

    /// Tells everyone that nothing was stored.
    pub(crate) fn fail(self, error: rusqlite::Error) {
        self.fail_with(AppendError::Unavailable, error);
    }

    fn fail_with(self, append_error: fn(BoxError) -> AppendError, error: rusqlite::Error) {
        let error = Arc::new(error);
        for job in self.0 {
            job.fail(append_error, Box::new(Arc::clone(&error)));
        }
    }
}

fn roll_back(connection: &Connection) {
    // if it fails, the next BEGIN says why
    if !connection.is_autocommit() {
        let _ = execute(connection, "ROLLBACK");
    }
}
