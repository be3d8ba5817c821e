//! The file of a store on SQLite.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::clock::SharedClock;
use eventstore_sqlite::rusqlite::{self, Connection, OpenFlags, types::ValueRef};
use serde_json::{Map, Value};

use super::{
    outcome::CheckError,
    statement::{Database, Row},
};

/// The time for which a read waits for a process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The steps of a statement between two checks if its future was dropped.
const STEPS_BETWEEN_CHECKS: i32 = 1_000;

/// Interrupts the statements of a read when it is dropped: a runtime that ends waits for its blocking threads.
struct InterruptOnDrop(Arc<AtomicBool>);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The file of a store on SQLite.
#[derive(Debug, Clone)]
pub(crate) struct SqliteTarget {
    path: PathBuf,
}

impl SqliteTarget {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file as a database for statements.
    pub(crate) const fn with_clock<'a>(&'a self, clock: &'a SharedClock) -> SqliteFile<'a> {
        SqliteFile { target: self, clock }
    }

    /// Fails if the file cannot be opened, or is no database.
    pub(crate) async fn ping(&self) -> Result<(), CheckError> {
        let ask =
            |connection: &Connection| Ok(connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?);
        self.read(ask).await
    }

    /// Opens the file for reading, and runs `read` in a thread that may block. Its statements end when the future is dropped.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, CheckError> + Send + 'static,
    ) -> Result<T, CheckError> {
        let path = self.path.clone();
        let is_dropped = Arc::new(AtomicBool::new(false));
        let _interrupt = InterruptOnDrop(Arc::clone(&is_dropped));
        let read = move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.progress_handler(STEPS_BETWEEN_CHECKS, Some(move || is_dropped.load(Ordering::Relaxed)))?;
            read(&connection)
        };
        let joined = tokio::task::spawn_blocking(read).await;
        joined.map_err(|error| CheckError::Other(format!("the check stopped: {error}")))?
    }
}

/// A file whose times are compared with a clock: SQLite has none of its own.
#[derive(Debug)]
pub(crate) struct SqliteFile<'a> {
    target: &'a SqliteTarget,
    clock: &'a SharedClock,
}

impl Database for SqliteFile<'_> {
    async fn rows(&mut self, sql: String) -> Result<Vec<Row>, CheckError> {
        self.target.read(move |connection| Ok(rows(connection, &sql)?)).await
    }

    fn expand(&self, name: &str) -> Option<String> {
        Some(match name.split_once(' ').unwrap_or((name, "")) {
            ("table", table) => format!("eventbus_{table}"),
            // the file has microseconds
            ("seconds", time) => format!("({time} / 1e6)"),
            ("now", _) => format!("{:?}", self.clock.now().unix_timestamp_nanos() as f64 / 1e9),
            // a BLOB
            ("uuid", id) => format!("lower(hex({id}))"),
            // a lease that was released has no expiry: it ended when it was renewed last
            ("lease_end", _) => "(max(renewed_at, expires_at) / 1e6)".into(),
            _ => return None,
        })
    }
}

fn rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare(sql)?;
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let decode = |row: &rusqlite::Row<'_>| {
        let mut values = Map::new();
        for (index, column) in columns.iter().enumerate() {
            let value = match row.get_ref(index)? {
                ValueRef::Null | ValueRef::Blob(_) => Value::Null,
                ValueRef::Integer(number) => number.into(),
                ValueRef::Real(number) => number.into(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
            };
            values.insert(column.clone(), value);
        }
        Ok(Row(values))
    };
    statement.query_map([], decode)?.collect()
}

#[cfg(test)]
mod tests {
    use eventstore_sqlite::rusqlite::ErrorCode;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_statement_ends_when_its_future_is_dropped() {
        // it would take seconds
        const LONG: &str = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 50000000)
            SELECT count(*) FROM numbers";
        let folder = tempfile::tempdir().unwrap();
        let target = SqliteTarget::new(folder.path().join("bank.db"));
        Connection::open(target.path()).unwrap().execute_batch("CREATE TABLE notes (n)").unwrap();
        let ((begin, begun), (end, ended)) = (oneshot::channel(), oneshot::channel());
        let reading = target.read(move |connection| {
            begin.send(()).unwrap();
            let read = connection.query_row(LONG, [], |_| Ok(()));
            end.send(read.err().and_then(|error| error.sqlite_error_code())).unwrap();
            Ok(())
        });
        tokio::select! {
            _ = reading => panic!("the read ended before it was dropped"),
            _ = begun => {}
        }
        assert_eq!(ended.await.unwrap(), Some(ErrorCode::OperationInterrupted));
    }
}
