//! The store: its parts, and opening it.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use eventbus::port::{EventStore, EventTypes, Notes, Transactions};

use crate::{
    blocking::blocking,
    config::SqliteEventStoreConfig,
    connection::{GuardedConnection, open_writer},
    error::SqliteConnectError,
    files::OpenFiles,
    location::DatabaseLocation,
    readers::{ReaderPool, Readers},
    shadow_databases::ShadowDatabases,
    writer::Writer,
};

/// An event store in one SQLite file, or in memory. Clones share one store.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// use eventbus::{Name, port::Checkpoints};
/// use eventstore_sqlite::SqliteEventStore;
///
/// let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// let reader = Name::new("projection", "order-statistics")?;
/// store.save_checkpoint(&reader, 7.into()).await?;
/// assert_eq!(store.load_checkpoint(&reader).await?, Some(7.into()));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteEventStore(Arc<StoreInner>);

struct StoreInner {
    // dropped before the writer: the last connection that closes removes the write-ahead log, and a reader cannot
    readers: Readers,
    shadow_databases: Arc<ShadowDatabases>,
    writer: Arc<Writer>,
    transaction_timeout: Duration,
    location: DatabaseLocation,
}

impl SqliteEventStore {
    /// Opens the store in a file, and makes a missing one. A URL is for [`connect`](Self::connect).
    ///
    /// # Errors
    /// [`SqliteConnectError`] names the file and what is wrong with it; [`SqliteConnectError::InvalidUrl`] if it is a URL.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, SqliteConnectError> {
        Self::open_with(path, SqliteEventStoreConfig::default()).await
    }

    /// Opens the store in a file, with a configuration.
    ///
    /// # Errors
    /// [`SqliteConnectError`] names the file or the field, and what is wrong with it.
    pub async fn open_with(path: impl AsRef<Path>, config: SqliteEventStoreConfig) -> Result<Self, SqliteConnectError> {
        Self::open_location(DatabaseLocation::from_path(path.as_ref())?, config).await
    }

    /// Makes an empty store that ends with its last clone.
    ///
    /// It has one connection in all: readers wait for an open transaction, and readers in the transaction's own task
    /// see its writes.
    ///
    /// # Errors
    /// [`SqliteConnectError`] if there is no memory left for it.
    pub async fn in_memory() -> Result<Self, SqliteConnectError> {
        Self::open_location(DatabaseLocation::new_memory(), SqliteEventStoreConfig::default()).await
    }

    /// Opens the store that a URL names: `sqlite:path/to/file`, `sqlite:///absolute/path` or `sqlite::memory:`.
    ///
    /// # Errors
    /// [`SqliteConnectError`] names the URL or the file, and what is wrong with it.
    pub async fn connect(url: &str) -> Result<Self, SqliteConnectError> {
        Self::connect_with(url, SqliteEventStoreConfig::default()).await
    }

    /// Opens the store that a URL names, with a configuration.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect), or [`SqliteConnectError::InvalidConfig`].
    pub async fn connect_with(url: &str, config: SqliteEventStoreConfig) -> Result<Self, SqliteConnectError> {
        Self::open_location(DatabaseLocation::from_url(url)?, config).await
    }

    async fn open_location(
        location: DatabaseLocation,
        config: SqliteEventStoreConfig,
    ) -> Result<Self, SqliteConnectError> {
        let ended = location.clone();
        blocking(move || Self::open_location_blocking(location, &config)).await.unwrap_or_else(|error| {
            Err(SqliteConnectError::Unavailable { path: ended.path().to_owned(), source: error.into() })
        })
    }

    fn open_location_blocking(
        location: DatabaseLocation,
        config: &SqliteEventStoreConfig,
    ) -> Result<Self, SqliteConnectError> {
        let connection = open_writer(&location, config)?;
        let fault = |error| SqliteConnectError::from_sqlite(location.path(), error);
        // a writer first tries in a caller's task, which must not wait
        connection.busy_timeout(Duration::ZERO).map_err(fault)?;
        let files = Arc::new(open_files(&location)?);
        let writer =
            Arc::new(Writer::new(GuardedConnection::new(connection).map_err(fault)?, Arc::clone(&files), config));
        let readers = match &location {
            DatabaseLocation::Memory(_) => Readers::OnWriter(Arc::clone(&writer)),
            DatabaseLocation::File(path) => {
                Readers::Pooled(Arc::new(ReaderPool::new(path.clone(), files, config.busy_timeout, config.readers)))
            }
        };
        let shadow_databases = Arc::new(ShadowDatabases::new(location.clone(), config.busy_timeout));
        let transaction_timeout = config.transaction_timeout;
        Ok(Self(Arc::new(StoreInner { readers, shadow_databases, writer, transaction_timeout, location })))
    }

    pub(crate) fn writer(&self) -> &Arc<Writer> {
        &self.0.writer
    }

    pub(crate) fn readers(&self) -> &Readers {
        &self.0.readers
    }

    pub(crate) fn shadow_databases(&self) -> &Arc<ShadowDatabases> {
        &self.0.shadow_databases
    }

    pub(crate) fn transaction_timeout(&self) -> Duration {
        self.0.transaction_timeout
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.0.location.is_memory()
    }
}

fn open_files(location: &DatabaseLocation) -> Result<OpenFiles, SqliteConnectError> {
    match location {
        DatabaseLocation::Memory(_) => Ok(OpenFiles::default()),
        DatabaseLocation::File(path) => OpenFiles::from_database(path)
            .map_err(|source| SqliteConnectError::Unavailable { path: path.clone(), source: source.into() }),
    }
}

impl EventStore for SqliteEventStore {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        Some(Arc::new(self.clone()))
    }

    fn describe(&self) -> String {
        format!("SqliteEventStore {}", self.0.location.path().display())
    }

    fn notes(&self) -> Option<&dyn Notes> {
        Some(self)
    }

    fn event_types(&self) -> Option<&dyn EventTypes> {
        Some(self)
    }
}

impl fmt::Debug for SqliteEventStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteEventStore").field(&self.0.location.path()).finish()
    }
}
