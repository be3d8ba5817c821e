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
    config::SqliteEventStoreConfig,
    files::OpenFiles,
    lent::Lent,
    offer::Offer,
    queue::Queue,
    seal::Sealed,
    turn::{Context, Turn},
    watch::Watch,
};

mod submit;

/// How long a caller's task may be kept busy for others before a thread that may block takes over.
const INLINE: Duration = Duration::from_millis(1);
/// More events than a caller's task may insert by itself.
pub(crate) const INLINE_EVENTS: usize = 128;
/// After so long without a pause other processes get a chance: SQLite's lock is not fair.
const BURST: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(1);

/// The connection, and what is to be done with it.
pub(crate) struct Writer {
    queue: Mutex<Queue>,
    /// Nothing while somebody has it.
    connection: Mutex<Option<Sealed>>,
    files: Arc<OpenFiles>,
    /// The transaction that has the connection, if one has.
    watch: Arc<Watch>,
    /// As many permits as appends may still be queued.
    room: Arc<Semaphore>,
    queued_appends: usize,
    busy_timeout: Duration,
    transaction_timeout: Duration,
    /// How long a commit takes lately: on a slow disk no task should wait for it.
    commit_micros: AtomicU64,
    appended: AppendSignal,
    listed: Arc<ListedEventTypes>,
    clock: SharedClock,
}

impl Writer {
    pub(crate) fn new(connection: Sealed, files: Arc<OpenFiles>, config: &SqliteEventStoreConfig) -> Self {
        let queued_appends = config.queued_appends.min(Semaphore::MAX_PERMITS);
        Self {
            queue: Mutex::default(),
            connection: Mutex::new(Some(connection)),
            files,
            watch: Arc::default(),
            room: Arc::new(Semaphore::new(queued_appends)),
            queued_appends,
            busy_timeout: config.busy_timeout,
            transaction_timeout: config.transaction_timeout,
            commit_micros: AtomicU64::new(0),
            appended: AppendSignal::default(),
            listed: Arc::default(),
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
    pub(crate) const fn listed(&self) -> &Arc<ListedEventTypes> {
        &self.listed
    }

    /// Notes which transaction has the connection, and watches over it.
    pub(crate) fn lend(&self, lent: &Arc<Lent>) {
        if lent.is_waited_for() {
            self.watch.begin(lent);
        }
    }

    /// The transaction that has the connection, if the calling task is the one that uses it.
    fn inside(&self) -> Option<Arc<Lent>> {
        self.watch.lent().filter(|lent| lent.is_used_here())
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
    pub(crate) fn is_slow(&self) -> bool {
        self.commit_micros.load(Ordering::Relaxed) > INLINE.as_micros() as u64
    }

    fn take_turn(self: &Arc<Self>) -> Option<Turn> {
        let connection = lock(&self.connection).take()?;
        Some(Turn::new(connection, Arc::clone(self)))
    }

    /// For the end of a turn only.
    pub(crate) fn put_back(&self, connection: Sealed) {
        *lock(&self.connection) = Some(connection);
    }

    /// Sees to it that someone runs what was just queued. Nothing here waits: a caller that goes away afterwards
    /// takes nothing with it but its own answer.
    pub(crate) fn start(self: &Arc<Self>, large: bool) {
        if !(large || self.is_slow()) {
            if self.drain(Context::Task) {
                return;
            }
        } else if lock(&self.connection).is_none() {
            return; // who has the connection will look at the queue once more
        }
        let rest = Rest(Arc::clone(self));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(rest));
        }
    }

    /// Runs what is queued until nothing is left, unless someone else has the connection. False if a thread has to
    /// go on.
    fn drain(self: &Arc<Self>, context: Context) -> bool {
        let started = Instant::now();
        loop {
            let Some(mut turn) = self.take_turn() else {
                return true;
            };
            turn.wait_when_busy(context);
            let mut burst = Instant::now();
            while context == Context::Thread || started.elapsed() < INLINE {
                let goes_on = self.run_next(turn.connection(), context);
                turn = match self.hand_over(turn) {
                    Some(turn) => turn,
                    None => return true,
                };
                if !goes_on {
                    break;
                }
                if burst.elapsed() > BURST {
                    // not before the pause is over may anyone of this process begin another transaction
                    std::thread::sleep(PAUSE);
                    burst = Instant::now();
                }
            }
            turn.wait_when_busy(Context::Task);
            drop(turn);
            if lock(&self.queue).is_empty() {
                return true;
            }
            if context == Context::Task {
                return false;
            }
        }
    }

    /// Gives the connection to the next one who claims it, and back if there is none.
    fn hand_over(&self, mut turn: Turn) -> Option<Turn> {
        loop {
            let claim = lock(&self.queue).claims.pop_front();
            let Some(claim) = claim else {
                return Some(turn);
            };
            let context = turn.context();
            turn.wait_when_busy(Context::Task);
            turn.set_claimed(true);
            // it does not want it any more, and it did not take long to find out
            turn = claim.send(self.offer(turn)).err()?.take()?;
            turn.set_claimed(false);
            turn.wait_when_busy(context);
        }
    }

    /// Holds the connection out to somebody, for as long as a transaction may take.
    pub(crate) fn offer(&self, turn: Turn) -> Arc<Offer> {
        let offer = Offer::new(turn, self.transaction_timeout);
        self.watch.offered(&offer);
        offer
    }

    /// Runs the visits and the next batch of jobs; false if there is nothing to run, or it has to wait.
    fn run_next(&self, connection: &Connection, context: Context) -> bool {
        let (visits, jobs) = lock(&self.queue).take();
        let idle = visits.is_empty() && jobs.is_empty();
        for visit in visits {
            visit(connection);
        }
        if let Some(batch) = Batch::of(jobs) {
            let report = batch.run(connection, &self.files);
            self.note(report.appended, report.commit);
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

    /// Tells what was committed.
    pub(crate) fn note(&self, appended: bool, commit: Option<Duration>) {
        if appended {
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
