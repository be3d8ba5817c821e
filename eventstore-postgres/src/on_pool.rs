//! The configuration of a store on a pool of the application.

use std::time::Duration;

use eventbus::clock::SharedClock;
use sqlx::{PgPool, postgres::PgConnectOptions};

use crate::{
    config::{CONNECTIONS_MAX, PgEventStoreConfig},
    error::PgConnectError,
};

/// A longer time limit has the same effect as none, and may be beyond the range of the clock.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 24 * 3_600);

/// The configuration of a [`PgEventStore`](crate::PgEventStore) on a pool of the application; see
/// [`on`](crate::PgEventStore::on).
///
/// The pool itself decides the rest: the database, TLS and `application_name` are those of its connections, and its
/// `acquire_timeout` limits the wait for a connection.
///
/// The pool needs a connection for [`notify`](Self::notify), one for each of
/// [`max_transactions`](Self::max_transactions), and one for all other statements; a smaller pool is refused
/// ([`PgConnectError::PoolTooSmall`]). So the smallest pool has three connections, two with `notify: false`, and one if
/// `max_transactions` is `Some(0)` too.
///
/// # Examples
/// ```no_run
/// use eventstore_postgres::{PgEventStore, PgOnPoolConfig};
/// use sqlx::postgres::PgPoolOptions;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = PgPoolOptions::new().max_connections(1).connect("postgres://localhost/orders").await?;
/// let config = PgOnPoolConfig { notify: false, max_transactions: Some(0), ..Default::default() };
/// let store = PgEventStore::on_with(pool, config).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgOnPoolConfig {
    /// As [`PgEventStoreConfig::schema`]; default `eventbus`.
    pub schema: String,
    /// As [`PgEventStoreConfig::migrate`]; default true. A step that must run outside of a transaction fails with
    /// [`NotMigrated`](PgConnectError::NotMigrated): it needs the connections of
    /// [`PgEventStore::migrate`](crate::PgEventStore::migrate), which have other settings.
    pub migrate: bool,
    /// As [`PgEventStoreConfig::append_queue`]; default 4,096.
    pub append_queue: u32,
    /// As [`PgEventStoreConfig::statement_timeout`], for the store's statements only; default 30 s.
    pub statement_timeout: Duration,
    /// The most transactions of handlers, projections and the application open at once, each on a connection of the
    /// pool; at most half of them, and at least one, are [reads](crate::PgEventStore::begin_read). Default `None`: half
    /// of the pool, at least one. `Some(0)` is a store without transactions: an app whose handlers or projections take
    /// a connection does not start, and [`begin_transaction`](crate::PgEventStore::begin_transaction) and `begin_read`
    /// fail.
    pub max_transactions: Option<u32>,
    /// As [`PgEventStoreConfig::notify`]; keeps one connection of the pool while the store is open. Default true.
    pub notify: bool,
    /// As [`PgEventStoreConfig::migration_timeout`]; default 5 min.
    pub migration_timeout: Duration,
    /// As [`PgEventStoreConfig::transaction_timeout`]; default 10 s.
    pub transaction_timeout: Duration,
    /// As [`PgEventStoreConfig::clock`]; default: the machine's.
    pub clock: SharedClock,
}

impl Default for PgOnPoolConfig {
    fn default() -> Self {
        let PgEventStoreConfig {
            schema,
            migrate,
            append_queue,
            statement_timeout,
            notify,
            migration_timeout,
            transaction_timeout,
            clock,
            ..
        } = PgEventStoreConfig::default();
        let max_transactions = None;
        Self {
            schema,
            migrate,
            append_queue,
            statement_timeout,
            max_transactions,
            notify,
            migration_timeout,
            transaction_timeout,
            clock,
        }
    }
}

impl PgOnPoolConfig {
    /// Returns the configuration of the store: the limits that `pool` sets, and the connections that it has for
    /// statements and transactions.
    ///
    /// # Errors
    /// [`PgConnectError::PoolTooSmall`], [`PgConnectError::PoolClosed`] and [`PgConnectError::InvalidConfig`].
    pub(crate) fn for_pool(self, pool: &PgPool) -> Result<PgEventStoreConfig, PgConnectError> {
        if pool.is_closed() {
            return Err(PgConnectError::PoolClosed);
        }
        let connections = pool.options().get_max_connections();
        let listening = u32::from(self.notify);
        let for_store = connections.saturating_sub(listening).min(CONNECTIONS_MAX);
        let transactions = self.max_transactions.unwrap_or((for_store / 2).max(1));
        let needed = transactions.saturating_add(1).saturating_add(listening);
        if connections < needed {
            return Err(PgConnectError::PoolTooSmall { connections, needed, transactions, notify: self.notify });
        }
        let config = PgEventStoreConfig {
            database_url: address(&pool.connect_options()),
            schema: self.schema,
            migrate: self.migrate,
            max_connections: for_store,
            append_queue: self.append_queue,
            connect_timeout: pool.options().get_acquire_timeout().min(TIMEOUT_MAX),
            statement_timeout: self.statement_timeout,
            max_transactions: transactions,
            notify: self.notify,
            migration_timeout: self.migration_timeout,
            transaction_timeout: self.transaction_timeout,
            clock: self.clock,
        };
        config.check_limits()?;
        Ok(config)
    }
}

/// Returns the URL of a server, without the password and the parameters, for errors and logs.
fn address(options: &PgConnectOptions) -> String {
    let host = match options.get_socket() {
        Some(socket) => socket.to_string_lossy().replace('/', "%2F"),
        None => options.get_host().replace('/', "%2F"),
    };
    let (user, port) = (options.get_username(), options.get_port());
    format!("postgres://{user}@{host}:{port}/{}", options.get_database().unwrap_or(user))
}
