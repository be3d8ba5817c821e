//! The write connection: the caller or thread that has it commits the jobs of all callers that wait.
//!
//! A caller queues its job. If the connection is free, the caller drains the queue in its own task; if the last batch
//! had several appends, the work is large or commits are slow, a thread does. The drainer runs all queued jobs in one
//! transaction, again and again until the queue is empty; the callers only wait for their results. So a single caller
//! commits in its own task without a hand-over, and many callers share commits without a timer.
//!
//! Invariant: a caller queues its job before it tries to take the connection, and a drainer checks the queue once more
//! after it returned the connection. With either order reversed, a job can stay in the queue without a drainer.
//!
//! Invariant: a task that uses the open transaction queues no work: the work would wait for the end of the transaction,
//! and the task for the work.
//!
//! Real time, not the given clock: the duration of commits, and locks of other processes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    BoxError, RecordedEvent,
    clock::SharedClock,
    port::{self, AppendError, AppendSignal},
    store::AppendBatches,
    support::ListedEventTypes,
};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    oneshot::{self, error::RecvError},
};

use super::{
    batch::Batch,
    permit::{ConnectionOwner, ExecutionContext, Handoff, WritePermit},
    queue::{BATCH_JOBS_MAX, Job, WriterQueue},
    transaction::{CheckedOutConnection, HeldConnection},
    watchdog::Watchdog,
};
use crate::{
    blocking::blocking,
    checked_append::{AppendOutcome, CheckedAppend},
    config::SqliteEventStoreConfig,
    connection::GuardedConnection,
    error::{SqliteTransactionError, is_busy},
    files::OpenFiles,
};

/// Longest time that a caller's task drains the queue, before a thread that may block takes over.
const INLINE_TIME_MAX: Duration = Duration::from_millis(1);
/// Maximum number of events that a caller's task inserts by itself.
pub(crate) const INLINE_EVENTS_MAX: usize = 128;
/// Longest time of draining without a pause in which other processes can write: SQLite's lock is not fair.
const BURST_TIME_MAX: Duration = Duration::from_millis(100);
/// Twice the pause of [`begin_immediate`](crate::connection::begin_immediate), so that a waiting process tries in it.
const BURST_PAUSE: Duration = Duration::from_millis(2);

/// The write connection, and the queue of work for it.
///
/// | state of the connection | event | next state |
/// |---|---|---|
/// | idle | a caller queued much, commits are slow, or the last batch was shared | draining on a thread |
/// | idle | a caller queued anything else | draining, in the caller's task |
/// | draining | after a batch: a waiter wants a transaction of its own | handed off: see `Handoff` |
/// | draining in a task | [`INLINE_TIME_MAX`] passes, or a different process writes | idle; a thread goes on draining |
/// | draining in a task | the queue holds only tasks that may block | idle; a thread goes on draining |
/// | draining | the queue is empty | idle; the drainer checks the queue once more |
/// | handed off | the waiter takes it and begins a transaction | checked out: see `CheckedOutConnection` |
/// | draining | after a batch: the waiter is gone | draining, or handed off to the next waiter |
/// | draining on a thread | a different process writes for longer than `busy_timeout` | draining; the batch fails |
/// | handed off | the waiter is dropped later, or its deadline passes | idle; then draining |
/// | checked out | commit, rollback, drop of the transaction or its deadline | idle; then draining |
pub(crate) struct Writer {
    /// A panic of a job leaves the queue unchanged, and an open transaction, which the next batch rolls back.
    queue: Mutex<WriterQueue>,
    /// `None` while a [`WritePermit`] has it.
    connection: Mutex<Option<GuardedConnection>>,
    files: Arc<OpenFiles>,
    /// Watches the transaction that has the connection, if there is one; `own_transaction` reads it from here.
    watchdog: Arc<Watchdog>,
    /// One permit for each append that may still be queued.
    queue_permits: Arc<Semaphore>,
    queued_appends_max: usize,
    busy_timeout: Duration,
    transaction_timeout: Duration,
    /// Moving average of the duration of a commit: on a slow disk no task should wait for it.
    commit_micros: AtomicU64,
    /// Set if the last batch had several appends: then a thread drains the queue, while the tasks of the callers
    /// prepare the next appends.
    last_batch_was_shared: AtomicBool,
    /// Set from when a thread is asked to drain the queue until it begins.
    is_thread_coming: AtomicBool,
    appended: AppendSignal,
    append_batches: AppendBatches,
    listed_types: Arc<ListedEventTypes>,
    clock: SharedClock,
}

