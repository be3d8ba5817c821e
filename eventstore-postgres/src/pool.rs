//! The connections of a store, and the time limits of statements and transactions on them.
//!
//! Invariant: each statement has a time limit, and no connection returns to the pool in the middle of a statement. An
//! error of the server is returned only once the server has rolled the statement back, or its connection is closed.
//!
//! Real time, not the given clock: the replies of PostgreSQL.

use std::{sync::Arc, time::Duration};

use eventbus::BoxError;
use sqlx::{
    AssertSqlSafe, Connection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::{
    config::PgEventStoreConfig,
    statement_error::{NoAnswerWithin, StatementError},
};

/// A statement with its parameters.
pub(crate) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// The pool pings a connection that was idle for longer than this before it hands it out.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// All statements of the store walk along an index. With `enable_seqscan`, the plan made for a table with few rows
/// reads all of them, and with `enable_bitmapscan` a page of a table without statistics reads and sorts all rows after
/// its first one; the server keeps such a plan while the table grows. `jit` is off so that a user's trigger that reads
/// a whole table is not compiled for that.
pub(crate) const PLANNER_SETTINGS: [(&str, &str); 3] =
    [("enable_seqscan", "off"), ("enable_bitmapscan", "off"), ("jit", "off")];

/// The connection pools of a store, and the permits of its appends.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionPools {
    pool: PgPool,
    /// A pool apart: a handler that holds a transaction may append and renew its lease through `pool`, so that with one
    /// pool handlers could wait for each other's connections. Without [`PLANNER_SETTINGS`]: the statements are theirs.
    transactions: PgPool,
    /// For appends that give up soon if another transaction holds a row. Together with `long_wait_permits` half of the
    /// connections: the other half serves all other statements.
    short_wait_permits: Arc<Semaphore>,
    /// For appends to one stream, which wait for its row up to the time limit of a statement.
    long_wait_permits: Arc<Semaphore>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    transaction_timeout: Duration,
}

impl ConnectionPools {
    /// Creates the pools; a pool opens each connection when it is first needed.
    pub(crate) fn new(config: &PgEventStoreConfig, options: PgConnectOptions) -> Self {
        let answer_timeout = config.answer_timeout();
        let pool = |connections| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(config.connect_timeout)
                .test_before_acquire(false)
                .before_acquire(|connection, meta| {
                    Box::pin(async move {
                        if meta.idle_for > PING_AFTER_IDLE {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
                .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
        };
        let transactions = pool(config.max_transactions)
            .after_release(move |connection, _| Box::pin(await_rollback(connection, answer_timeout)));
        let half = config.max_connections.div_ceil(2) as usize;
        let long_wait = (half / 2).max(1);
        Self {
            pool: pool(config.max_connections).connect_lazy_with(options.clone().options(PLANNER_SETTINGS)),
            transactions: transactions.connect_lazy_with(options),
            short_wait_permits: Arc::new(Semaphore::new((half - long_wait).max(1))),
            long_wait_permits: Arc::new(Semaphore::new(long_wait)),
            connect_timeout: config.connect_timeout,
            answer_timeout,
            transaction_timeout: config.transaction_timeout,
        }
    }

    /// Begins a transaction with `begin`.
    ///
    /// Runs `begin` in a task of its own that is never cancelled: a connection on which only half of it ran would
    /// return to the pool within an open transaction.
    pub(crate) async fn begin(&self, begin: String) -> Result<Transaction<'static, Postgres>, BoxError> {
        let pool = self.transactions.clone();
        // safe: this crate's own text and numbers
        let begun = tokio::spawn(async move { pool.begin_with(AssertSqlSafe(begin)).await });
        match timeout(self.answer_timeout, begun).await {
            Ok(begun) => Ok(begun??),
            Err(_) => Err(NoAnswerWithin(self.answer_timeout).into()),
        }
    }

    /// Runs one statement and reads its answer to the end; then it is committed, or rolled back.
    pub(crate) async fn fetch_all(&self, query: Query<'_>) -> Result<Vec<PgRow>, StatementError> {
        let connection = self.pool.acquire().await;
        let mut checked_out = CheckedOutConnection {
            connection: connection.map_err(|error| StatementError::NotSent(error.into()))?,
            is_mid_statement: true,
        };
        let answer = timeout(self.answer_timeout, query.fetch_all(&mut *checked_out.connection)).await;
        let answer = match answer {
            Ok(answer) => answer.map_err(StatementError::from_driver),
            Err(_) => Err(StatementError::NoAnswer(NoAnswerWithin(self.answer_timeout).into())),
        };
        checked_out.is_mid_statement = match answer {
            Ok(_) => false,
            Err(StatementError::NoAnswer(_)) => true,
            // the server sends an error before it rolls back, and until then the locks of the statement bound the feed
            Err(_) => await_rollback(&mut checked_out.connection, self.answer_timeout).await.is_err(),
        };
        answer
    }

    /// Waits for a permit for a statement that does not wait long for a row.
    pub(crate) async fn short_wait_permit(&self) -> Result<SemaphorePermit<'_>, StatementError> {
        self.acquire_permit(&self.short_wait_permits).await
    }

    /// Waits for a permit for a statement that may wait for a row up to its time limit.
    pub(crate) async fn long_wait_permit(&self) -> Result<SemaphorePermit<'_>, StatementError> {
        self.acquire_permit(&self.long_wait_permits).await
    }

    /// Returns such a permit if one is free.
    pub(crate) fn try_long_wait_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.long_wait_permits.try_acquire().ok()
    }

    async fn acquire_permit<'s>(&self, permits: &'s Semaphore) -> Result<SemaphorePermit<'s>, StatementError> {
        let permit = match timeout(self.connect_timeout, permits.acquire()).await {
            Ok(permit) => permit.map_err(|_| sqlx::Error::PoolClosed),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        };
        permit.map_err(|error| StatementError::NotSent(error.into()))
    }

    /// Closes all connections once their statements have ended. Waits for transactions up to their time limit; the
    /// connection of a later one closes when its owner drops it.
    pub(crate) async fn close(&self) {
        self.short_wait_permits.close();
        self.long_wait_permits.close();
        let statements = timeout(self.answer_timeout, self.pool.close());
        let transactions = timeout(self.transaction_timeout, self.transactions.close());
        let (statements, transactions) = tokio::join!(statements, transactions);
        if statements.is_err() || transactions.is_err() {
            tracing::warn!("store closed with a connection in use: the connection closes when its owner drops it");
        }
    }
}

/// A connection in use. Dropped in the middle of a statement, also by a caller that stops waiting, it is closed.
struct CheckedOutConnection {
    connection: PoolConnection<Postgres>,
    is_mid_statement: bool,
}

impl Drop for CheckedOutConnection {
    fn drop(&mut self) {
        if self.is_mid_statement {
            self.connection.close_on_drop();
        }
    }
}

/// Refuses a standby, to which the address may lead after a failover: it does not show the locks behind the feed.
pub(crate) async fn refuse_standby(connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    if sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(connection).await? {
        return Err(sqlx::Error::Protocol("the server is a standby".into()));
    }
    Ok(())
}

/// Waits until the server has rolled back a dropped transaction or a failed statement, for at most `limit`; after an
/// error the pool closes the connection.
async fn await_rollback(connection: &mut sqlx::PgConnection, limit: Duration) -> Result<bool, sqlx::Error> {
    match timeout(limit, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(late) => Err(sqlx::Error::Io(std::io::Error::other(late))),
    }
}
