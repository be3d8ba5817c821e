//! The one connection that writes: whoever finds it free commits for all who wait.
//!
//! A caller queues its job and tries to take the connection. The one who gets it runs everything that is queued in one
//! transaction, again and again until nothing is left; the others only wait for their answers. So a lone caller commits
//! in its own task without any hand-over, and many callers share commits without a timer or a thread.
//!
//! Keep: a job is queued before the connection is tried, and whoever gives the connection back looks at the queue once
//! more. In any other order a job can be left behind that nobody looks at.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    BoxError, RecordedEvent,
    port::{AppendError, AppendSignal},
};
use rusqlite::Connection;
use tokio::sync::oneshot::{self, error::RecvError};

use crate::{
    append::Append,
    batch::{Batch, Report},
    job::Job,
};

/// How long a caller's task may be kept busy for others before a thread that may block takes over.
const INLINE: Duration = Duration::from_millis(1);
/// More events than a caller's task may insert by itself.
const INLINE_EVENTS: usize = 128;
/// How many jobs share a transaction at most: the first of them waits for the last.
const BATCH: usize = 512;
/// After so long without a pause other processes get a chance: SQLite's lock is not fair.
const BURST: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(1);

/// The connection, and what is to be done with it.
pub(crate) struct Writer {
    queue: Mutex<Queue>,
    connection: Mutex<Connection>,
    busy_timeout: Duration,
    /// How long a commit takes lately: on a slow disk no task should wait for it.
    commit_micros: AtomicU64,
    appended: AppendSignal,
}

type Visit = Box<dyn FnOnce(&Connection) + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    visits: Vec<Visit>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.visits.is_empty()
    }

    fn take(&mut self) -> (Vec<Visit>, Vec<Job>) {
        let jobs = self.jobs.len().min(BATCH);
        (std::mem::take(&mut self.visits), self.jobs.drain(..jobs).collect())
    }

    fn put_back(&mut self, batch: Batch) {
        for job in batch.into_jobs().rev() {
            self.jobs.push_front(job);
        }
    }
}

/// Where the connection is used: in a caller's task, which must not block for long, or on a thread that may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    Task,
    Thread,
}

impl Writer {
    pub(crate) fn new(connection: Connection, busy_timeout: Duration) -> Self {
        Self {
            queue: Mutex::default(),
            connection: Mutex::new(connection),
            busy_timeout,
            commit_micros: AtomicU64::new(0),
            appended: AppendSignal::default(),
        }
    }

    pub(crate) const fn appended(&self) -> &AppendSignal {
        &self.appended
    }

    pub(crate) async fn append(self: &Arc<Self>, append: Append) -> Result<Vec<RecordedEvent>, AppendError> {
        let large = append.len() > INLINE_EVENTS;
        let (done, answer) = oneshot::channel();
        self.submit(Job::Append { append, done }, large);
        match answer.await {
            Ok(answer) => answer.map(|(append, placed)| append.recorded(placed)),
            // only a panic drops a job without an answer
            Err(lost) => Err(AppendError::OutcomeUnknown(lost.into())),
        }
    }

    /// Makes a small change in the transaction of whatever else is written at the time.
    ///
    /// # Errors
    /// What SQLite said, or that the answer was lost.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        let (done, answer) = oneshot::channel();
        self.submit(Job::write(change, done), false);
        answer.await?
    }

    /// Uses the connection for something else than writing, between two transactions.
    ///
    /// # Errors
    /// If `f` panicked.
    pub(crate) async fn visit<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, RecvError> {
        let (done, answer) = oneshot::channel();
        let visit = Box::new(move |connection: &Connection| {
            // nobody may wait any more
            let _ = done.send(f(connection));
        });
        lock(&self.queue).visits.push(visit);
        self.start(false);
        answer.await
    }

    fn submit(self: &Arc<Self>, job: Job, large: bool) {
        lock(&self.queue).jobs.push_back(job);
        self.start(large);
    }

    /// Sees to it that someone runs what was just queued. Nothing here waits: a caller that goes away afterwards
    /// takes nothing with it but its own answer.
    fn start(self: &Arc<Self>, large: bool) {
        let slow = self.commit_micros.load(Ordering::Relaxed) > INLINE.as_micros() as u64;
        if !(large || slow) {
            if self.drain(Context::Task) {
                return;
            }
        } else if try_lock(&self.connection).is_none() {
            return; // who has the connection will look at the queue once more
        }
        let rest = Rest(Arc::clone(self));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(rest));
        }
    }

    /// Runs what is queued until nothing is left, unless someone else has the connection. False if a thread has to
    /// go on.
    fn drain(&self, context: Context) -> bool {
        let started = Instant::now();
        loop {
            let Some(connection) = try_lock(&self.connection) else {
                return true;
            };
            self.wait_when_busy(&connection, context);
            let mut burst = Instant::now();
            while context == Context::Thread || started.elapsed() < INLINE {
                if !self.run_next(&connection, context) {
                    break;
                }
                if burst.elapsed() > BURST {
                    // not before the pause is over may anyone of this process begin another transaction
                    std::thread::sleep(PAUSE);
                    burst = Instant::now();
                }
            }
            self.wait_when_busy(&connection, Context::Task);
            drop(connection);
            if lock(&self.queue).is_empty() {
                return true;
            }
            if context == Context::Task {
                return false;
            }
        }
    }

    /// Runs the visits and the next batch of jobs; false if there is nothing to run, or it has to wait.
    fn run_next(&self, connection: &Connection, context: Context) -> bool {
        let (visits, jobs) = lock(&self.queue).take();
        let idle = visits.is_empty() && jobs.is_empty();
        for visit in visits {
            visit(connection);
        }
        if let Some(batch) = Batch::of(jobs) {
            let report = batch.run(connection);
            self.note(&report);
            match report.busy {
                Some((batch, _)) if context == Context::Task => {
                    lock(&self.queue).put_back(batch);
                    return false;
                }
                Some((batch, error)) => batch.fail(error),
                None => {}
            }
        }
        !idle
    }

    /// On a thread SQLite may sleep until another process is done; in a task it gives up at once.
    fn wait_when_busy(&self, connection: &Connection, context: Context) {
        let timeout = match context {
            Context::Task => Duration::ZERO,
            Context::Thread => self.busy_timeout,
        };
        // it cannot fail; if it did, a busy database would be reported sooner or later than it should
        let _ = connection.busy_timeout(timeout);
    }

    fn note(&self, report: &Report) {
        if report.appended {
            self.appended.notify();
        }
        if let Some(commit) = report.commit {
            let before = self.commit_micros.load(Ordering::Relaxed);
            let now = u64::try_from(commit.as_micros()).unwrap_or(u64::MAX / 4);
            let average = (before * 3).saturating_add(now) / 4;
            self.commit_micros.store(average, Ordering::Relaxed);
        }
    }
}

/// What is left for a thread: it runs when dropped, so also if the runtime ends before the thread begins.
struct Rest(Arc<Writer>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.drain(Context::Thread);
    }
}

/// A panic leaves a queue as it was, and a transaction that the next batch rolls back: both are sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
