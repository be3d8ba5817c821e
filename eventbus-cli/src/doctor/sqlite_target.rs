//! The file of a store on SQLite.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use eventstore_sqlite::rusqlite::{Connection, OpenFlags};

use super::outcome::CheckError;

/// The time for which a read waits for a process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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

    /// Fails if the file cannot be opened, or is no database.
    pub(crate) async fn ping(&self) -> Result<(), CheckError> {
        let ask =
            |connection: &Connection| Ok(connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?);
        self.read(ask).await
    }

    /// Opens the file for reading, and runs `read` in a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, CheckError> + Send + 'static,
    ) -> Result<T, CheckError> {
        let path = self.path.clone();
        let read = move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            read(&connection)
        };
        let joined = tokio::task::spawn_blocking(read).await;
        joined.map_err(|error| CheckError::Other(format!("the check stopped: {error}")))?
    }
}