impl Writer {
    pub(crate) fn new(connection: GuardedConnection, files: Arc<OpenFiles>, config: &SqliteEventStoreConfig) -> Self {
        let queued_appends = config.queued_appends.min(Semaphore::MAX_PERMITS);
        Self {
            queue: Mutex::default(),
            connection: Mutex::new(Some(connection)),
            files,
            watchdog: Arc::default(),
            queue_permits: Arc::new(Semaphore::new(queued_appends)),
            queued_appends_max: queued_appends,
            busy_timeout: config.busy_timeout,
            transaction_timeout: config.transaction_timeout,
            commit_micros: AtomicU64::new(0),
            last_batch_was_shared: AtomicBool::new(false),
            is_thread_coming: AtomicBool::new(false),
            appended: AppendSignal::default(),
            append_batches: AppendBatches::default(),
            listed_types: Arc::default(),
            clock: config.clock.clone(),
        }
    }

    /// Returns the files that hold the committed data.
    pub(crate) fn files(&self) -> &OpenFiles {
        &self.files
    }

    pub(crate) const fn appended(&self) -> &AppendSignal {
        &self.appended
    }

    /// Returns the sizes of the batches with appends.
    pub(crate) const fn append_batches(&self) -> &AppendBatches {
        &self.append_batches
    }

    /// Returns the event types that are known to be listed.
    pub(crate) const fn listed_types(&self) -> &Arc<ListedEventTypes> {
        &self.listed_types
    }

    /// Checks a connection out to a transaction.
    pub(crate) fn check_out(&self, held: HeldConnection) -> Arc<CheckedOutConnection> {
        let checked_out = CheckedOutConnection::new(held, self.transaction_timeout);
        self.watch_transaction(&checked_out);
        checked_out
    }

    /// Watches a transaction if appends wait for it.
    pub(crate) fn watch_transaction(&self, checked_out: &Arc<CheckedOutConnection>) {
        if checked_out.is_blocking_appends() {
            self.watchdog.watch_transaction(checked_out);
        }
    }

    /// Returns the transaction that has the connection, if the calling task uses it.
    fn own_transaction(&self) -> Option<Arc<CheckedOutConnection>> {
        self.watchdog.transaction().filter(|checked_out| checked_out.is_used_by_caller())
    }

    /// Checks an append; `None` if it has no events.
    pub(crate) fn check(&self, append: port::Append) -> Result<Option<CheckedAppend>, AppendError> {
        CheckedAppend::check(append, &self.clock, &self.listed_types)
    }

