//! Batches: jobs that share a transaction, each of which succeeds or fails alone.
//!
//! Real time, not the given clock: the duration of commits.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{BoxError, port::AppendError};
use rusqlite::Connection;

use super::queue::Job;
use crate::{
    connection::{begin_immediate, roll_back},
    error::is_busy,
    files::OpenFiles,
    query::execute,
};

/// Jobs that share a transaction.
///
/// | state | event | next state |
/// |---|---|---|
/// | new | the file was lost, and still is | jobs fail: `Unavailable` |
/// | new | a different connection writes | not begun; requeued in a task, failed on a thread |
/// | new | `BEGIN IMMEDIATE` succeeds | open |
/// | open | a job spoils the transaction | rolled back; each of several jobs gets a batch of its own |
/// | open | the only job spoils the transaction | rolled back; the job fails: `Unavailable` |
/// | open | all jobs have run | committing |
/// | committing | `COMMIT` fails, or the file is lost after it | jobs fail: `OutcomeUnknown` |
/// | committing | `COMMIT` succeeds | committed: jobs get their results |
pub(crate) struct Batch(Vec<Job>);

/// Outcome of a batch, beside the results of its jobs.
#[derive(Default)]
pub(crate) struct BatchReport {
    /// The number of appends that stored events.
    pub(crate) appended: usize,
    /// Set if each job had a transaction of its own.
    pub(crate) is_split: bool,
    /// Duration of the commit; `None` if there was no change to commit.
    pub(crate) commit_time: Option<Duration>,
    /// The batch if its transaction could not begin, because a different connection writes.
    pub(crate) not_begun: Option<(Batch, rusqlite::Error)>,
}

impl Batch {
    /// Makes a batch of the jobs whose callers still wait; `None` if there are none.
    pub(crate) fn from_jobs(mut jobs: Vec<Job>) -> Option<Self> {
        jobs.retain(|job| !job.is_abandoned());
        (!jobs.is_empty()).then_some(Self(jobs))
    }

    pub(crate) fn into_jobs(self) -> impl DoubleEndedIterator<Item = Job> {
        self.0.into_iter()
    }

    /// Runs all jobs in one transaction, and sends their results once it has committed. Waits for at most
    /// `busy_timeout` while a different connection writes.
    pub(crate) fn run(mut self, connection: &Connection, files: &OpenFiles, busy_timeout: Duration) -> BatchReport {
        roll_back(connection); // a panic may have left a transaction open
        if let Err(lost) = files.check_if_lost() {
            self.fail_with(AppendError::Unavailable, lost);
            return BatchReport::default();
        }
        if let Err(error) = begin_immediate(connection, busy_timeout) {
            if is_busy(&error) {
                return BatchReport { not_begun: Some((self, error)), ..BatchReport::default() };
            }
            self.fail(error);
            return BatchReport::default();
        }
        match self.0.iter_mut().try_for_each(|job| job.run(connection)) {
            Ok(()) => self.commit(connection, files),
            Err(error) => {
                roll_back(connection);
                self.run_one_by_one(connection, files, busy_timeout, error)
            }
        }
    }

    fn commit(self, connection: &Connection, files: &OpenFiles) -> BatchReport {
        let appended = self.0.iter().filter(|job| job.has_appended()).count();
        let has_written = appended > 0 || self.0.iter().any(|job| matches!(job, Job::Write(_)));
        let started = Instant::now();
        if let Err(error) = execute(connection, "COMMIT", []) {
            roll_back(connection);
            // the write-ahead log may still hold the transaction, and a crash now would bring it back
            self.fail_with(AppendError::OutcomeUnknown, Arc::new(error));
            return BatchReport::default();
        }
        if let Err(lost) = files.check() {
            // the file may have gone before or after the commit
            self.fail_with(AppendError::OutcomeUnknown, lost);
            return BatchReport::default();
        }
        let commit_time = has_written.then(|| started.elapsed());
        self.0.into_iter().for_each(Job::answer);
        BatchReport { appended, is_split: false, commit_time, not_begun: None }
    }

    /// Runs each job in a transaction of its own, after one spoiled the shared transaction, as a full disk does.
    fn run_one_by_one(
        self,
        connection: &Connection,
        files: &OpenFiles,
        busy_timeout: Duration,
        error: rusqlite::Error,
    ) -> BatchReport {
        if self.0.len() == 1 {
            self.fail(error);
            return BatchReport::default();
        }
        let mut all = BatchReport { is_split: true, ..BatchReport::default() };
        let mut jobs = self.0.into_iter();
        while let Some(job) = jobs.next() {
            let report = Self(vec![job]).run(connection, files, busy_timeout);
            all.appended += report.appended;
            all.commit_time = report.commit_time.or(all.commit_time);
            if let Some((mut batch, error)) = report.not_begun {
                batch.0.extend(jobs);
                all.not_begun = Some((batch, error));
                break;
            }
        }
        all
    }

    /// Fails all jobs: no change was stored.
    pub(crate) fn fail(self, error: rusqlite::Error) {
        self.fail_with(AppendError::Unavailable, Arc::new(error));
    }

