//! Submitting work to the writer: a caller queues it and waits for the result.
//!
//! Invariant: a task that uses the open transaction queues no work: it would wait for its own end.

use std::sync::Arc;

use eventbus::{BoxError, RecordedEvent, port::AppendError};
use rusqlite::Connection;
use tokio::sync::{
    OwnedSemaphorePermit,
    oneshot::{self, error::RecvError},
};

use super::{INLINE_EVENTS_MAX, Writer, lock};
use crate::{
    checked_append::{AppendOutcome, CheckedAppend},
    error::SqliteTransactionError,
    job::Job,
    write_permit::WritePermit,
    writer_queue::BATCH_JOBS_MAX,
};

impl Writer {
    pub(crate) async fn append(self: &Arc<Self>, append: CheckedAppend) -> Result<Vec<RecordedEvent>, AppendError> {
        if self.own_transaction().is_some() {
            return Err(append.refused_error(SqliteTransactionError::InsideTransaction));
        }
        let is_large = append.len() > INLINE_EVENTS_MAX;
        let permit = self.acquire_queue_permits(1).await;
        let (done, answer) = oneshot::channel();
        self.submit(Job::Append { append, result_sender: done, _queue_permit: permit }, is_large);
        await_records(answer).await
    }

    /// Queues appends together, so that they share a transaction, unless they are very many.
    pub(crate) async fn append_many(
        self: &Arc<Self>,
        appends: Vec<CheckedAppend>,
    ) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
        if self.own_transaction().is_some() {
            return appends
                .iter()
                .map(|append| Err(append.refused_error(SqliteTransactionError::InsideTransaction)))
                .collect();
        }
        let mut answers = Vec::with_capacity(appends.len());
        let mut appends = appends.into_iter().peekable();
        while appends.peek().is_some() {
            let batch: Vec<_> = appends.by_ref().take(BATCH_JOBS_MAX.min(self.queued_appends_max)).collect();
            let is_large = batch.iter().map(CheckedAppend::len).sum::<usize>() > INLINE_EVENTS_MAX;
            let mut permits = self.acquire_queue_permits(batch.len()).await;
            let jobs = batch.into_iter().map(|append| {
                let (done, answer) = oneshot::channel();
                answers.push(answer);
                Job::Append {
                    append,
                    result_sender: done,
                    _queue_permit: permits.as_mut().and_then(|permits| permits.split(1)),
                }
            });
            lock(&self.queue).jobs.extend(jobs);
            self.start_draining(is_large);
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(await_records(answer).await);
        }
        results
    }

    async fn acquire_queue_permits(&self, appends: usize) -> Option<OwnedSemaphorePermit> {
        let appends = u32::try_from(appends).unwrap_or(u32::MAX);
        // the semaphore is never closed
        Arc::clone(&self.queue_permits).acquire_many_owned(appends).await.ok()
    }

    /// Makes a small change in the transaction of the next batch.
    ///
    /// # Errors
    /// If the calling task uses the open transaction, SQLite refuses the change, or a panic lost the result.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        self.refuse_own_transaction()?;
        let (done, answer) = oneshot::channel();
        self.submit(Job::new_write(change, done), false);
        answer.await?
    }

    /// Runs `f` on the connection between two transactions. Inside a transaction of the calling task, `f` gets the
    /// transaction's connection, as the task would wait for itself.
    ///
    /// # Errors
    /// If `f` panicked.
    pub(crate) async fn run_on_connection<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, RecvError> {
        let (done, answer) = oneshot::channel();
        let task = move |connection: &Connection| {
            // the caller may be gone
            let _ = done.send(f(connection));
        };
        match self.own_transaction().as_ref().map(|checked_out| checked_out.lock_connection()) {
            Some(Ok(open)) => task(&open),
            _ => {
                lock(&self.queue).tasks.push(Box::new(task));
                self.start_draining(false);
            }
        }
        answer.await
    }

    /// Waits for the connection, for a transaction of the caller's own. Between two such permits, a batch of jobs runs.
    ///
    /// # Errors
    /// [`SqliteTransactionError::InsideTransaction`] if the calling task has the connection already.
    pub(crate) async fn acquire_permit(self: &Arc<Self>) -> Result<WritePermit, BoxError> {
        self.refuse_own_transaction()?;
        loop {
            let (waiter, handoff) = oneshot::channel();
            lock(&self.queue).waiters.push_back(waiter);
            self.start_draining(false);
            if let Some(permit) = handoff.await?.take() {
                return Ok(permit);
            }
        }
    }

    fn refuse_own_transaction(&self) -> Result<(), SqliteTransactionError> {
        self.own_transaction().map_or(Ok(()), |_| Err(SqliteTransactionError::InsideTransaction))
    }

    fn submit(self: &Arc<Self>, job: Job, is_large: bool) {
        lock(&self.queue).jobs.push_back(job);
        self.start_draining(is_large);
    }
}

