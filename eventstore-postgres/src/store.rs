//! The store: connecting, migrating, transactions of the caller, closing.

use std::sync::Arc;

use eventbus::{
    BoxError, ExpectedVersion, NewEvent, RecordedEvent, StreamId,
    port::{
        Append, AppendError, BoxFuture, EventStore, EventTypes, FromTransaction, HandlerProgress, MultiStreamAppends,
        Notes, ReadError, Snapshots, Transactions, listings::Listings,
    },
    store::{AppendBatches, Boundaries, UniqueValues},
    support::SchemaState,
};
use sqlx::{PgConnection, PgPool};

use crate::{
    append::{GroupCommit, append_in_transaction},
    config::PgEventStoreConfig,
    connector::Connector,
    error::PgConnectError,
    migrate::{self, Migrator},
    migration_step::MigrationStep,
    notify::{AppendNotifier, NotifyTask},
    on_pool::PgOnPoolConfig,
    open_append::{self, PgOpenAppend},
    pool::{ConnectionPools, OnConnect},
    preflight,
    schema::Schema,
    setup_session::SetupSession,
    statements::Statements,
    store_inner::StoreInner,
    transaction::PgTransaction,
};

/// An event store in a PostgreSQL database. Clones share its connections.
///
/// Several stores, in this or other processes, may use one schema at once. Stores of different schemas share only the
/// server.
#[derive(Clone, derive_more::Debug)]
#[debug("PgEventStore({} schema {})", inner.config().server(), inner.config().schema)]
pub struct PgEventStore {
    inner: Arc<StoreInner>,
    group_commit: Arc<GroupCommit>,
}