    pub(crate) async fn append(self: &Arc<Self>, append: CheckedAppend) -> Result<Vec<RecordedEvent>, AppendError> {
        if self.own_transaction().is_some() {
            return Err(append.refused_error(SqliteTransactionError::InsideTransaction));
        }
        let is_large = append.len() > INLINE_EVENTS_MAX;
        let permit = self.wait_for_queue_room(1).await;
        let (done, answer) = oneshot::channel();
        self.submit(Job::Append { append, outcome: None, result_sender: done, _queue_permit: permit }, is_large);
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
            let mut permits = self.wait_for_queue_room(batch.len()).await;
            let jobs = batch.into_iter().map(|append| {
                let (done, answer) = oneshot::channel();
                answers.push(answer);
                Job::Append {
                    append,
                    outcome: None,
                    result_sender: done,
                    _queue_permit: permits.as_mut().and_then(|permits| permits.split(1)),
                }
            });
            self.queue.lock().add_jobs(jobs);
            self.start_draining(is_large);
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(await_records(answer).await);
        }
        results
    }

    async fn wait_for_queue_room(&self, appends: usize) -> Option<OwnedSemaphorePermit> {
        let appends = u32::try_from(appends).unwrap_or(u32::MAX);
        // the semaphore is never closed
        Arc::clone(&self.queue_permits).acquire_many_owned(appends).await.ok()
    }

    /// Makes a small change in the transaction of the next batch.
    ///
    /// # Errors
    /// If the calling task has the open transaction, if SQLite refuses the change, or if a panic lost the result.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        self.queue_write(change, false).await
    }

    /// Makes a change of many bytes or rows in the transaction of the next batch, on a thread that may block.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub(crate) async fn write_large<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        self.queue_write(change, true).await
    }

    async fn queue_write<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        is_large: bool,
    ) -> Result<T, BoxError> {
        self.refuse_own_transaction()?;
        let (done, answer) = oneshot::channel();
        self.submit(Job::new_write(change, done), is_large);
        answer.await?
    }

    /// Runs `f` on the connection between two transactions, in any task or on a thread that may block, as `context`
    /// says. Inside a transaction of the calling task, `f` gets the transaction's connection, as the task would wait
    /// for itself.
    ///
    /// # Errors
    /// If `f` panicked.
    pub(crate) async fn run_on_connection<T: Send + 'static>(
        self: &Arc<Self>,
        context: ExecutionContext,
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
                self.queue.lock().add_task(Box::new(task), context);
                self.start_draining(context == ExecutionContext::Thread);
            }
        }
        answer.await
    }

    /// Waits for the connection, for a transaction of the caller's own. Before each such permit, the drainer attempts a
    /// batch of the queued jobs, so that transactions do not starve appends.
    ///
    /// # Errors
    /// [`SqliteTransactionError::InsideTransaction`] if the calling task has the connection already.
    pub(crate) async fn acquire_write_permit(self: &Arc<Self>) -> Result<WritePermit, BoxError> {
        self.refuse_own_transaction()?;
        loop {
            let (waiter, handoff) = oneshot::channel();
            self.queue.lock().add_waiter(waiter);
            self.start_draining(false);
            // `None`: the watchdog took the permit back, as this task was polled late; it queues again
            if let Some(permit) = handoff.await?.take() {
                return Ok(permit);
            }
        }
    }

    /// Waits for the connection and begins a transaction; if a different process writes, waits for it on a thread.
    ///
    /// # Errors
    /// As for [`acquire_write_permit`](Self::acquire_write_permit); or if the file is lost, SQLite refuses, the runtime
    /// ended, or the caller's task was not polled in time.
    pub(crate) async fn begin_transaction(self: &Arc<Self>) -> Result<WritePermit, BoxError> {
        let mut permit = self.acquire_write_permit().await?;
        self.files.check_if_lost()?;
        match permit.connection().begin(Duration::ZERO) {
            Ok(()) => return Ok(permit),
            Err(error) if !is_busy(&error) => return Err(error.into()),
            Err(_) => {}
        }
        let writer = Arc::clone(self);
        let begin = blocking(move || {
            permit.set_context(ExecutionContext::Thread);
            let begun = permit.connection().begin(permit.busy_timeout());
            permit.set_context(ExecutionContext::Task);
            // not the permit itself: the caller may never be polled again, and then the watchdog takes it back
            begun.map(|()| writer.new_handoff(permit))
        });
        let handoff = begin.await??;
        Ok(handoff.take().ok_or(SqliteTransactionError::TimedOut { limit: self.transaction_timeout })?)
    }

    fn refuse_own_transaction(&self) -> Result<(), SqliteTransactionError> {
        self.own_transaction().map_or(Ok(()), |_| Err(SqliteTransactionError::InsideTransaction))
    }

    fn submit(self: &Arc<Self>, job: Job, is_large: bool) {
        self.queue.lock().add_jobs([job]);
        self.start_draining(is_large);
    }

    /// Returns `true` if commits take so long lately that no task should wait for one.
    pub(crate) fn has_slow_commits(&self) -> bool {
        self.commit_micros.load(Ordering::Relaxed) > INLINE_TIME_MAX.as_micros() as u64
    }

    fn take_permit(self: &Arc<Self>) -> Option<WritePermit> {
        let connection = self.connection.lock().take()?;
        Some(WritePermit::new(connection, Arc::<Self>::clone(self), self.busy_timeout))
    }

    /// Makes sure that a drainer runs the work that was just queued. Does not wait: a caller that is dropped afterwards
    /// loses only its own result.
    fn start_draining(self: &Arc<Self>, is_large: bool) {
        let is_for_thread = is_large || self.has_slow_commits() || self.last_batch_was_shared.load(Ordering::Relaxed);
        if !is_for_thread {
            if self.drain_queue(ExecutionContext::Task) {
                return;
            }
        } else if self.connection.lock().is_none() {
            // a drainer that has the connection checks the queue once more; a transaction starts a drainer when it ends
            return;
        }
        if self.is_thread_coming.swap(true, Ordering::AcqRel) {
            return; // the thread sees what was queued before this
        }
        let rest = BlockingDrain(Arc::clone(self));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(rest));
        }
    }

    /// Runs queued work until the queue is empty, unless the connection is in use. Returns `false` if a thread has to
    /// go on.
    fn drain_queue(self: &Arc<Self>, context: ExecutionContext) -> bool {
        let started = Instant::now();
        loop {
            let Some(mut permit) = self.take_permit() else {
                return true;
            };
            permit.set_context(context);
            let mut burst = Instant::now();
            while context == ExecutionContext::Thread || started.elapsed() < INLINE_TIME_MAX {
                let goes_on = self.run_next(&permit);
                permit = match self.pass_to_waiter(permit) {
                    Some(write_permit) => write_permit,
                    None => return true,
                };
                if !goes_on {
                    break;
                }
                if burst.elapsed() > BURST_TIME_MAX {
                    // sleeps with the permit, so that no transaction of this process begins before the pause is over
                    std::thread::sleep(BURST_PAUSE);
                    burst = Instant::now();
                }
            }
            permit.set_context(ExecutionContext::Task);
            drop(permit);
            if self.queue.lock().is_empty() {
                return true;
            }
            if context == ExecutionContext::Task {
                return false;
            }
        }
    }

    /// Hands the permit to the first waiter that still wants it; returns it if there is none.
    fn pass_to_waiter(&self, mut permit: WritePermit) -> Option<WritePermit> {
        loop {
            let waiter = self.queue.lock().pop_waiter();
            let Some(waiter) = waiter else {
                return Some(permit);
            };
            let context = permit.context();
            permit.set_context(ExecutionContext::Task);
            permit.set_handed_off(true);
            // `err()` is `None` if the waiter got the offer, `take()` if the watchdog has the permit: this drainer has
            // none
            permit = waiter.send(self.new_handoff(permit)).err()?.take()?;
            permit.set_handed_off(false);
            permit.set_context(context);
        }
    }

    /// Offers a permit to a waiter, for as long as a transaction may take.
    fn new_handoff(&self, permit: WritePermit) -> Arc<Handoff> {
        let handoff = Handoff::new(permit, self.transaction_timeout);
        self.watchdog.watch_handoff(&handoff);
        handoff
    }

    /// Runs the connection tasks and the next batch of jobs. Returns `false` if there are none, or the batch has to
    /// wait.
    fn run_next(&self, permit: &WritePermit) -> bool {
        let (connection, context) = (permit.connection(), permit.context());
        let (tasks, jobs) = self.queue.lock().take_batch(context);
        let idle = tasks.is_empty() && jobs.is_empty();
        for task in tasks {
            task(connection);
        }
        if let Some(batch) = Batch::from_jobs(jobs) {
            let report = batch.run(connection, &self.files, permit.busy_timeout());
            let is_shared = report.appended > 1;
            self.last_batch_was_shared.store(is_shared, Ordering::Relaxed);
            match report.is_split {
                true => (0..report.appended).for_each(|_| self.append_batches.record(1)),
                false if report.appended > 0 => self.append_batches.record(report.appended),
                false => {}
            }
            self.record_commit(report.appended > 0, report.commit_time);
            match report.not_begun {
                Some((batch, _)) if context == ExecutionContext::Task => {
                    self.queue.lock().requeue(batch.into_jobs());
                    return false;
                }
                Some((batch, error)) => batch.fail(error),
                None => {}
            }
            if is_shared {
                // the callers that got their results may append again: then their appends join the next batch
                std::thread::yield_now();
            }
        }
        !idle
    }

    /// Signals appended events, and records the duration of a commit.
    pub(crate) fn record_commit(&self, has_appended: bool, commit: Option<Duration>) {
        if has_appended {
            self.appended.notify();
        }
        if let Some(commit) = commit {
            let before = self.commit_micros.load(Ordering::Relaxed);
            let now = u64::try_from(commit.as_micros()).unwrap_or(u64::MAX / 4);
            let average = (before * 3).saturating_add(now) / 4;
            self.commit_micros.store(average, Ordering::Relaxed);
        }
    }
}

