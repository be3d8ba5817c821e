//! A connection that is checked out to a transaction, and its return.
//!
//! Invariant: the connection comes back exactly once, at the first end of its transaction: the commit, a statement or
//! an append that ended it, its drop, or its deadline. A later call finds only the reason.
//!
//! Real time, not the given clock: other threads wait for the connection.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::ThreadId,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, InterruptHandle};
use tokio::runtime::Handle;

use super::permit::WritePermit;
use crate::{connection::GuardedConnection, error::SqliteTransactionError, shadow_databases::ShadowConnection};

/// The connection of a transaction.
pub(crate) enum HeldConnection {
    /// The write connection.
    Live(Box<WritePermit>),
    /// A connection to the copies of a shadow.
    Shadow {
        // dropped before the permit, as no append may run while it is in use
        connection: Box<ShadowConnection>,
        /// Set for a store in memory: no connection may write the store's memory while a transaction on the copies
        /// reads it.
        live_permit: Option<Box<WritePermit>>,
    },
}

impl HeldConnection {
    pub(crate) fn connection(&self) -> &GuardedConnection {
        match self {
            Self::Live(permit) => permit.connection(),
            Self::Shadow { connection, .. } => connection.connection(),
        }
    }

    /// Returns `true` if appends wait for it.
    fn is_blocking_appends(&self) -> bool {
        match self {
            Self::Live(_) => true,
            Self::Shadow { live_permit, .. } => live_permit.is_some(),
        }
    }
}

/// A connection that is checked out to a transaction.
pub(crate) struct CheckedOutConnection {
    /// Locked by its user during each use of the connection; the end of the transaction waits for that. A user that
    /// panics leaves a transaction, which the end rolls back.
    state: Mutex<CheckoutState>,
    /// Task or thread that used it last: an append of that user would wait for its own transaction. Has its own lock,
    /// because other callers read it while the user has `state` locked.
    last_user: Mutex<ConnectionUser>,
    /// Time at which the watchdog ends it. Has its own lock for the same reason.
    deadline: Mutex<Option<Instant>>,
    /// Set once its end is decided; a statement may still run then. Not part of `state`: while the watchdog reads
    /// `state`, the user could not end the transaction at once.
    is_over: AtomicBool,
    /// Longest time that it may be open; `None` if no append waits for it.
    limit: Option<Duration>,
    interrupt: InterruptHandle,
}

/// State of a checked-out connection: `Open` is `Ok`, `Ended` is `Err`.
///
/// | state | event | next state |
/// |---|---|---|
/// | `Open` | a commit takes the connection | `Ended(RolledBack)` as a placeholder: later calls fail |
/// | `Open` | the transaction is dropped, or an append spoiled it | `Ended(RolledBack)` |
/// | `Open` | the deadline passes: the watchdog, or the next call, ends it | `Ended(TimedOut)` |
/// | `Open` | the next call finds that a statement ended the transaction | `Ended(RolledBack)` |
/// | `Open`, locked by its user | `end` or `end_and_wait` | `Open` until the interrupted user unlocks it; `Ended` |
/// | `Ended` | any call | `Ended`; the call fails with the reason |
type CheckoutState = Result<HeldConnection, EndReason>;

/// Reason why a transaction has no connection any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    TimedOut(Duration),
    RolledBack,
}

impl CheckedOutConnection {
    pub(crate) fn new(held: HeldConnection, limit: Duration) -> Arc<Self> {
        let limit = held.is_blocking_appends().then_some(limit);
        let interrupt = held.connection().get_interrupt_handle();
        let checked_out = Self {
            state: Mutex::new(Ok(held)),
            last_user: Mutex::new(ConnectionUser::current()),
            deadline: Mutex::default(),
            is_over: AtomicBool::new(false),
            limit,
            interrupt,
        };
        checked_out.restart_deadline();
        Arc::new(checked_out)
    }

    /// Returns `true` if appends wait for it.
    pub(crate) const fn is_blocking_appends(&self) -> bool {
        self.limit.is_some()
    }

