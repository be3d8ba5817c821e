//! The connections that read, so that a slow reader never blocks a writer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use eventbus::{RecordedEvent, port::ReadError, support::PAGE_BYTES};
use parking_lot::Mutex;
use rusqlite::{Connection, Rows};
use tokio::sync::Semaphore;

use crate::{blocking::blocking, connection::open_reader, error::read_error, files::OpenFiles, row, writer::Writer};

/// Maximum number of events on a page, which also ends after [`PAGE_BYTES`].
pub(crate) const PAGE_EVENTS_MAX: i64 = 256;

/// Connections for reads.
pub(crate) enum Readers {
    /// Read-only connections, opened when first needed.
    Pooled(Arc<ReaderPool>),
    /// The write connection, between two transactions: a database in memory belongs to one connection.
    OnWriter(Arc<Writer>),
}

pub(crate) struct ReaderPool {
    path: PathBuf,
    files: Arc<OpenFiles>,
    busy_timeout: Duration,
    /// Locked to take or return a connection, never while it runs a statement.
    idle: Mutex<Vec<Connection>>,
    /// One permit per connection in use.
    permits: Arc<Semaphore>,
}

impl ReaderPool {
    pub(crate) fn new(path: PathBuf, files: Arc<OpenFiles>, busy_timeout: Duration, readers: usize) -> Self {
        Self {
            path,
            files,
            busy_timeout,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(readers.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Runs `f`, and keeps the connection only after a success: a new one may recover from the failure.
    fn with_connection<T>(&self, f: impl FnOnce(&Connection) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let kept = self.idle.lock().pop();
        let check = || self.files.check().map_err(|lost| ReadError::Unavailable(lost.into()));
        let read = || {
            let connection = match kept {
                Some(connection) => connection,
                None => {
                    // before opening: SQLite would make a missing write-ahead log
                    check()?;
                    open_reader(&self.path, self.busy_timeout).map_err(read_error)?
                }
            };
            Ok((f(&connection)?, connection))
        };
        let read = read();
        check()?;
        let (result, connection) = read?;
        self.idle.lock().push(connection);
        Ok(result)
    }
}

impl Readers {
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        match self {
            Self::OnWriter(writer) => {
                let result = writer.run_on_connection(f).await;
                result.map_err(|lost| ReadError::Unavailable(lost.into()))?
            }
            Self::Pooled(pool) => {
                let pool = Arc::clone(pool);
                let permit = Arc::clone(&pool.permits).acquire_owned().await;
                let result = blocking(move || {
                    let result = pool.with_connection(f);
                    drop(permit);
                    result
                });
                let result = result.await;
                result.map_err(|ended| ReadError::Unavailable(ended.into()))?
            }
        }
    }
}

/// Reads a page; `true` if there may be more. The page ends before a row that is no event: the next page begins with
/// that row, and fails.
pub(crate) fn read_page(mut rows: Rows<'_>) -> Result<(Vec<RecordedEvent>, bool), ReadError> {
    let mut events = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next().map_err(read_error)? {
        let event = match row::read_event(row) {
            Ok(event) => event,
            Err(_) if !events.is_empty() => return Ok((events, true)),
            Err(error) => return Err(error),
        };
        bytes += event.payload().len();
        events.push(event);
        if bytes >= PAGE_BYTES {
            return Ok((events, true));
        }
    }
    let full = events.len() as i64 == PAGE_EVENTS_MAX;
    Ok((events, full))
}
