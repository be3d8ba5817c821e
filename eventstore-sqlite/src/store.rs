//! The store: how it is opened, and what it is made of.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use eventbus::port::{EventStore, EventTypes, Notes, Transactions};

use crate::{
    blocking::blocking,
    config::SqliteEventStoreConfig,
    connection::open_writer,
    copy::Copies,
    error::SqliteConnectError,
    files::OpenFiles,
    place::Place,
    readers::{Pool, Readers},
    seal::Sealed,
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
pub struct SqliteEventStore(Arc<Parts>);

struct Parts {
    // before the writer: the last connection that is closed tidies up, and readers cannot
    readers: Readers,
    copies: Arc<Copies>,
    writer: Arc<Writer>,
    transaction_timeout: Duration,
    place: Place,
}

impl SqliteEventStore {
    /// Opens the store in a file, which is made if it is missing. A URL is for [`connect`](Self::connect).
    ///
    /// # Errors
    /// [`SqliteConnectError`] names the file and what is wrong with it; [`SqliteConnectError::InvalidUrl`] if it is a URL.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, SqliteConnectError> {
        Self::open_with(path, SqliteEventStoreConfig::default()).await
    }

    /// Opens the store in a file, otherwise than by default.
    ///
    /// # Errors
    /// [`SqliteConnectError`] names the file or the field, and what is wrong with it.
    pub async fn open_with(path: impl AsRef<Path>, config: SqliteEventStoreConfig) -> Result<Self, SqliteConnectError> {
        Self::at(Place::file(path.as_ref())?, config).await
    }

    /// Makes an empty store that ends with its last clone.
    ///
    /// It has one connection for all: readers wait for an open transaction, and those of its own task see what it wrote.
    ///
    /// # Errors
    /// [`SqliteConnectError`] if there is no memory left for it.
    pub async fn in_memory() -> Result<Self, SqliteConnectError> {
        Self::at(Place::memory(), SqliteEventStoreConfig::default()).await
    }

    /// Opens the store that a URL names: `sqlite:path/to/file`, `sqlite:///absolute/path` or `sqlite::memory:`.
    ///
    /// # Errors
    /// [`SqliteConnectError`] names the URL or the file, and what is wrong with it.
    pub async fn connect(url: &str) -> Result<Self, SqliteConnectError> {
        Self::connect_with(url, SqliteEventStoreConfig::default()).await
    }

    /// Opens the store that a URL names, otherwise than by default.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect), or [`SqliteConnectError::InvalidConfig`].
    pub async fn connect_with(url: &str, config: SqliteEventStoreConfig) -> Result<Self, SqliteConnectError> {
        Self::at(Place::parse(url)?, config).await
    }

    async fn at(place: Place, config: SqliteEventStoreConfig) -> Result<Self, SqliteConnectError> {
        let ended = place.clone();
        blocking(move || Self::open_at(place, &config)).await.unwrap_or_else(|error| {
            Err(SqliteConnectError::Unavailable { path: ended.path().to_owned(), source: error.into() })
        })
    }

    fn open_at(place: Place, config: &SqliteEventStoreConfig) -> Result<Self, SqliteConnectError> {
        let connection = open_writer(&place, config)?;
        let fault = |error| SqliteConnectError::of(place.path(), error);
        // a writer first tries in a caller's task, which must not wait
        connection.busy_timeout(Duration::ZERO).map_err(fault)?;
        let files = Arc::new(open_files(&place)?);
        let writer = Arc::new(Writer::new(Sealed::new(connection).map_err(fault)?, Arc::clone(&files), config));
        let readers = match &place {
            Place::Memory(_) => Readers::Shared(Arc::clone(&writer)),
            Place::File(path) => {
                Readers::Own(Arc::new(Pool::new(path.clone(), files, config.busy_timeout, config.readers)))
            }
        };
        let copies = Arc::new(Copies::new(place.clone(), config.busy_timeout));
        let transaction_timeout = config.transaction_timeout;
        Ok(Self(Arc::new(Parts { readers, copies, writer, transaction_timeout, place })))
    }

    pub(crate) fn writer(&self) -> &Arc<Writer> {
        &self.0.writer
    }

    pub(crate) fn readers(&self) -> &Readers {
        &self.0.readers
    }

    pub(crate) fn copies(&self) -> &Arc<Copies> {
        &self.0.copies
    }

    pub(crate) fn transaction_timeout(&self) -> Duration {
        self.0.transaction_timeout
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.0.place.is_memory()
    }
}

/// The files of a database that is open.
fn open_files(place: &Place) -> Result<OpenFiles, SqliteConnectError> {
    match place {
        Place::Memory(_) => Ok(OpenFiles::default()),
        Place::File(path) => OpenFiles::of(path)
            .map_err(|source| SqliteConnectError::Unavailable { path: path.clone(), source: source.into() }),
    }
}

impl EventStore for SqliteEventStore {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        Some(Arc::new(self.clone()))
    }

    fn describe(&self) -> String {
        format!("SqliteEventStore {}", self.0.place.path().display())
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
        f.debug_tuple("SqliteEventStore").field(&self.0.place.path()).finish()
    }
}