    /// Locks the connection until the guard is dropped.
    ///
    /// # Errors
    /// The reason of the end if the transaction has ended.
    pub(crate) fn lock_connection(&self) -> Result<ConnectionGuard<'_>, SqliteTransactionError> {
        let state = self.state.lock();
        let held = state.as_ref().map_err(|end| *end)?;
        let timed_out = self.expired().map(EndReason::TimedOut);
        let rolled_back = || held.connection().is_transaction_over().then_some(EndReason::RolledBack);
        let end_reason = timed_out.or_else(rolled_back);
        let guard = ConnectionGuard(state);
        let Some(end) = end_reason else { return Ok(guard) };
        self.is_over.store(true, Ordering::Release);
        guard.end(end);
        Err(end.into())
    }

    /// Takes the connection away from the transaction.
    ///
    /// # Errors
    /// The reason of the end if the transaction has ended.
    pub(crate) fn take(&self) -> Result<HeldConnection, SqliteTransactionError> {
        let mut guard = self.lock_connection()?;
        self.is_over.store(true, Ordering::Release);
        Ok(std::mem::replace(&mut *guard.0, Err(EndReason::RolledBack))?)
    }

    /// Rolls back and returns the connection. If a user has it locked, a thread of the runtime interrupts that user's
    /// statements and waits; outside of a runtime, the caller does.
    pub(crate) fn end(self: &Arc<Self>, end: EndReason) {
        self.is_over.store(true, Ordering::Release);
        match self.state.try_lock() {
            Some(state) => ConnectionGuard(state).end(end),
            None => {
                let deferred = DeferredEnd { checked_out: Arc::clone(self), end };
                if let Ok(runtime) = Handle::try_current() {
                    runtime.spawn_blocking(move || drop(deferred));
                }
                // without a runtime `deferred` is dropped here, and its drop waits
            }
        }
    }

    /// Rolls back and returns the connection; interrupts the statements of a user that has it locked, and waits.
    pub(crate) fn end_and_wait(self: Arc<Self>, end: EndReason) {
        self.is_over.store(true, Ordering::Release);
        drop(DeferredEnd { checked_out: self, end });
    }

    /// Returns `true` once the end of the transaction is decided.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Returns the deadline; `None` if the end of the transaction is decided, or it has none.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.lock().filter(|_| !self.is_over())
    }

    /// Returns the time limit if the deadline has passed.
    pub(crate) fn expired(&self) -> Option<Duration> {
        let deadline = *self.deadline.lock();
        self.limit.filter(|_| deadline.is_some_and(|deadline| deadline <= Instant::now()))
    }

    /// Stops the deadline during work of the store itself, which does not count.
    pub(crate) fn stop_deadline(&self) {
        *self.deadline.lock() = None;
    }

    pub(crate) fn restart_deadline(&self) {
        *self.deadline.lock() = self.limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    pub(crate) fn set_user(&self) {
        *self.last_user.lock() = ConnectionUser::current();
    }

    pub(crate) fn is_used_by_caller(&self) -> bool {
        *self.last_user.lock() == ConnectionUser::current() && !self.is_over()
    }
}

/// The connection of a transaction; no other thread can end it while the guard lives.
pub(crate) struct ConnectionGuard<'l>(MutexGuard<'l, CheckoutState>);

impl ConnectionGuard<'_> {
    pub(crate) fn held(&self) -> &HeldConnection {
        self.0.as_ref().expect("open when checked, and no other thread can end it")
    }

    pub(crate) fn held_mut(&mut self) -> &mut HeldConnection {
        self.0.as_mut().expect("open when checked, and no other thread can end it")
    }

    /// Rolls back, unless the transaction has ended before.
    fn end(mut self, end: EndReason) {
        if self.0.is_ok() {
            let open = std::mem::replace(&mut *self.0, Err(end));
            // unlock first: the drop hands the connection on, and its next user must not wait for this lock
            drop(self);
            drop(open);
        }
    }
}

impl Deref for ConnectionGuard<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.held().connection()
    }
}

/// The end of a checkout whose user has it locked. The drop does the work, so it happens also if the runtime ends
/// before the thread begins.
struct DeferredEnd {
    checked_out: Arc<CheckedOutConnection>,
    end: EndReason,
}

impl Drop for DeferredEnd {
    fn drop(&mut self) {
        loop {
            match self.checked_out.state.try_lock() {
                Some(state) => return ConnectionGuard(state).end(self.end),
                // again and again: the user may begin the next statement after each interrupt
                None => self.checked_out.interrupt.interrupt(),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl From<EndReason> for SqliteTransactionError {
    fn from(end: EndReason) -> Self {
        match end {
            EndReason::TimedOut(limit) => Self::TimedOut { limit },
            EndReason::RolledBack => Self::RolledBack,
        }
    }
}

/// User of a transaction: a task, or a thread that runs none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionUser {
    Task(tokio::task::Id),
    Thread(ThreadId),
}

impl ConnectionUser {
    fn current() -> Self {
        tokio::task::try_id().map_or_else(|| Self::Thread(std::thread::current().id()), Self::Task)
    }
}
