//! The store itself: connecting, and what its parts share.

use std::{fmt, sync::Arc};

use eventbus::port::{EventStore, EventTypes, ListedEventTypes, Notes, Transactions};

use crate::{
    append::GroupCommit,
    config::PgEventStoreConfig,
    error::PgConnectError,
    migrate,
    notify::{AppendNotifier, NotifyTask},
    open_append,
    pool::ConnectionPools,
    preflight,
    schema::Schema,
    setup_session::SetupSession,
    statements::Statements,
    transactions::PgTransactions,
};

/// An event store in a PostgreSQL database. Cloning shares it.
///
/// Several stores, in this or other processes, may use one
/// schema at once. Stores of different schemas share nothing but the server.
#[derive(Clone)]
pub struct PgEventStore {
    pub(crate) connections: ConnectionPools,
    pub(crate) statements: Arc<Statements>,
    pub(crate) append_notifier: Arc<AppendNotifier>,
    pub(crate) group_commit: Arc<GroupCommit>,
    pub(crate) listed_types: Arc<ListedEventTypes>,
    pub(crate) config: PgEventStoreConfig,
}

impl PgEventStore {
    /// Connects to the database at `database_url`, makes or upgrades the tables, and checks that all is as it must be.
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
        let schema = Schema::new(&config.schema)?;
        let options = config.connect_options()?;
        let mut session = SetupSession::open(&config, &options).await?;
        preflight::check_server(&mut session, &options).await?;
        if config.migrate {
            migrate::run(&mut session, &schema).await?;
        } else {
            migrate::check(&mut session, &schema).await?;
        }
        preflight::check_sequence(&mut session, &schema).await?;
        open_append::warn_of_oldest(&mut session, &schema).await?;
        session.close().await;
        let append_notifier = Arc::default();
        if config.notify {
            NotifyTask::new(&config, &options, &schema, &append_notifier).spawn();
        }
        let connections = ConnectionPools::new(&config, options);
        let statements = Arc::new(Statements::new(&schema));
        let listed_types = Arc::default();
        let group_commit = GroupCommit::new(
            &config,
            connections.clone(),
            Arc::clone(&statements),
            Arc::clone(&listed_types),
            Arc::clone(&append_notifier),
        );
        Ok(Self { connections, statements, append_notifier, group_commit, listed_types, config })
    }

    /// Makes or upgrades the tables, whatever `config.migrate` says: for deployments that do it as a step of its own.
    ///
    /// # Errors
    /// [`PgConnectError`]; the database is as it was before.
    pub async fn migrate(config: &PgEventStoreConfig) -> Result<(), PgConnectError> {
        let schema = Schema::new(&config.schema)?;
        let options = config.connect_options()?;
        let mut session = SetupSession::open(config, &options).await?;
        preflight::check_server(&mut session, &options).await?;
        migrate::run(&mut session, &schema).await?;
        session.close().await;
        Ok(())
    }

    /// The SQL that [`migrate`](Self::migrate) runs, for an administrator; running it again does nothing.
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
        Schema::new(schema).map(|schema| migrate::script(&schema))
    }

    /// Closes the connections once their statements are done; everything that was not sent before is unavailable.
    ///
    /// Statements are waited for until their [`statement_timeout`](PgEventStoreConfig::statement_timeout) and a second
    /// more, transactions of handlers and projections for one
    /// [`transaction_timeout`](PgEventStoreConfig::transaction_timeout). The connection of one that is kept for longer is
    /// closed when its owner lets it go.
    pub async fn close(&self) {
        self.append_notifier.close().await;
        self.group_commit.close();
        self.connections.close().await;
    }
}

impl EventStore for PgEventStore {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        Some(Arc::new(PgTransactions(self.clone())))
    }

    fn describe(&self) -> String {
        format!("PgEventStore {} schema {}", self.config.server(), self.config.schema)
    }

    fn notes(&self) -> Option<&dyn Notes> {
        Some(self)
    }

    fn event_types(&self) -> Option<&dyn EventTypes> {
        Some(self)
    }
}

impl fmt::Debug for PgEventStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgEventStore")
            .field("server", &self.config.server())
            .field("schema", &self.config.schema)
            .finish_non_exhaustive()
    }
}