    fn fail_with<E>(self, append_error: fn(BoxError) -> AppendError, error: E)
    where
        E: Error + Clone + Send + Sync + 'static,
    {
        for job in self.0 {
            job.fail(append_error, Box::new(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use eventbus::{ExpectedVersion, Name, NewEvent, StreamId, port};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        checked_append::{AppendOutcome, CheckedAppend},
        config::SqliteEventStoreConfig,
        connection::open_writer,
        location::DatabaseLocation,
    };

    type Waiting = oneshot::Receiver<Result<(CheckedAppend, AppendOutcome), AppendError>>;

    fn database() -> Connection {
        open_writer(&DatabaseLocation::new_memory(), &SqliteEventStoreConfig::default()).unwrap()
    }

    fn append(id: &str, expected: ExpectedVersion, payload_bytes: usize) -> (Job, Waiting) {
        let stream = StreamId::parse("Account", id).unwrap();
        let event = || {
            let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(payload_bytes));
            NewEvent::new(Name::from_static("Written"), 1, payload)
        };
        let append = port::Append { stream, expected, events: vec![event(), event()] };
        let append =
            CheckedAppend::check(append, &eventbus::clock::SharedClock::SYSTEM, &Arc::default()).unwrap().unwrap();
        let (done, waiting) = oneshot::channel();
        (Job::Append { append, outcome: None, result_sender: done, _queue_permit: None }, waiting)
    }

    fn checkpoint() -> (Job, oneshot::Receiver<Result<(), BoxError>>) {
        let (done, waiting) = oneshot::channel();
        let save = |connection: &Connection| {
            connection.execute("INSERT INTO eventbus_checkpoints VALUES ('reader', 7, 0)", []).map(drop)
        };
        (Job::new_write(save, done), waiting)
    }

    fn run(jobs: Vec<Job>, connection: &Connection) -> BatchReport {
        Batch::from_jobs(jobs).unwrap().run(connection, &OpenFiles::default(), Duration::ZERO)
    }

    fn stored(connection: &Connection) -> String {
        let sql = "SELECT coalesce(group_concat(s.aggregate_id || e.version, ' '), '')
            FROM eventbus_events e JOIN eventbus_streams s USING (stream_no)";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_job_that_spoils_the_transaction_fails_alone() {
        let connection = database();
        let used: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        connection.pragma_update_and_check(None, "max_page_count", used + 20, |_| Ok(())).unwrap();
        let (one, mut one_waits) = append("a", ExpectedVersion::NoStream, 10);
        let (huge, mut huge_waits) = append("b", ExpectedVersion::NoStream, 1_000_000);
        let (two, mut two_waits) = append("c", ExpectedVersion::NoStream, 10);
        let (saved, mut saved_waits) = checkpoint();
        let report = run(vec![one, huge, two, saved], &connection);
        assert!(report.appended > 0 && report.not_begun.is_none());
        assert!(one_waits.try_recv().unwrap().is_ok());
        let error = huge_waits.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, AppendError::Unavailable(_)), "{error:?}");
        assert!(two_waits.try_recv().unwrap().is_ok());
        saved_waits.try_recv().unwrap().unwrap();
        assert_eq!(stored(&connection), "a1 a2 c1 c2");
    }

    #[test]
    fn nobody_gets_an_answer_that_was_not_committed() {
        let connection = database();
        // a constraint that only COMMIT checks stands for a disk that fails then
        let broken_commit = "PRAGMA foreign_keys = ON;
            CREATE TABLE parent (id INTEGER PRIMARY KEY);
            CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
            CREATE TRIGGER broken AFTER INSERT ON eventbus_events BEGIN INSERT INTO child VALUES (1); END";
        connection.execute_batch(broken_commit).unwrap();
        let (one, mut one_waits) = append("a", ExpectedVersion::NoStream, 10);
        let (two, mut two_waits) = append("a", ExpectedVersion::NoStream, 10);
        let (saved, mut saved_waits) = checkpoint();
        let report = run(vec![one, two, saved], &connection);
        assert_eq!(report.appended, 0);
        for waits in [&mut one_waits, &mut two_waits] {
            let error = waits.try_recv().unwrap().unwrap_err();
            assert!(matches!(error, AppendError::OutcomeUnknown(_)), "{error:?}");
        }
        assert!(saved_waits.try_recv().unwrap().is_err());

        connection.execute_batch("DROP TRIGGER broken").unwrap();
        let (three, mut three_waits) = append("b", ExpectedVersion::NoStream, 10);
        run(vec![three], &connection);
        assert!(three_waits.try_recv().unwrap().is_ok());
        assert_eq!(stored(&connection), "b1 b2");
    }

    #[test]
    fn what_a_panic_left_open_is_rolled_back() {
        let connection = database();
        let left = "BEGIN IMMEDIATE; INSERT INTO eventbus_checkpoints VALUES ('left', 1, 0)";
        connection.execute_batch(left).unwrap();
        let (job, mut waits) = append("a", ExpectedVersion::NoStream, 10);
        run(vec![job], &connection);
        assert!(waits.try_recv().unwrap().is_ok());
        let sql = "SELECT count(*) FROM eventbus_checkpoints";
        let left: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn jobs_that_nobody_waits_for_are_left_out() {
        let (job, waits) = append("a", ExpectedVersion::NoStream, 10);
        drop(waits);
        assert!(Batch::from_jobs(vec![job]).is_none());
    }
}
