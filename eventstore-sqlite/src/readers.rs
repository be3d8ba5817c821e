//! The connections that read, so that a slow reader never blocks a writer.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use eventbus::{BoxError, port::ReadError};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::{
    blocking::blocking,
    connection::open_reader,
    files::OpenFiles,
    query::QueryError,
    writer::{ExecutionContext, Writer},
};

/// Connections for reads.
pub(crate) enum Readers {
    /// Read-only connections, opened when first needed.
    Pooled(Arc<ReaderPool>),
    /// The write connection, between two transactions: a database in memory has only this connection.
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
    /// For queries of the application, half of the connections: the store's own reads keep the other half.
    query_permits: Arc<Semaphore>,
}

impl ReaderPool {
    pub(crate) fn new(path: PathBuf, files: Arc<OpenFiles>, busy_timeout: Duration, readers: usize) -> Self {
        Self {
            path,
            files,
            busy_timeout,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(readers.min(Semaphore::MAX_PERMITS))),
            query_permits: Arc::new(Semaphore::new((readers / 2).clamp(1, Semaphore::MAX_PERMITS))),
        }
    }

    /// Runs `f`, and keeps the connection only after a success: a new one may recover from the failure.
    fn with_connection<T>(&self, f: impl FnOnce(&Connection) -> Result<T, QueryError>) -> Result<T, QueryError> {
        let kept = self.idle.lock().pop();
        let check = || self.files.check().map_err(|lost| ReadError::Unavailable(lost.into()));
        let read = || -> Result<_, QueryError> {
            let connection = match kept {
                Some(connection) => connection,
                None => {
                    // before opening: SQLite would create a missing write-ahead log
                    check()?;
                    open_reader(&self.path, self.busy_timeout)?
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

/// A snapshot on a connection that only reads until this is dropped.
struct ReadOnlySnapshot<'c> {
    connection: &'c Connection,
    /// Not set within a transaction of the calling task, on a store in memory.
    has_begun: bool,
}

impl<'c> ReadOnlySnapshot<'c> {
    fn begin(connection: &'c Connection) -> rusqlite::Result<Self> {
        let has_begun = connection.is_autocommit();
        if has_begun {
            connection.execute_batch("BEGIN")?;
        }
        let snapshot = Self { connection, has_begun };
        // a store in memory reads on the connection that writes
        connection.pragma_update(None, "query_only", true)?;
        Ok(snapshot)
    }
}

impl Drop for ReadOnlySnapshot<'_> {
    fn drop(&mut self) {
        // the query may have ended the transaction; neither statement accesses the file
        if self.has_begun && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("COMMIT");
        }
        let _ = self.connection.pragma_update(None, "query_only", false);
    }
}

impl Readers {
    /// Runs a query of the application on one snapshot, on a thread that may block. A panic of the query is resumed in
    /// the caller: on the thread, it would end work of other callers.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T, BoxError> {
        let permit = match self {
            Self::OnWriter(_) => None,
            Self::Pooled(pool) => Some(Arc::clone(&pool.query_permits).acquire_owned().await?),
        };
        let read = move |connection: &Connection| {
            let _permit = permit;
            let _snapshot = ReadOnlySnapshot::begin(connection)?;
            // unwinding drops the statements of the query, and the snapshot ends the rest
            Ok(catch_unwind(AssertUnwindSafe(|| query(connection))))
        };
        self.run(ExecutionContext::Thread, read).await?.unwrap_or_else(|panic| resume_unwind(panic))
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Connection) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, ReadError> {
        self.run(ExecutionContext::Task, f).await
    }

    async fn run<T: Send + 'static>(
        &self,
        context: ExecutionContext,
        f: impl FnOnce(&Connection) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let result = match self {
            Self::OnWriter(writer) => {
                let result = writer.run_on_connection(context, f).await;
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
        };
        Ok(result?)
    }
}
