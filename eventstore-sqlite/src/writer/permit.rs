//! The write connection while one user has it, and its handoff to a waiter.
//!
//! Invariant: a permit ends by returning the connection without an open transaction, even if its user panicked, and its
//! owner checks the queue after a permit that was handed off.
//!
//! Real time, not the given clock: other threads wait for the connection.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::config::DbConfig;

use crate::{connection::GuardedConnection, query::path_parameter};

const ATTACH_WRITE: DbConfig = DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE;

/// Where the connection is used: in a caller's task, which must not block for long, or on a thread that may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecutionContext {
    Task,
    Thread,
}

/// Owner of the write connection: permits return the connection to it.
pub(crate) trait ConnectionOwner: Send + Sync {
    /// Puts the connection back. Then checks the queue if a waiter had the connection; the drainer of the queue checks
    /// it itself.
    fn return_connection(self: Arc<Self>, connection: GuardedConnection, is_handed_off: bool);
}

/// The write connection, until this is dropped.
pub(crate) struct WritePermit {
    /// `None` only during the drop.
    connection: Option<GuardedConnection>,
    owner: Arc<dyn ConnectionOwner>,
    busy_timeout: Duration,
    is_handed_off: bool,
    /// Databases that are attached until the permit ends.
    attached: Vec<PathBuf>,
    context: ExecutionContext,
}

impl WritePermit {
    pub(crate) fn new(connection: GuardedConnection, owner: Arc<dyn ConnectionOwner>, busy_timeout: Duration) -> Self {
        Self {
            connection: Some(connection),
            owner,
            busy_timeout,
            is_handed_off: false,
            attached: Vec::new(),
            context: ExecutionContext::Task,
        }
    }

    pub(crate) fn connection(&self) -> &GuardedConnection {
        self.connection.as_ref().expect("the connection is put back only when the permit is dropped")
    }

    /// Sets whether a waiter has the permit, and not the drainer of the queue.
    pub(crate) const fn set_handed_off(&mut self, is_handed_off: bool) {
        self.is_handed_off = is_handed_off;
    }

    pub(crate) const fn context(&self) -> ExecutionContext {
        self.context
    }

    /// Returns the time for which a statement may wait for other processes in this context.
    pub(crate) const fn busy_timeout(&self) -> Duration {
        match self.context {
            ExecutionContext::Task => Duration::ZERO,
            ExecutionContext::Thread => self.busy_timeout,
        }
    }

    /// Sets the context: on a thread SQLite may sleep until other processes have written; in a task it gives up at
    /// once.
    pub(crate) fn set_context(&mut self, context: ExecutionContext) {
        self.context = context;
        // it cannot fail; if it did, a busy database would be reported sooner or later than it should
        let _ = self.connection().busy_timeout(self.busy_timeout());
    }

    /// Attaches a database read-only until the permit ends, and returns the name of its schema.
    pub(crate) fn attach(&mut self, database: &Path) -> rusqlite::Result<String> {
        if let Some(known) = self.attached.iter().position(|known| known == database) {
            return Ok(attached_schema(known));
        }
        let schema = attached_schema(self.attached.len());
        let connection = self.connection();
        let could_write = connection.db_config(ATTACH_WRITE)?;
        connection.set_db_config(ATTACH_WRITE, false)?;
        let result = connection.execute(&format!("ATTACH ?1 AS {schema}"), [path_parameter(database)]);
        connection.set_db_config(ATTACH_WRITE, could_write)?;
        result?;
        self.attached.push(database.to_owned());
        Ok(schema)
    }
}

fn attached_schema(number: usize) -> String {
    format!("eventbus_copy_{number}")
}

impl Drop for WritePermit {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        connection.reset();
        for schema in (0..self.attached.len()).map(attached_schema) {
            let detached = connection.execute(&format!("DETACH {schema}"), []);
            if let Err(error) = detached {
                tracing::warn!(%error, schema, "a database stays attached");
            }
        }
        Arc::clone(&self.owner).return_connection(connection, self.is_handed_off);
    }
}

/// An offer of a write permit to a waiter.
///
/// Invariant: the waiter takes the permit when its task is polled, or the watchdog takes it back at the deadline. So a
/// future that is not polled keeps no connection.
///
/// | state | event | next state |
/// |---|---|---|
/// | offered | the waiter's task is polled | taken |
/// | offered | the deadline passes: the watchdog takes the permit and drops it | taken back; the waiter queues again |
/// | offered | the waiter is dropped, and the offer with it | dropped: the connection is idle |
pub(crate) struct Handoff {
    /// Locked: the waiter and the watchdog each try to take it, and one of them gets it.
    permit: Mutex<Option<WritePermit>>,
    deadline: Option<Instant>,
}

impl Handoff {
    pub(crate) fn new(permit: WritePermit, limit: Duration) -> Arc<Self> {
        Arc::new(Self { permit: Mutex::new(Some(permit)), deadline: Instant::now().checked_add(limit) })
    }

    /// Returns the permit, unless the watchdog took it back.
    pub(crate) fn take(&self) -> Option<WritePermit> {
        self.permit.lock().take()
    }

    /// Takes the permit back if its deadline has passed.
    pub(crate) fn take_if_expired(&self) -> Option<WritePermit> {
        self.deadline.filter(|deadline| *deadline <= Instant::now()).and_then(|_| self.take())
    }

    /// Returns the deadline; `None` if the permit was taken.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let permit = self.permit.lock();
        self.deadline.filter(|_| permit.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::{super::watchdog::Watchdog, *};
    use crate::{config::SqliteEventStoreConfig, connection::open_writer, location::DatabaseLocation};

    /// Asks the watchdog for an open transaction when the connection comes back, as each append does.
    struct Owner {
        watchdog: Arc<Watchdog>,
        returned: mpsc::Sender<()>,
    }

    impl ConnectionOwner for Owner {
        fn return_connection(self: Arc<Self>, _connection: GuardedConnection, _is_handed_off: bool) {
            drop(self.watchdog.transaction());
            let _ = self.returned.send(());
        }
    }

    /// Fails if the watchdog has its lock while it drops an offer: all appends would wait for ever.
    #[test]
    fn an_offer_that_is_dropped_while_the_watchdog_reads_its_deadline_returns_the_connection() {
        let limit = Duration::from_secs(30);
        // several rounds, as in one the drop here may be the last
        for _ in 0..8 {
            let (watchdog, (sender, returned)) = (Arc::<Watchdog>::default(), mpsc::channel());
            let owner = Arc::new(Owner { watchdog: Arc::clone(&watchdog), returned: sender });
            let connection = open_writer(&DatabaseLocation::new_memory(), &SqliteEventStoreConfig::default()).unwrap();
            let permit = WritePermit::new(GuardedConnection::new(connection).unwrap(), owner, Duration::ZERO);
            let offer = Handoff::new(permit, limit);
            let in_use = offer.permit.lock();
            watchdog.watch_handoff(&offer);
            let began = Instant::now();
            while Arc::strong_count(&offer) < 2 {
                assert!(began.elapsed() < limit, "the watchdog does not read the deadline");
                thread::yield_now();
            }
            drop(in_use);
            drop(offer);
            returned.recv_timeout(limit).expect("the watchdog waits for itself");
        }
    }
}
