//! The write connection: the caller that finds it free commits for all that wait.
//!
//! A caller queues its job and tries to take the connection. The caller that gets it, the drainer, runs all queued jobs
//! in one transaction, again and again until the queue is empty; the rest only wait for their results. So a lone caller
//! commits in its own task without any hand-over, and many callers share commits without a timer or a thread.
//!
//! Invariant: a caller queues its job before it tries to take the connection, and a drainer checks the queue once more
//! after it returned the connection. In any other order, a job can stay in the queue without a drainer.
//!
//! Real time, not the given clock: the duration of commits, and locks of other processes.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    SharedClock,
    port::{self, AppendError, AppendSignal, ListedEventTypes},
};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::{
    batch::Batch,
    checked_append::CheckedAppend,
    checked_out::CheckedOutConnection,
    config::SqliteEventStoreConfig,
    connection::GuardedConnection,
    files::OpenFiles,
    handoff::Handoff,
    watchdog::Watchdog,
    write_permit::{ExecutionContext, WritePermit},
    writer_queue::WriterQueue,
};

mod submit;

/// Longest time that a caller's task drains the queue, before a thread that may block takes over.
const INLINE_TIME_MAX: Duration = Duration::from_millis(1);
/// Maximum number of events that a caller's task inserts by itself.
pub(crate) const INLINE_EVENTS_MAX: usize = 128;
/// Longest time of draining without a pause in which other processes can write: SQLite's lock is not fair.
const BURST_TIME_MAX: Duration = Duration::from_millis(50);
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// The write connection, and the queue of work for it.
///
/// | state of the connection | event | next state |
/// |---|---|---|
/// | idle | a caller queued work and takes the connection | draining, in the caller's task or on a thread |
/// | draining | a waiter wants a transaction of its own | handed off: see `Handoff` |
/// | draining in a task | [`INLINE_TIME_MAX`] passes, or a different process writes | idle; a thread goes on draining |
/// | draining | the queue is empty | idle; the drainer checks the queue once more |
/// | handed off | the waiter takes it and begins a transaction | checked out: see `CheckedOutConnection` |
/// | handed off | the waiter was dropped before the handoff | draining |
/// | handed off | the waiter is dropped later, or its deadline passes | idle; then draining |
/// | checked out | commit, rollback, drop of the transaction or its deadline | idle; then draining |
pub(crate) struct Writer {
    queue: Mutex<WriterQueue>,
    /// `None` while a [`WritePermit`] has it.
    connection: Mutex<Option<GuardedConnection>>,
    files: Arc<OpenFiles>,
    /// Watches the transaction that has the connection, if one has.
    watchdog: Arc<Watchdog>,
    /// One permit for each append that may still be queued.
    queue_permits: Arc<Semaphore>,
    queued_appends_max: usize,
    busy_timeout: Duration,
    transaction_timeout: Duration,
    /// Moving average of the duration of a commit: on a slow disk no task should wait for it.
    commit_micros: AtomicU64,
    appended: AppendSignal,
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
            appended: AppendSignal::default(),
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

    /// Returns the event types that are known to be listed.
    pub(crate) const fn listed_types(&self) -> &Arc<ListedEventTypes> {
        &self.listed_types
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

    pub(crate) const fn busy_timeout(&self) -> Duration {
        self.busy_timeout
    }

    pub(crate) const fn transaction_timeout(&self) -> Duration {
        self.transaction_timeout
    }

    /// Returns `true` if commits take so long lately that no task should wait for one.
    pub(crate) fn has_slow_commits(&self) -> bool {
        self.commit_micros.load(Ordering::Relaxed) > INLINE_TIME_MAX.as_micros() as u64
    }

    fn take_permit(self: &Arc<Self>) -> Option<WritePermit> {
        let connection = lock(&self.connection).take()?;
        Some(WritePermit::new(connection, Arc::clone(self)))
    }

    /// Puts the connection back; only for the drop of a permit.
    pub(crate) fn return_connection(&self, connection: GuardedConnection) {
        *lock(&self.connection) = Some(connection);
    }

    /// Makes sure that a drainer runs the work that was just queued. Does not wait: a caller that is dropped afterwards
    /// loses only its own result.
    pub(crate) fn start_draining(self: &Arc<Self>, is_large: bool) {
        if !(is_large || self.has_slow_commits()) {
            if self.drain_queue(ExecutionContext::Task) {
                return;
            }
        } else if lock(&self.connection).is_none() {
            return; // the drainer that has the connection will check the queue once more
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
                let goes_on = self.run_next(permit.connection(), context);
                permit = match self.pass_to_waiter(permit) {
                    Some(write_permit) => write_permit,
                    None => return true,
                };
                if !goes_on {
                    break;
                }
                if burst.elapsed() > BURST_TIME_MAX {
                    // with the permit, so that no transaction of this process begins before the pause is over
                    std::thread::sleep(BURST_PAUSE);
                    burst = Instant::now();
                }
            }
            permit.set_context(ExecutionContext::Task);
            drop(permit);
            if lock(&self.queue).is_empty() {
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
            let waiter = lock(&self.queue).waiters.pop_front();
            let Some(waiter) = waiter else {
                return Some(permit);
            };
            let context = permit.context();
            permit.set_context(ExecutionContext::Task);
            permit.set_handed_off(true);
            // an error means that the waiter was dropped: take the permit back at once
            permit = waiter.send(self.new_handoff(permit)).err()?.take()?;
            permit.set_handed_off(false);
            permit.set_context(context);
        }
    }

    /// Offers a permit to a waiter, for as long as a transaction may take.
    pub(crate) fn new_handoff(&self, permit: WritePermit) -> Arc<Handoff> {
        let handoff = Handoff::new(permit, self.transaction_timeout);
        self.watchdog.watch_handoff(&handoff);
        handoff
    }

    /// Runs the connection tasks and the next batch of jobs. Returns `false` if there are none, or the batch has to
    /// wait.
    fn run_next(&self, connection: &Connection, context: ExecutionContext) -> bool {
        let (tasks, jobs) = lock(&self.queue).take_batch();
        let idle = tasks.is_empty() && jobs.is_empty();
        for task in tasks {
            task(connection);
        }
        if let Some(batch) = Batch::from_jobs(jobs) {
            let report = batch.run(connection, &self.files);
            self.record_commit(report.has_appended, report.commit_time);
            match report.not_begun {
                Some((batch, _)) if context == ExecutionContext::Task => {
                    lock(&self.queue).requeue(batch.into_jobs());
                    return false;
                }
                Some((batch, error)) => batch.fail(error),
                None => {}
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

/// Draining on a thread: it runs when dropped, so also if the runtime ends before the thread begins.
struct BlockingDrain(Arc<Writer>);

impl Drop for BlockingDrain {
    fn drop(&mut self) {
        self.0.drain_queue(ExecutionContext::Thread);
    }
}

/// Locks a mutex, also after a panic: that leaves the queue as it was, and a transaction that the next batch rolls
/// back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