impl ConnectionOwner for Writer {
    fn return_connection(self: Arc<Self>, connection: GuardedConnection, is_handed_off: bool) {
        // before the check of the queue, which takes the connection if there is work
        *self.connection.lock() = Some(connection);
        // a drainer checks the queue by itself
        if is_handed_off {
            self.start_draining(false);
        }
    }
}

/// Draining on a thread: it runs when dropped, so also if the runtime ends before the thread begins.
struct BlockingDrain(Arc<Writer>);

impl Drop for BlockingDrain {
    fn drop(&mut self) {
        // reads the flag, too: then it sees all that callers queued before they set it
        self.0.is_thread_coming.swap(false, Ordering::AcqRel);
        self.0.drain_queue(ExecutionContext::Thread);
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

    use super::{super::transaction::EndReason, *};
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
            &eventbus::clock::SharedClock::SYSTEM,
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
        while writer.queue.lock().lengths().0 < jobs {
            tokio::task::yield_now().await;
        }
    }

    fn stored(permit: &WritePermit) -> i64 {
        permit.connection().query_row("SELECT count(*) FROM eventbus_events", [], |row| row.get(0)).unwrap()
    }

    /// Fails if each caller that finds the connection idle asks for a thread of its own.
    #[test]
    fn callers_that_queue_together_ask_for_one_thread() {
        let started = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&started);
        let begin = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20)); // all callers have queued before it takes the connection
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().on_thread_start(begin).build().unwrap();
        runtime.block_on(async {
            let writer = writer(64);
            for round in 0..20 {
                writer.last_batch_was_shared.store(true, Ordering::Relaxed);
                let appending: Vec<_> = (0..32).map(|id| append(&writer, round * 32 + id)).collect();
                for append in appending {
                    append.await.unwrap().unwrap();
                }
            }
        });
        // another may be asked for while one ends its work and is not idle yet
        assert!((1..=4).contains(&started.load(Ordering::Relaxed)), "{started:?}");
    }

    #[tokio::test]
    async fn no_more_is_queued_than_there_is_room_for() {
        let writer = writer(4);
        let permit = writer.acquire_write_permit().await.unwrap();
        let mut waiting: Vec<_> = (0..10).map(|id| append(&writer, id)).collect();
        let many = {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.append_many((10..30).map(one).collect()).await })
        };
        until_queued(&writer, 4).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(writer.queue.lock().lengths().0, 4);
        // a caller that is dropped while it waits for room takes none
        waiting.remove(7).abort();
        drop(permit);
        for appended in waiting {
            appended.await.unwrap().unwrap();
        }
        assert!(many.await.unwrap().iter().all(Result::is_ok));
        assert_eq!(stored(&writer.acquire_write_permit().await.unwrap()), 29);
    }

    #[tokio::test]
    async fn a_claim_waits_for_one_batch_and_not_for_all() {
        let writer = writer(10_000);
        let permit = writer.acquire_write_permit().await.unwrap();
        let waiting: Vec<_> = (0..3 * BATCH_JOBS_MAX).map(|id| append(&writer, id)).collect();
        until_queued(&writer, 3 * BATCH_JOBS_MAX).await;
        let claiming = {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.acquire_write_permit().await.unwrap() })
        };
        while writer.queue.lock().lengths().1 == 0 {
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
        let permit = writer.acquire_write_permit().await.unwrap();
        let mut waiter = Box::pin(writer.acquire_write_permit());
        assert!(timeout(Duration::ZERO, &mut waiter).await.is_err(), "the connection is in use");
        drop(permit);
        timeout(Duration::from_secs(30), writer.append(one(1))).await.expect("the permit is taken back").unwrap();
        // a waiter that is polled late gets a new permit
        assert_eq!(stored(&waiter.await.unwrap()), 1);
    }

    /// The drop of a transaction whose connection is in use: by a statement on a thread, or by the watchdog.
    #[tokio::test]
    async fn a_task_may_append_at_once_after_the_drop_of_its_transaction() {
        let writer = writer(10_000);
        let permit = writer.begin_transaction().await.unwrap();
        let transaction = writer.check_out(HeldConnection::Live(Box::new(permit)));
        let in_use = transaction.lock_connection().unwrap();
        transaction.end(EndReason::RolledBack);
        let mut appending = Box::pin(writer.append(one(1)));
        let appended = timeout(Duration::ZERO, &mut appending).await;
        assert!(appended.is_err(), "it waits for the connection: {appended:?}");
        drop(in_use);
        appending.await.unwrap();
    }

    /// The thread of a rebuild's switch watches its transaction again, also if the caller has dropped that meanwhile.
    #[tokio::test]
    async fn a_transaction_that_is_over_is_not_watched_in_place_of_the_next_one() {
        let writer = writer(10_000);
        let begin = async || {
            let permit = writer.begin_transaction().await.unwrap();
            writer.check_out(HeldConnection::Live(Box::new(permit)))
        };
        let former = begin().await;
        former.end(EndReason::RolledBack);
        let _next = begin().await;
        writer.watch_transaction(&former);
        assert!(writer.own_transaction().is_some(), "an append of this task would wait for the transaction");
    }

    #[tokio::test]
    async fn appends_of_one_call_are_queued_together() {
        let writer = writer(10_000);
        let permit = writer.acquire_write_permit().await.unwrap();
        let many = {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.append_many((0..BATCH_JOBS_MAX + 10).map(one).collect()).await })
        };
        until_queued(&writer, 1).await;
        assert_eq!(writer.queue.lock().lengths().0, BATCH_JOBS_MAX + 10, "in one go");
        drop(permit);
        assert!(many.await.unwrap().iter().all(Result::is_ok));
    }
}
