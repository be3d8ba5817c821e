//! A connection on loan to a transaction, and how it comes back.
//!
//! Keep: it comes back exactly once: at the end, when the transaction is dropped, or when its time is up, whichever is
//! first. Whoever is late finds nothing but the reason.
//!
//! Real time, not the given clock: a lock that other threads wait for.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    thread::ThreadId,
    time::{Duration, Instant},
};

use rusqlite::{Connection, InterruptHandle};
use tokio::runtime::Handle;

use crate::{copy::CopyTurn, error::SqliteTransactionError, seal::Sealed, turn::Turn};

/// What a transaction holds.
pub(crate) enum Hold {
    /// The connection that writes.
    Live(Box<Turn>),
    /// One on the copies of a shadow.
    Shadow(Box<CopyTurn>),
}

impl Hold {
    pub(crate) fn connection(&self) -> &Sealed {
        match self {
            Self::Live(turn) => turn.connection(),
            Self::Shadow(turn) => turn.connection(),
        }
    }

    /// Whether appends wait for it.
    fn is_waited_for(&self) -> bool {
        match self {
            Self::Live(_) => true,
            Self::Shadow(turn) => turn.live().is_some(),
        }
    }
}

/// A connection on loan to a transaction.
pub(crate) struct Lent {
    state: Mutex<State>,
    user: Mutex<User>,
    /// When its time is up.
    deadline: Mutex<Option<Instant>>,
    /// Nothing if nobody waits for it.
    limit: Option<Duration>,
    interrupt: InterruptHandle,
}

enum State {
    Open(Hold),
    Ended(End),
}

/// Why there is no connection any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    TimedOut(Duration),
    RolledBack,
}

impl Lent {
    pub(crate) fn new(hold: Hold, limit: Duration) -> Arc<Self> {
        let limit = hold.is_waited_for().then_some(limit);
        let interrupt = hold.connection().get_interrupt_handle();
        let lent = Self {
            state: Mutex::new(State::Open(hold)),
            user: Mutex::new(User::here()),
            deadline: Mutex::default(),
            limit,
            interrupt,
        };
        lent.restart_clock();
        Arc::new(lent)
    }

    /// Whether appends wait for it.
    pub(crate) const fn is_waited_for(&self) -> bool {
        self.limit.is_some()
    }

    /// The connection, until the guard goes.
    ///
    /// # Errors
    /// Why there is none any more.
    pub(crate) fn open(&self) -> Result<Open<'_>, SqliteTransactionError> {
        let open = Open(lock(&self.state));
        match &*open.0 {
            State::Ended(end) => Err((*end).into()),
            State::Open(_) => match self.fault(&open) {
                Some(end) => {
                    open.end(end);
                    Err(end.into())
                }
                None => Ok(open),
            },
        }
    }

    /// Why the transaction cannot go on.
    fn fault(&self, connection: &Open<'_>) -> Option<End> {
        let late = self.expired().map(End::TimedOut);
        late.or_else(|| connection.hold().connection().is_broken().then_some(End::RolledBack))
    }

    /// Takes the connection away from the transaction.
    ///
    /// # Errors
    /// Why there is none any more.
    pub(crate) fn take(&self) -> Result<Hold, SqliteTransactionError> {
        let mut open = self.open()?;
        match std::mem::replace(&mut *open.0, State::Ended(End::RolledBack)) {
            State::Open(hold) => Ok(hold),
            State::Ended(end) => Err(end.into()),
        }
    }

    /// Rolls back and gives the connection back, without waiting for whoever uses it right now.
    pub(crate) fn end(self: &Arc<Self>, end: End) {
        match self.state.try_lock() {
            Ok(state) => Open(state).end(end),
            Err(TryLockError::Poisoned(state)) => Open(state.into_inner()).end(end),
            Err(TryLockError::WouldBlock) => {
                let late = Late { lent: Arc::clone(self), end };
                if let Ok(runtime) = Handle::try_current() {
                    runtime.spawn_blocking(move || drop(late));
                }
            }
        }
    }

    /// The same, waiting.
    pub(crate) fn end_and_wait(self: Arc<Self>, end: End) {
        drop(Late { lent: self, end });
    }

    /// When its time is up; nothing if it has ended, or has no end.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        lock(&self.deadline).filter(|_| self.is_open())
    }

    /// How long it could be open, if that is over.
    pub(crate) fn expired(&self) -> Option<Duration> {
        let deadline = *lock(&self.deadline);
        self.limit.filter(|_| deadline.is_some_and(|deadline| deadline <= Instant::now()))
    }

    fn is_open(&self) -> bool {
        match self.state.try_lock() {
            Ok(state) => matches!(*state, State::Open(_)),
            Err(TryLockError::Poisoned(state)) => matches!(**state.get_ref(), State::Open(_)),
            // somebody uses it
            Err(TryLockError::WouldBlock) => true,
        }
    }

    /// Work of the store itself, however long it takes, does not count.
    pub(crate) fn stop_clock(&self) {
        *lock(&self.deadline) = None;
    }

    pub(crate) fn restart_clock(&self) {
        *lock(&self.deadline) = self.limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    /// Notes who uses it.
    pub(crate) fn used(&self) {
        *lock(&self.user) = User::here();
    }

    pub(crate) fn is_used_here(&self) -> bool {
        *lock(&self.user) == User::here() && self.is_open()
    }
}

/// The connection of a transaction, while nobody may take it away.
pub(crate) struct Open<'l>(MutexGuard<'l, State>);

impl Open<'_> {
    pub(crate) fn hold(&self) -> &Hold {
        match &*self.0 {
            State::Open(hold) => hold,
            State::Ended(_) => unreachable!("asked before, and nobody else can end it"),
        }
    }

    pub(crate) fn hold_mut(&mut self) -> &mut Hold {
        match &mut *self.0 {
            State::Open(hold) => hold,
            State::Ended(_) => unreachable!("asked before, and nobody else can end it"),
        }
    }

    /// Rolls back, if that was not done before.
    fn end(mut self, end: End) {
        if matches!(*self.0, State::Open(_)) {
            let open = std::mem::replace(&mut *self.0, State::Ended(end));
            // whoever gets the connection next must not wait for this lock
            drop(self);
            drop(open);
        }
    }
}

impl Deref for Open<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.hold().connection()
    }
}

/// An end that has to wait for a statement: it runs when dropped, so also if the runtime ends before the thread begins.
struct Late {
    lent: Arc<Lent>,
    end: End,
}

impl Drop for Late {
    fn drop(&mut self) {
        loop {
            match self.lent.state.try_lock() {
                Ok(state) => return Open(state).end(self.end),
                Err(TryLockError::Poisoned(state)) => return Open(state.into_inner()).end(self.end),
                // again and again, for each statement that is begun after the end
                Err(TryLockError::WouldBlock) => self.lent.interrupt.interrupt(),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl From<End> for SqliteTransactionError {
    fn from(end: End) -> Self {
        match end {
            End::TimedOut(limit) => Self::TimedOut { limit },
            End::RolledBack => Self::RolledBack,
        }
    }
}

/// Who uses a transaction: a task, or a thread that runs none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Task(tokio::task::Id),
    Thread(ThreadId),
}

impl User {
    fn here() -> Self {
        tokio::task::try_id().map_or_else(|| Self::Thread(std::thread::current().id()), Self::Task)
    }
}

/// A panic leaves a transaction that is rolled back when it ends: it is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
