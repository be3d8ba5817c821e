//! The store itself: opening it, and its transactions.

use std::{path::Path, sync::Arc};

use eventbus::{
    BoxError, ExpectedVersion, NewEvent, RecordedEvent, StreamId,
    port::{
        self, AppendError, EventStore, EventTypes, FromTransaction, HandlerProgress, MultiStreamAppends, Notes,
        Snapshots, Transactions, listings::Listings,
    },
    store::{AppendBatches, Boundaries, UniqueValues},
    support::SchemaState,
};
use rusqlite::Connection;

use crate::{
    blocking::blocking,
    config::SqliteEventStoreConfig,
    connection::open_reader,
    error::{SqliteConnectError, SqliteTransactionError},
    location::DatabaseLocation,
    migrate::{self, STEPS, schema_state},
    migration_step::MigrationStep,
    readers::Readers,
    store_inner::StoreInner,
    transaction::SqliteTransaction,
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
#[derive(Clone, derive_more::Debug)]
#[debug("{_0:?}")]
pub struct SqliteEventStore(Arc<StoreInner>);

impl SqliteEventStore {
    /// The number of the newest migration that this release knows, in the table `eventbus_migrations`.
    pub const NEWEST_MIGRATION: u32 = migrate::NEWEST;

    /// Opens the store in a file, and creates a missing file. For a URL, call [`connect`](Self::connect).
    ///
    /// # Errors
    /// [`SqliteConnectError`] names the file and what is wrong with it; [`SqliteConnectError::InvalidUrl`] if it is a
    /// URL.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, SqliteConnectError> {
        Self::open_with(path, SqliteEventStoreConfig::default()).await
    }

    /// Opens the store in a file, with a configuration.
    ///
    /// # Errors
    /// [`SqliteConnectError`] names the file or the field, and what is wrong with it.
    pub async fn open_with(path: impl AsRef<Path>, config: SqliteEventStoreConfig) -> Result<Self, SqliteConnectError> {
        Self::open_as(DatabaseLocation::from_path(path.as_ref())?, config, STEPS).await
    }

    /// Creates an empty store in memory. Its events are lost with its last clone.
    ///
    /// It has a single connection: readers wait for an open transaction, and readers in the transaction's own task see
    /// its writes.
    ///
    /// # Errors
    /// [`SqliteConnectError`] if there is not enough memory.
    pub async fn in_memory() -> Result<Self, SqliteConnectError> {
        Self::open_as(DatabaseLocation::new_memory(), SqliteEventStoreConfig::default(), STEPS).await
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
        Self::open_as(DatabaseLocation::from_url(url)?, config, STEPS).await
    }

    /// Returns the migrations that the file of a URL has and those of this release, and changes nothing.
    ///
    /// # Errors
    /// [`SqliteConnectError`] names the URL or the file, and what is wrong with it; also if a later release made
    /// changes that this one cannot work with.
    pub async fn schema_state(url: &str, config: SqliteEventStoreConfig) -> Result<SchemaState, SqliteConnectError> {
        let location = DatabaseLocation::from_url(url)?;
        let ended = location.clone();
        let state = blocking(move || {
            let fault = |error| SqliteConnectError::from_sqlite(location.path(), error);
            let connection = open_reader(location.path(), config.busy_timeout).map_err(fault)?;
            schema_state(&connection, location.path(), &config)
        });
        state.await.unwrap_or_else(|error| {
            Err(SqliteConnectError::Unavailable { path: ended.path().to_owned(), source: error.into() })
        })
    }

    /// Opens the store as the release with these steps does.
    pub(crate) async fn open_as(
        location: DatabaseLocation,
        config: SqliteEventStoreConfig,
        steps: &'static [MigrationStep],
    ) -> Result<Self, SqliteConnectError> {
        let ended = location.clone();
        let opened = blocking(move || StoreInner::open(location, &config, steps)).await.unwrap_or_else(|error| {
            Err(SqliteConnectError::Unavailable { path: ended.path().to_owned(), source: error.into() })
        });
        Ok(Self(Arc::new(opened?)))
    }

    /// Begins a transaction of the caller's own, outside of handlers and projections. Dropping it rolls it back.
    ///
    /// # Errors
    /// If the write connection is not available, for example because a different process keeps the file locked.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{ExpectedVersion, NewEvent, StreamId, prelude::*};
    /// use eventstore_sqlite::SqliteEventStore;
    ///
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate_type = "Account")]
    /// struct Closed {}
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// let store = SqliteEventStore::in_memory().await?;
    /// let mut tx = store.begin_transaction().await?;
    /// tx.execute("CREATE TABLE closed (id TEXT)", [])?;
    /// tx.execute("INSERT INTO closed VALUES ('ada')", [])?;
    /// let (ada, closed) = (StreamId::parse("Account", "ada")?, NewEvent::from_event(&Closed {})?);
    /// store.append_in(&mut tx, &ada, ExpectedVersion::Any, vec![closed]).await?;
    /// tx.commit().await?; // the row and the event, or neither
    /// # Ok(()) }
    /// ```
    pub async fn begin_transaction(&self) -> Result<SqliteTransaction, BoxError> {
        SqliteTransaction::begin(&self.0).await
    }

    /// Runs a query on the application's own tables, for example on the rows of a projection, without a second
    /// connection to the file.
    ///
    /// The query runs on a read-only connection, on a thread that may block: all its statements see the file as it was
    /// at the first one, and a statement that writes fails. Queries take at most half of the
    /// [`readers`](SqliteEventStoreConfig::readers), so that loads and projections keep the other half; with
    /// `readers: 1` they share the one. A further query waits for an earlier one to end. A panic of the query continues
    /// in the caller.
    ///
    /// SQLite has no time limit for a query. While one runs, the write-ahead log cannot begin anew, and grows with each
    /// append: keep queries short. Appends do not wait for queries of a file.
    ///
    /// A store in memory has a single connection: queries and all other work run one after the other. In a task with an
    /// open transaction, the query runs on the connection of that transaction, in the task itself, and sees what the
    /// transaction has written. On a file, a query sees only committed rows.
    ///
    /// Do not change the state of the connection (pragmas, temporary tables, attached databases): the store goes on
    /// using it.
    ///
    /// # Errors
    /// The error of `query`, unchanged; or an error of the store, if the file cannot be read.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// use eventstore_sqlite::SqliteEventStore;
    ///
    /// let store = SqliteEventStore::in_memory().await?;
    /// let mut tx = store.begin_transaction().await?;
    /// tx.execute("CREATE TABLE order_rows (order_id TEXT, total INTEGER)", [])?;
    /// tx.execute("INSERT INTO order_rows VALUES ('o-1', 30)", [])?;
    /// tx.commit().await?;
    ///
    /// let total = "SELECT total FROM order_rows WHERE order_id = ?1";
    /// let total: i64 = store.read(move |rows| Ok(rows.query_row(total, ["o-1"], |row| row.get(0))?)).await?;
    /// assert_eq!(total, 30);
    /// # Ok(()) }
    /// ```
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T, BoxError> {
        self.readers().query(query).await
    }

    /// Appends inside an open transaction of this store: the transaction of a handler, or one from
    /// [`begin_transaction`](Self::begin_transaction). The commit stores the events, a rollback does not.
    ///
    /// A conflict leaves the transaction unchanged.
    ///
    /// # Errors
    /// As for [`append`](eventbus::port::AppendEvents::append); [`AppendError::Refused`] also if the transaction
    /// belongs to a different store or to a rebuild, [`AppendError::Unavailable`] if it has ended: append in a new one.
    pub async fn append_in(
        &self,
        transaction: &mut SqliteTransaction,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        let Some(append) = self.0.writer().check(port::Append { stream: stream.clone(), expected, events })? else {
            return Ok(Vec::new());
        };
        if !transaction.belongs_to(&self.0) {
            return Err(append.refused_error(SqliteTransactionError::OtherStore));
        }
        transaction.append(append).await
    }

    pub(crate) fn inner(&self) -> &Arc<StoreInner> {
        &self.0
    }

    pub(crate) fn writer(&self) -> &Arc<Writer> {
        self.0.writer()
    }

    pub(crate) fn readers(&self) -> &Readers {
        self.0.readers()
    }
}

impl EventStore for SqliteEventStore {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        Some(Arc::new(self.clone()))
    }

    fn describe(&self) -> String {
        format!("SqliteEventStore {}", self.0.location().path().display())
    }

    fn handler_progress(&self) -> Option<&dyn HandlerProgress> {
        Some(self)
    }

    fn notes(&self) -> Option<&dyn Notes> {
        Some(self)
    }

    fn event_types(&self) -> Option<&dyn EventTypes> {
        Some(self)
    }

    fn listings(&self) -> Option<&dyn Listings> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        Some(self)
    }

    fn append_batches(&self) -> Option<&AppendBatches> {
        Some(self.0.writer().append_batches())
    }

    fn unique_values(&self) -> Option<&dyn UniqueValues> {
        Some(self)
    }

    fn boundaries(&self) -> Option<&dyn Boundaries> {
        Some(self)
    }
}

impl FromTransaction<SqliteEventStore> for SqliteTransaction {
    type Transaction = Self;

    fn from_transaction(transaction: &mut Self) -> &mut Self {
        transaction
    }
}
