//! The connections of a store, and the time limits on everything that goes through them.
//!
//! Keep: no statement without a time limit, and no connection back to the pool in the middle of one.
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

/// A connection that was idle this long is asked whether it still lives; one used just now is taken as it is.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// All our statements go by index. Without this the plan made for a table with few rows reads all of them, and is kept
/// while the table grows. A trigger of somebody else that has to read a whole table is not to be compiled for that.
const PLANNER_SETTINGS: [(&str, &str); 2] = [("enable_seqscan", "off"), ("jit", "off")];

#[derive(Debug, Clone)]
pub(crate) struct ConnectionPools {
    pool: PgPool,
    /// Apart from the others: handlers that append and keep a lease within their transactions must not wait for each
    /// other. And how their own statements are planned is theirs.
    transactions: PgPool,
    /// For appends that give up soon if somebody keeps a row. Together with the patient ones half of the connections: the
    /// others are for those who do not append.
    short_wait_permits: Arc<Semaphore>,
    /// For appends to one stream, which wait for its row for as long as a statement may take.
    long_wait_permits: Arc<Semaphore>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    transaction_timeout: Duration,
}

impl ConnectionPools {
    /// Prepares the connections; each is opened when it is first needed.
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
    /// In a task of its own that is never given up: a connection on which only half of it happened would come back in an
    /// open transaction that nobody knows of.
    pub(crate) async fn begin(&self, begin: String) -> Result<Transaction<'static, Postgres>, BoxError> {
        let pool = self.transactions.clone();
        // our own text and numbers
        let begun = tokio::spawn(async move { pool.begin_with(AssertSqlSafe(begin)).await });
        match timeout(self.answer_timeout, begun).await {
            Ok(begun) => Ok(begun??),
            Err(_) => Err(NoAnswerWithin(self.answer_timeout).into()),
        }
    }

    /// Runs one statement and reads its answer to the end, which is when it is committed.
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
        checked_out.is_mid_statement = matches!(answer, Err(StatementError::NoAnswer(_)));
        answer
    }

    /// Waits for a lane for a statement that does not wait long for a row.
    pub(crate) async fn short_wait_permit(&self) -> Result<SemaphorePermit<'_>, StatementError> {
        self.acquire_permit(&self.short_wait_permits).await
    }

    /// Waits for a lane for a statement that may wait for a row, however long somebody keeps it.
    pub(crate) async fn long_wait_permit(&self) -> Result<SemaphorePermit<'_>, StatementError> {
        self.acquire_permit(&self.long_wait_permits).await
    }

    /// The same lane, if one is free.
    pub(crate) fn try_long_wait_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.long_wait_permits.try_acquire().ok()
    }

    async fn acquire_permit<'s>(&self, permits: &'s Semaphore) -> Result<SemaphorePermit<'s>, StatementError> {
        let permit = match timeout(self.connect_timeout, permits.acquire()).await {
            Ok(lane) => lane.map_err(|_| sqlx::Error::PoolClosed),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        };
        permit.map_err(|error| StatementError::NotSent(error.into()))
    }

    /// Closes all connections once their statements are done; a transaction that is kept for longer than it may take is
    /// left to its owner.
    pub(crate) async fn close(&self) {
        self.short_wait_permits.close();
        self.long_wait_permits.close();
        let statements = timeout(self.answer_timeout, self.pool.close());
        let transactions = timeout(self.transaction_timeout, self.transactions.close());
        let (statements, transactions) = tokio::join!(statements, transactions);
        if statements.is_err() || transactions.is_err() {
            tracing::warn!("closed while a connection is in use: it is closed when its user lets it go");
        }
    }
}

/// A connection in use; given up in the middle of a statement, also by a caller who stops waiting, it is closed.
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

/// After a failover the same address may be a standby, where the locks behind the feed cannot be seen.
pub(crate) async fn refuse_standby(connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    if sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(connection).await? {
        return Err(sqlx::Error::Protocol("the server is a standby".into()));
    }
    Ok(())
}

/// Waits until a transaction that was dropped is rolled back, but not for ever: then the connection is closed.
async fn await_rollback(connection: &mut sqlx::PgConnection, limit: Duration) -> Result<bool, sqlx::Error> {
    match timeout(limit, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(late) => Err(sqlx::Error::Io(std::io::Error::other(late))),
    }
}
