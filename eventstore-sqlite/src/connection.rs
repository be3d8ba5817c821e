//! Opening connections, and keeping their users from committing.
//!
//! Real time, not the given clock: locks of other processes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, MAIN_DB, OpenFlags, Row, ffi};

use crate::{
    config::SqliteEventStoreConfig,
    error::{SqliteConnectError, is_busy},
    location::DatabaseLocation,
    migrate::migrate,
    migration_step::MigrationStep,
    query::execute,
    slots,
};

/// Capacity of the statement cache: above the number of statements, so that none is prepared twice.
const STATEMENT_CACHE_CAPACITY: usize = 128;

/// Length of the write-ahead log, in pages (4 KiB by SQLite's default), from which on a commit copies it into the
/// database: four times SQLite's default. Each commit writes the same few pages again; a longer log has more versions
/// of a page, of which only the last is copied.
const AUTOCHECKPOINT_PAGES: i64 = 4_000;

/// Length in bytes to which SQLite truncates the file of the write-ahead log, after a large transaction or a long query
/// made it longer: the first commit that begins the log anew does so.
const LOG_BYTES_MAX: i64 = 64 << 20;

/// Pause between two attempts while a different connection writes.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Flags for reading and writing; a URI names a database in memory, a plain absolute path a file.
pub(crate) const READ_WRITE: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX).union(OpenFlags::SQLITE_OPEN_URI);

/// Opens the write connection as this release does, for tests of the modules above.
#[cfg(test)]
pub(crate) fn open_writer(
    location: &DatabaseLocation,
    config: &SqliteEventStoreConfig,
) -> Result<Connection, SqliteConnectError> {
    open_writer_as(location, config, crate::migrate::STEPS)
}

/// Opens the write connection as the release with these steps does.
///
/// Invariant: the store changes the file, even its journal mode, only after it found that the file is its own.
pub(crate) fn open_writer_as(
    location: &DatabaseLocation,
    config: &SqliteEventStoreConfig,
    steps: &[MigrationStep],
) -> Result<Connection, SqliteConnectError> {
    config.check()?;
    let fault = |error| SqliteConnectError::from_sqlite(location.path(), error);
    let mut flags = READ_WRITE;
    // without tables the store would refuse the new file, and leave it behind
    let makes_file = config.create_if_missing && config.migrate;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, makes_file || location.is_memory());
    let mut connection = Connection::open_with_flags(location.database(), flags).map_err(fault)?;
    // SQLite opens a file that cannot be written as read-only; each append would fail
    if config.migrate && connection.is_readonly(MAIN_DB).map_err(fault)? {
        return Err(fault(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY), None)));
    }
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
    connection.busy_timeout(config.busy_timeout).map_err(fault)?;
    slots::add_function(&connection).map_err(fault)?;
    let prepare = |connection: &Connection| prepare_journal(connection, location, config);
    migrate(&mut connection, location.path(), config, steps, prepare)?;
    Ok(connection)
}

fn prepare_journal(
    connection: &Connection,
    location: &DatabaseLocation,
    config: &SqliteEventStoreConfig,
) -> Result<(), SqliteConnectError> {
    let fault = |error| SqliteConnectError::from_sqlite(location.path(), error);
    if location.is_memory() {
        return Ok(());
    }
    // SQLite does not wait for a process that makes a write-ahead log at the same time
    let mode: String = retry_while_busy(config.busy_timeout, || {
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
    })
    .map_err(fault)?;
    if mode != "wal" {
        return Err(SqliteConnectError::NoWriteAheadLog { path: location.path().to_owned(), mode });
    }
    for (pragma, value) in [("wal_autocheckpoint", AUTOCHECKPOINT_PAGES), ("journal_size_limit", LOG_BYTES_MAX)] {
        let new_value = |row: &Row<'_>| row.get::<_, i64>(0);
        connection.pragma_update_and_check(None, pragma, value, new_value).map_err(fault)?;
    }
    let synchronous = config.synchronous.pragma();
    connection.pragma_update(None, "synchronous", synchronous).map_err(fault)
}

/// Begins a transaction that writes; waits for at most `timeout` while a different connection writes.
///
/// SQLite's own wait pauses for up to 100 ms between two attempts. A process that writes all the time leaves far less
/// time between two transactions, so a second process would hardly ever write.
///
/// # Errors
/// If SQLite refuses, as after `timeout`.
pub(crate) fn begin_immediate(connection: &Connection, timeout: Duration) -> rusqlite::Result<()> {
    let begin = || execute(connection, "BEGIN IMMEDIATE", []).map(drop);
    if timeout.is_zero() {
        return begin();
    }
    connection.busy_timeout(Duration::ZERO)?;
    let begun = retry_while_busy(timeout, begin);
    connection.busy_timeout(timeout)?;
    begun
}