impl PgEventStore {
    /// Connects to the database at `database_url`, checks the server, and creates or upgrades the tables.
    ///
    /// # Errors
    /// [`PgConnectError`]; those about the set-up say how to repair it.
    ///
    /// # Examples
    /// ```no_run
    /// use eventstore_postgres::PgEventStore;
    /// # async fn example() -> Result<(), eventstore_postgres::PgConnectError> {
    /// let store = PgEventStore::connect("postgres://app:secret@localhost/orders").await?;
    /// # store.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(database_url: impl Into<String>) -> Result<Self, PgConnectError> {
        Self::connect_with(PgEventStoreConfig { database_url: database_url.into(), ..Default::default() }).await
    }

    /// Connects as `config` says.
    ///
    /// # Errors
    /// [`PgConnectError`]; those about the set-up say how to repair it.
    pub async fn connect_with(config: PgEventStoreConfig) -> Result<Self, PgConnectError> {
        Self::connect_as(config, migrate::STEPS).await
    }

    /// Opens a store on `pool`, which is the application's: one pool for its own queries and the store.
    ///
    /// The store uses only the pool's connections; it opens none. Its rows and those of the application are in one
    /// database; one transaction can write both, see [`append_in`](Self::append_in).
    ///
    /// The store leaves no setting on a connection: each of its statements is a transaction that sets the limits, the
    /// isolation and the planner's settings for itself. So a statement, such as an append, takes three round trips
    /// (`BEGIN` with the settings, the statement, `COMMIT`) and the pool's own pings; a store with connections of its
    /// own needs one. `application_name`, TLS, the role and what `after_connect` sets are the pool's.
    ///
    /// The pool needs three connections, or fewer without notifications or transactions: see [`PgOnPoolConfig`]. Leave
    /// further connections for the application: a task that holds one while it waits for the store needs a second one
    /// (not for `append_in`, which takes the task's connection). If several stores share one pool, it needs the sum.
    ///
    /// [`close`](Self::close) leaves the pool open. Closing the pool first ends the store's statements with errors.
    ///
    /// # Errors
    /// [`PgConnectError::PoolTooSmall`] names the connections that the store needs; other [`PgConnectError`]s about the
    /// set-up say how to repair it.
    ///
    /// # Examples
    /// ```no_run
    /// use eventbus::{ExpectedVersion, NewEvent, StreamId, port::AppendEvents};
    /// use eventstore_postgres::PgEventStore;
    /// use sqlx::postgres::PgPoolOptions;
    ///
    /// # async fn example(stream: StreamId, events: Vec<NewEvent>) -> eventbus::Result<()> {
    /// let pool = PgPoolOptions::new().max_connections(10).connect("postgres://localhost/orders").await?;
    /// let store = PgEventStore::on(pool.clone()).await?;
    /// store.append(&stream, ExpectedVersion::Any, events).await?;
    /// sqlx::query("UPDATE accounts SET is_closed = true").execute(&pool).await?;
    /// store.close().await;
    /// pool.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn on(pool: PgPool) -> Result<Self, PgConnectError> {
        Self::on_with(pool, PgOnPoolConfig::default()).await
    }

    /// Opens a store on the application's `pool`, as `config` says; see [`on`](Self::on).
    ///
    /// # Errors
    /// [`PgConnectError`]; those about the set-up say how to repair it.
    pub async fn on_with(pool: PgPool, config: PgOnPoolConfig) -> Result<Self, PgConnectError> {
        Self::on_as(pool, config, migrate::STEPS).await
    }

    /// Connects as the release with these steps does.
    pub(crate) async fn connect_as(
        config: PgEventStoreConfig,
        steps: &[MigrationStep],
    ) -> Result<Self, PgConnectError> {
        let connector = Connector::Own(config.connect_options()?.into());
        Self::open(config, connector, steps).await
    }

    /// Opens a store on the application's pool as the release with these steps does.
    pub(crate) async fn on_as(
        pool: PgPool,
        config: PgOnPoolConfig,
        steps: &[MigrationStep],
    ) -> Result<Self, PgConnectError> {
        let config = config.for_pool(&pool)?;
        Self::open(config, Connector::Shared(pool), steps).await
    }

    /// Returns a box, so that its code is compiled once, with this crate, not again with each program that connects.
    fn open(
        config: PgEventStoreConfig,
        connector: Connector,
        steps: &[MigrationStep],
    ) -> BoxFuture<'_, Result<Self, PgConnectError>> {
        Box::pin(Self::set_up(config, connector, steps))
    }

    async fn set_up(
        config: PgEventStoreConfig,
        connector: Connector,
        steps: &[MigrationStep],
    ) -> Result<Self, PgConnectError> {
        let schema = Schema::new(&config.schema)?;
        let mut session = SetupSession::open(&config, &connector).await?;
        preflight::check_server(&mut session, &connector).await?;
        let migrator = Migrator::new(&config, &connector, &schema, steps);
        match config.migrate {
            true => migrator.run(&mut session).await?,
            false => migrator.check(&mut session).await?,
        }
        let is_partitioned = preflight::check_tables(&mut session, &schema).await?;
        open_append::warn_of_oldest(&mut session, &schema).await?;
        session.close().await;
        let append_notifier = Arc::<AppendNotifier>::default();
        if config.notify {
            NotifyTask::new(&config, &connector, &schema, &append_notifier).spawn();
        }
        let of_pools = Arc::clone(&append_notifier);
        let on_connect: OnConnect = Arc::new(move || of_pools.signal.note_possible_restore());
        let connections = ConnectionPools::new(&config, connector, &on_connect);
        let statements = Statements::new(schema, is_partitioned);
        let inner = Arc::new(StoreInner::new(config, connections, statements, append_notifier));
        Ok(Self { group_commit: GroupCommit::new(Arc::clone(&inner)), inner })
    }

    /// The number of the newest migration that this release knows, in the table `migrations`.
    pub const NEWEST_MIGRATION: u32 = migrate::NEWEST;

    /// Creates or upgrades the tables, even if `config.migrate` is false: for deployments with a migration step.
    ///
    /// Each step is all or nothing and recorded in the table `migrations`. Steps of the kind `additive` may run while
    /// processes of an older release are running.
    ///
    /// # Errors
    /// [`PgConnectError`]; the steps before the one that failed stay.
    pub async fn migrate(config: &PgEventStoreConfig) -> Result<(), PgConnectError> {
        let schema = Schema::new(&config.schema)?;
        let connector = Connector::Own(config.connect_options()?.into());
        let mut session = SetupSession::open(config, &connector).await?;
        preflight::check_server(&mut session, &connector).await?;
        Migrator::new(config, &connector, &schema, migrate::STEPS).run(&mut session).await?;
        session.close().await;
        Ok(())
    }

    /// Returns the migrations that the database has and those of this release, and changes nothing.
    ///
    /// # Errors
    /// [`PgConnectError`], also if a later release made changes that this one cannot work with.
    pub async fn schema_state(config: &PgEventStoreConfig) -> Result<SchemaState, PgConnectError> {
        let schema = Schema::new(&config.schema)?;
        let connector = Connector::Own(config.connect_options()?.into());
        let mut session = SetupSession::open(config, &connector).await?;
        let state = Migrator::new(config, &connector, &schema, migrate::STEPS).state(&mut session).await?;
        session.close().await;
        Ok(state)
    }

    /// Returns the SQL that [`migrate`](Self::migrate) runs, for an administrator: `psql -v ON_ERROR_STOP=1`. It can
    /// run again.
    ///
    /// # Errors
    /// [`PgConnectError::InvalidSchema`] if `schema` is not a name for a schema.
    ///
    /// # Examples
    /// ```
    /// use eventstore_postgres::PgEventStore;
    /// let sql = PgEventStore::migrations_sql("orders")?;
    /// assert!(sql.contains(r#"CREATE SCHEMA IF NOT EXISTS "orders";"#));
    /// # Ok::<(), eventstore_postgres::PgConnectError>(())
    /// ```
    pub fn migrations_sql(schema: &str) -> Result<String, PgConnectError> {
        Schema::new(schema).map(|schema| migrate::script(&schema, migrate::STEPS))
    }

    /// Closes the connections once their statements have ended; statements not sent by then fail as unavailable. A pool
    /// of the application stays open, with all its connections.
    ///
    /// Waits for statements at most one [`statement_timeout`](PgEventStoreConfig::statement_timeout) and a second, for
    /// transactions at most one [`transaction_timeout`](PgEventStoreConfig::transaction_timeout). The connection of a
    /// longer one closes when its owner drops it.
    pub async fn close(&self) {
        self.inner.append_notifier().close().await;
        self.group_commit.close();
        self.inner.connections().close().await;
    }

    /// Begins a transaction of the caller's own, outside of handlers and projections. Dropped, it is rolled back.
    ///
    /// Like the transactions of handlers, it has a connection of the store, counts toward `max_transactions`, and may
    /// take at most `transaction_timeout`.
    ///
    /// # Errors
    /// If the store gets no connection within `connect_timeout`, for example because `max_transactions` are open or the
    /// server cannot be reached.
    ///
    /// # Examples
    /// ```no_run
    /// use eventbus::{ExpectedVersion, NewEvent, StreamId};
    /// use eventstore_postgres::{PgEventStore, sqlx};
    ///
    /// # async fn example(store: PgEventStore, stream: StreamId, events: Vec<NewEvent>) -> eventbus::Result<()> {
    /// let mut tx = store.begin_transaction().await?;
    /// sqlx::query("UPDATE accounts SET is_closed = true").execute(&mut *tx.connection()).await?;
    /// store.append_in(tx.connection(), &stream, ExpectedVersion::Any, events).await?;
    /// tx.commit().await?; // the rows and the events, or neither
    /// # Ok(())
    /// # }
    /// ```
    pub async fn begin_transaction(&self) -> Result<PgTransaction, BoxError> {
        PgTransaction::begin(&self.inner).await
    }

    /// Begins a read of the application's own tables, for example of the rows of a projection, without a second pool.
    /// Dropped, it ends.
    ///
    /// All its statements see the database as it was at the first one, and a statement that writes fails. It is a
    /// transaction of the store: the server ends it if a statement, or a pause between two, takes longer than
    /// `transaction_timeout`, and from PostgreSQL 17 on also if the whole read does. Before 17, drop a read of many
    /// statements in time: the server removes no old rows that its snapshot may see.
    ///
    /// Reads take at most half of the `max_transactions`, so that handlers and projections keep the other half; with
    /// `max_transactions: 1` they share the one. Appends do not use these. A further read waits for an earlier one to
    /// end, up to `connect_timeout`. In a handler or projection, read on the connection that it takes as a parameter:
    /// `begin_read` would need a second one.
    ///
    /// # Errors
    /// If the store gets no connection within `connect_timeout`, for example because earlier reads have not ended or
    /// the server cannot be reached; [`PgTransactionError::NoTransactions`](crate::PgTransactionError::NoTransactions)
    /// if `max_transactions` is 0.
    ///
    /// # Examples
    /// ```no_run
    /// use eventstore_postgres::{PgEventStore, sqlx};
    ///
    /// # async fn example(store: PgEventStore) -> eventbus::Result<()> {
    /// let mut read = store.begin_read().await?;
    /// let total = "SELECT total FROM order_rows WHERE order_id = $1";
    /// let total: Option<i64> = sqlx::query_scalar(total).bind("o-1").fetch_optional(read.connection()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn begin_read(&self) -> Result<PgTransaction, BoxError> {
        PgTransaction::begin_read(&self.inner).await
    }

    /// Appends in a transaction of the caller's: the events are stored when it commits, together with its other writes,
    /// or never. Otherwise like [`append`](eventbus::port::AppendEvents::append).
    ///
    /// `connection` must be in a transaction of the database that holds this store. After an error the transaction is
    /// unchanged, and can go on; it is lost only if the connection itself broke.
    ///
    /// Keep the transaction short: until it ends, further appends to the stream and appends of events with any of the
    /// tags wait, and no reader of the feed gets past the events. Two transactions that append with the same tags, or
    /// to the same streams, in a different order wait for each other, until the server ends one or a lock timeout is
    /// over.
    ///
    /// The store wakes readers after the commit of a transaction of a handler or projection, or of one that
    /// [`begin_transaction`](Self::begin_transaction) began; after the commit of your own, call
    /// `store.appended().notify()` to wake readers in this process, otherwise they find the events at their next poll.
    /// All readers poll every 250 ms until the transaction ends.
    /// If the future is dropped before it ends, the events may or may not be in the transaction: roll it back.
    ///
    /// # Errors
    /// [`AppendError`]. [`Refused`](AppendError::Refused) with a [`PgAppendInError`](crate::PgAppendInError) names the
    /// fault of the transaction and its repair. After [`Unavailable`](AppendError::Unavailable), retry in a new
    /// transaction; the outcome is never unknown, because the server stores no events without a commit.
    ///
    /// # Examples
    /// ```no_run
    /// use eventbus::{ExpectedVersion, NewEvent, StreamId, store::ReadFeed};
    /// use eventstore_postgres::PgEventStore;
    /// use sqlx::{PgPool, Postgres};
    ///
    /// # async fn example(store: PgEventStore, pool: PgPool, stream: StreamId, events: Vec<NewEvent>) -> eventbus::Result<()> {
    /// let mut transaction = pool.begin().await?;
    /// sqlx::query("UPDATE accounts SET is_closed = true").execute(&mut *transaction).await?;
    /// store.append_in(&mut transaction, &stream, ExpectedVersion::Any, events).await?;
    /// transaction.commit().await?;
    /// store.appended().notify();
    /// # Ok(())
    /// # }
    /// ```
    pub async fn append_in(
        &self,
        connection: &mut PgConnection,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        let append = Append { stream: stream.clone(), expected, events };
        let appended = append_in_transaction(&self.inner, connection, append).await;
        if appended.is_ok() {
            self.inner.append_notifier().notify_begun();
        }
        appended
    }

    /// Returns the append of any process that has been open the longest; `None` if no append is open.
    ///
    /// Readers of the feed do not get past it. [`append`](eventbus::port::AppendEvents::append) keeps an append open
    /// for milliseconds; one that stays open is in a transaction of the application, see
    /// [`append_in`](Self::append_in).
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached.
    pub async fn oldest_append(&self) -> Result<Option<PgOpenAppend>, ReadError> {
        PgOpenAppend::load_oldest(&self.inner).await
    }

    pub(crate) fn inner(&self) -> &Arc<StoreInner> {
        &self.inner
    }

    pub(crate) fn group_commit(&self) -> &Arc<GroupCommit> {
        &self.group_commit
    }
}

impl EventStore for PgEventStore {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        self.inner.has_transactions().then(|| Arc::new(self.clone()) as Arc<dyn Transactions>)
    }

    fn describe(&self) -> String {
        format!("PgEventStore {} schema {}", self.inner.config().server(), self.inner.config().schema)
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
        Some(self.inner.append_batches())
    }

    fn unique_values(&self) -> Option<&dyn UniqueValues> {
        Some(self)
    }

    fn boundaries(&self) -> Option<&dyn Boundaries> {
        Some(self)
    }
}

impl FromTransaction<PgEventStore> for PgConnection {
    type Transaction = PgTransaction;

    fn from_transaction(transaction: &mut PgTransaction) -> &mut Self {
        transaction.connection()
    }
}
