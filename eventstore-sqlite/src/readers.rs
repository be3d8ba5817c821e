//! The connections that read, so that a slow reader never blocks a writer.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use eventbus::{
    RecordedEvent,
    port::{PAGE_BYTES, ReadError},
};
use rusqlite::{Connection, Rows};
use tokio::sync::Semaphore;

use crate::{blocking::blocking, connection::open_reader, error::read_error, files::OpenFiles, row, writer::Writer};

/// A page ends after so many events, or [`PAGE_BYTES`].
pub(crate) const PAGE_EVENTS_MAX: i64 = 256;

/// Where reads happen.
pub(crate) enum Readers {
    /// On read-only connections of their own, opened when first needed.
    Pooled(Arc<ReaderPool>),
    /// On the connection that writes, between two transactions: a database in memory belongs to one connection.
    OnWriter(Arc<Writer>),
}

pub(crate) struct ReaderPool {
    path: PathBuf,
    files: Arc<OpenFiles>,
    busy_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
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

    /// Keeps the connection only if all went well: a new one may recover from what broke this one.
    fn with_connection<T>(&self, f: impl FnOnce(&Connection) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let check = || self.files.check().map_err(|lost| ReadError::Unavailable(lost.into()));
        let read = || {
            let connection = match kept {
                Some(connection) => connection,
                None => {
                    // SQLite would make a log that is missing
                    check()?;
                    open_reader(&self.path, self.busy_timeout).map_err(read_error)?
                }
            };
            Ok((f(&connection)?, connection))
        };
        let read = read();
        check()?;
        let (result, connection) = read?;
        idle().push(connection);
        Ok(result)
    }
}

impl Readers {
    /// Runs `f` with a connection.
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

/// Reads a page, and says whether there may be more. It ends before a row that is no event: that is the error of the page
/// which begins with it.
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