async fn await_records(
    answer: oneshot::Receiver<Result<(CheckedAppend, AppendOutcome), AppendError>>,
) -> Result<Vec<RecordedEvent>, AppendError> {
    match answer.await {
        Ok(answer) => answer.map(|(append, placed)| append.into_records(placed)),
        // only a panic drops a job without a result
        Err(lost) => Err(AppendError::OutcomeUnknown(lost.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use eventbus::{ExpectedVersion, Name, NewEvent, StreamId, port};
    use tokio::{task::JoinHandle, time::timeout};

    use super::*;
    use crate::{
        config::SqliteEventStoreConfig,
        connection::{GuardedConnection, open_writer},
        location::DatabaseLocation,
    };

    type Appending = JoinHandle<Result<Vec<RecordedEvent>, AppendError>>;

    fn writer(queued_appends: usize) -> Arc<Writer> {
        let config = SqliteEventStoreConfig { queued_appends, ..Default::default() };
        let connection =
            GuardedConnection::new(open_writer(&DatabaseLocation::new_memory(), &config).unwrap()).unwrap();
        Arc::new(Writer::new(connection, Arc::default(), &config))
    }

    fn one(id: usize) -> CheckedAppend {
        let stream = StreamId::parse("Account", &id.to_string()).unwrap();
        let events = vec![NewEvent::new(Name::from_static("Written"), 1, "{}")];
        CheckedAppend::check(
            port::Append { stream, expected: ExpectedVersion::NoStream, events },
            &eventbus::SharedClock::SYSTEM,
            &Arc::default(),
        )
        .unwrap()
        .unwrap()
    }

    fn append(writer: &Arc<Writer>, id: usize) -> Appending {
        let writer = Arc::clone(writer);
        tokio::spawn(async move { writer.append(one(id)).await })
    }

    async fn until_queued(writer: &Writer, jobs: usize) {
        while lock(&writer.queue).jobs.len() < jobs {
            tokio::task::yield_now().await;
        }
    }

    fn stored(permit: &WritePermit) -> i64 {
        permit.connection().query_row("SELECT count(*) FROM eventbus_events", [], |row| row.get(0)).unwrap()
    }

    #[tokio::test]
    async fn no_more_is_queued_than_there_is_room_for() {
        let writer = writer(4);
        let permit = writer.acquire_permit().await.unwrap();
        let mut waiting: Vec<_> = (0..10).map(|id| append(&writer, id)).collect();
        let many = {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.append_many((10..30).map(one).collect()).await })
        };
        until_queued(&writer, 4).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lock(&writer.queue).jobs.len(), 4);
        // a caller that is dropped while it waits for room takes none
        waiting.remove(7).abort();
        drop(permit);
        for appended in waiting {
            appended.await.unwrap().unwrap();
        }
        assert!(many.await.unwrap().iter().all(Result::is_ok));
        assert_eq!(stored(&writer.acquire_permit().await.unwrap()), 29);
    }

    #[tokio::test]
    async fn a_claim_waits_for_one_batch_and_not_for_all() {
        let writer = writer(10_000);
        let permit = writer.acquire_permit().await.unwrap();
        let waiting: Vec<_> = (0..3 * BATCH_JOBS_MAX).map(|id| append(&writer, id)).collect();
        until_queued(&writer, 3 * BATCH_JOBS_MAX).await;
        let claiming = {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.acquire_permit().await.unwrap() })
        };
        while lock(&writer.queue).waiters.is_empty() {
            tokio::task::yield_now().await;
        }
        drop(permit);
        let permit = claiming.await.unwrap();
        assert_eq!(stored(&permit), BATCH_JOBS_MAX as i64);
        drop(permit);
        for appended in waiting {
            appended.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn who_claims_a_turn_and_never_looks_again_keeps_nobody_waiting() {
        let config = SqliteEventStoreConfig {
            transaction_timeout: Duration::from_millis(50),
            ..SqliteEventStoreConfig::default()
        };
        let connection =
            GuardedConnection::new(open_writer(&DatabaseLocation::new_memory(), &config).unwrap()).unwrap();
        let writer = Arc::new(Writer::new(connection, Arc::default(), &config));
        let permit = writer.acquire_permit().await.unwrap();
        let mut waiter = Box::pin(writer.acquire_permit());
        assert!(timeout(Duration::ZERO, &mut waiter).await.is_err(), "the connection is in use");
        drop(permit);
        timeout(Duration::from_secs(30), writer.append(one(1))).await.expect("the permit is taken back").unwrap();
        // a waiter that is polled late gets a new permit
        assert_eq!(stored(&waiter.await.unwrap()), 1);
    }

    #[tokio::test]
    async fn appends_of_one_call_are_queued_together() {
        let writer = writer(10_000);
        let permit = writer.acquire_permit().await.unwrap();
        let many = {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.append_many((0..BATCH_JOBS_MAX + 10).map(one).collect()).await })
        };
        until_queued(&writer, 1).await;
        assert_eq!(lock(&writer.queue).jobs.len(), BATCH_JOBS_MAX + 10, "in one go");
        drop(permit);
        assert!(many.await.unwrap().iter().all(Result::is_ok));
    }
}