/// Repeats an attempt while it is busy.
fn retry_while_busy<T>(timeout: Duration, attempt: impl Fn() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && started.elapsed() < timeout => std::thread::sleep(BUSY_PAUSE),
            result => return result,
        }
    }
}

/// Opens a connection that can only read.
pub(crate) fn open_reader(path: &std::path::Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
    connection.busy_timeout(busy_timeout)?;
    slots::add_function(&connection)?;
    Ok(connection)
}

/// A connection that is sealed during the transaction of a user, who must not commit.
///
/// Invariant: while it is sealed, no statement commits, neither a `COMMIT` of the user nor a statement after a
/// `ROLLBACK` of the user; and the connection records that its transaction was rolled back.
///
/// | state | event | next state |
/// |---|---|---|
/// | unsealed | [`begin`](Self::begin) | sealed: the commit hook refuses every commit |
/// | sealed | the user runs `COMMIT` | over: SQLite rolls back instead |
/// | sealed | the user or SQLite rolls back | over |
/// | over | the user runs a statement that writes | over: it cannot commit by itself |
/// | sealed | [`commit`](Self::commit) | unsealed |
/// | sealed, over | [`reset`](Self::reset) | unsealed, without a transaction |
#[derive(derive_more::Deref)]
pub(crate) struct GuardedConnection {
    #[deref]
    connection: Connection,
    state: Arc<GuardState>,
}

#[derive(Default)]
struct GuardState {
    is_commit_blocked: AtomicBool,
    is_rolled_back: AtomicBool,
}

impl GuardedConnection {
    pub(crate) fn new(connection: Connection) -> rusqlite::Result<Self> {
        let state = Arc::<GuardState>::default();
        let (at_commit, at_rollback) = (Arc::clone(&state), Arc::clone(&state));
        connection.commit_hook(Some(move || at_commit.is_commit_blocked.load(Relaxed)))?;
        connection.rollback_hook(Some(move || at_rollback.is_rolled_back.store(true, Relaxed)))?;
        Ok(Self { connection, state })
    }

    /// Begins a transaction that only [`commit`](Self::commit) can commit; waits as [`begin_immediate`] does.
    pub(crate) fn begin(&self, timeout: Duration) -> rusqlite::Result<()> {
        begin_immediate(&self.connection, timeout)?;
        self.state.is_rolled_back.store(false, Relaxed);
        self.state.is_commit_blocked.store(true, Relaxed);
        Ok(())
    }

    pub(crate) fn is_transaction_over(&self) -> bool {
        self.state.is_rolled_back.load(Relaxed) || self.connection.is_autocommit()
    }

    pub(crate) fn commit(&self) -> rusqlite::Result<()> {
        self.state.is_commit_blocked.store(false, Relaxed);
        execute(&self.connection, "COMMIT", []).map(drop)
    }

    /// Rolls back, and unseals the connection.
    pub(crate) fn reset(&self) {
        roll_back(&self.connection);
        self.state.is_commit_blocked.store(false, Relaxed);
    }
}

pub(crate) fn roll_back(connection: &Connection) {
    // if it fails, the next `BEGIN` returns the reason
    if !connection.is_autocommit() {
        let _ = execute(connection, "ROLLBACK", []);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Synchronous;

    #[test]
    fn each_connection_gets_its_settings() {
        let directory = std::env::temp_dir().join(format!("eventstore-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        for (synchronous, wanted) in [(Synchronous::Full, 2), (Synchronous::Normal, 1)] {
            let place = DatabaseLocation::from_path(&directory.join(format!("{wanted}.db"))).unwrap();
            let config = SqliteEventStoreConfig { synchronous, ..Default::default() };
            // the setting is the same when the file is opened again
            for _ in 0..2 {
                let connection = open_writer(&place, &config).unwrap();
                let ask = |pragma| connection.pragma_query_value(None, pragma, |row| row.get(0));
                let actual: i64 = ask("synchronous").unwrap();
                assert_eq!(actual, wanted, "{synchronous:?}");
                let actual: i64 = ask("wal_autocheckpoint").unwrap();
                assert_eq!(actual, AUTOCHECKPOINT_PAGES);
            }
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
