//! The one connection that writes: whoever finds it free commits for all who wait.
//!
//! A caller queues its job and tries to take the connection. The one who gets it runs everything that is queued in one
//! transaction, again and again until nothing is left; the others only wait for their answers. So a lone caller commits
//! in its own task without any hand-over, and many callers share commits without a timer or a thread.
//!
//! Keep: a job is queued before the connection is tried, and whoever gives the connection back looks at the queue once
//! more. In any other order a job can be left behind that nobody looks at.
//!
//! Real time, not the given clock: how long the disk takes, and locks of other processes.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    SharedClock,
    port::{AppendSignal, ListedEventTypes},
};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::{
    batch::Batch,
    checked_out::CheckedOutConnection,
    commit_guard::GuardedConnection,
    config::SqliteEventStoreConfig,
    files::OpenFiles,
    handoff::Handoff,
    watchdog::Watchdog,
    write_permit::{ExecutionContext, WritePermit},
    writer_queue::WriterQueue,
};

mod submit;

/// How long a caller's task may be kept busy for others before a thread that may block takes over.
const INLINE_TIME_MAX: Duration = Duration::from_millis(1);
/// More events than a caller's task may insert by itself.
pub(crate) const INLINE_EVENTS_MAX: usize = 128;
/// After so long without a pause other processes get a chance: SQLite's lock is not fair.
const BURST_TIME_MAX: Duration = Duration::from_millis(50);
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// The connection, and what is to be done with it.
pub(crate) struct Writer {
    queue: Mutex<WriterQueue>,
    /// Nothing while somebody has it.
    connection: Mutex<Option<GuardedConnection>>,
    files: Arc<OpenFiles>,
    /// The transaction that has the connection, if one has.
    watchdog: Arc<Watchdog>,
    /// As many permits as appends may still be queued.
    queue_permits: Arc<Semaphore>,
    queued_appends_max: usize,
    busy_timeout: Duration,
    transaction_timeout: Duration,
    /// How long a commit takes lately: on a slow disk no task should wait for it.
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

    /// The files that hold what is committed.
    pub(crate) fn files(&self) -> &OpenFiles {
        &self.files
    }

    pub(crate) const fn appended(&self) -> &AppendSignal {
        &self.appended
    }

    /// The event types that are known to be listed.
    pub(crate) const fn listed_types(&self) -> &Arc<ListedEventTypes> {
        &self.listed_types
    }

    /// Notes which transaction has the connection, and watches over it.
    pub(crate) fn watch_transaction(&self, checked_out: &Arc<CheckedOutConnection>) {
        if checked_out.is_blocking_appends() {
            self.watchdog.watch_transaction(checked_out);
        }
    }

    /// The transaction that has the connection, if the calling task is the one that uses it.
    fn own_transaction(&self) -> Option<Arc<CheckedOutConnection>> {
        self.watchdog.transaction().filter(|checked_out| checked_out.is_used_by_caller())
    }

    pub(crate) const fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(crate) const fn busy_timeout(&self) -> Duration {
        self.busy_timeout
    }

    pub(crate) const fn transaction_timeout(&self) -> Duration {
        self.transaction_timeout
    }

    /// Whether commits take so long lately that no task should wait for one.
    pub(crate) fn has_slow_commits(&self) -> bool {
        self.commit_micros.load(Ordering::Relaxed) > INLINE_TIME_MAX.as_micros() as u64
    }

    fn take_permit(self: &Arc<Self>) -> Option<WritePermit> {
        let connection = lock(&self.connection).take()?;
        Some(WritePermit::new(connection, Arc::clone(self)))
    }

    /// For the end of a turn only.
    pub(crate) fn return_connection(&self, connection: GuardedConnection) {
        *lock(&self.connection) = Some(connection);
    }

    /// Sees to it that someone runs what was just queued. Nothing here waits: a caller that goes away afterwards
    /// takes nothing with it but its own answer.
    pub(crate) fn start_draining(self: &Arc<Self>, is_large: bool) {
        if !(is_large || self.has_slow_commits()) {
            if self.drain_queue(ExecutionContext::Task) {
                return;
            }
        } else if lock(&self.connection).is_none() {
            return; // who has the connection will look at the queue once more
        }
        let rest = BlockingDrain(Arc::clone(self));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(rest));
        }
    }

    /// Runs what is queued until nothing is left, unless someone else has the connection. False if a thread has to
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
                    // not before the pause is over may anyone of this process begin another transaction
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

    /// Gives the connection to the next one who claims it, and back if there is none.
    fn pass_to_waiter(&self, mut permit: WritePermit) -> Option<WritePermit> {
        loop {
            let waiter = lock(&self.queue).waiters.pop_front();
            let Some(waiter) = waiter else {
                return Some(permit);
            };
            let context = permit.context();
            permit.set_context(ExecutionContext::Task);
            permit.set_handed_off(true);
            // it does not want it any more, and it did not take long to find out
            permit = waiter.send(self.new_handoff(permit)).err()?.take()?;
            permit.set_handed_off(false);
            permit.set_context(context);
        }
    }

    /// Holds the connection out to somebody, for as long as a transaction may take.
    pub(crate) fn new_handoff(&self, permit: WritePermit) -> Arc<Handoff> {
        let handoff = Handoff::new(permit, self.transaction_timeout);
        self.watchdog.watch_handoff(&handoff);
        handoff
    }

    /// Runs the visits and the next batch of jobs; false if there is nothing to run, or it has to wait.
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
                    lock(&self.queue).requeue(batch);
                    return false;
                }
                Some((batch, error)) => batch.fail(error),
                None => {}
            }
        }
        !idle
    }

    /// Tells what was committed.
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

/// What is left for a thread: it runs when dropped, so also if the runtime ends before the thread begins.
struct BlockingDrain(Arc<Writer>);

impl Drop for BlockingDrain {
    fn drop(&mut self) {
        self.0.drain_queue(ExecutionContext::Thread);
    }
}

/// A panic leaves a queue as it was, and a transaction that the next batch rolls back: both are sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
