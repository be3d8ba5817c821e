//! The connections of a store, and the time limits of statements and transactions on them.
//!
//! Invariant: each statement has a time limit, and no connection returns to the pool in the middle of a statement. An
//! error of the server is returned only once the server has rolled the statement back, or its connection is closed.
//!
//! Invariant: a store leaves no setting on a connection of the application's pool, and no use of a connection there
//! waits for a second one while transactions and long waits hold all connections, see [`SharedPool`].
//!
//! Real time, not the given clock: the replies of PostgreSQL.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use eventbus::BoxError;
use futures_util::TryStreamExt as _;
use parking_lot::Mutex;
use sqlx::{
    AssertSqlSafe, Connection, Executor as _, PgConnection, PgPool, Postgres, Row as _, SqlSafeStr as _, SqlStr,
    Transaction,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
};
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::{
    config::{PgEventStoreConfig, milliseconds},
    connector::{Connector, refuse_standby},
    gate::{Gate, GatePass},
    last_fault::LastFault,
    statement_error::{NoAnswerWithin, NoConnection, StatementError},
    statement_pool::{CheckedOutConnection, PING_TIMEOUT, StatementPool, is_doubtful},
};

/// The function that is called for each new connection.
pub(crate) type OnConnect = Arc<dyn Fn() + Send + Sync>;

/// A statement with its parameters.
pub(crate) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// All statements of the store walk along an index. With `enable_seqscan`, the plan made for a table with few rows
/// reads all of them, and with `enable_bitmapscan` a page of a table without statistics reads and sorts all rows after
/// its first one; the server keeps such a plan while the table grows. `jit` is off so that a user's trigger that reads
/// a whole table is not compiled for that.
pub(crate) const PLANNER_SETTINGS: [(&str, &str); 3] =
    [("enable_seqscan", "off"), ("enable_bitmapscan", "off"), ("jit", "off")];

/// The time limit for the error of a new connection, after a pool gave none in time.
const CONNECT_ERROR_TIMEOUT: Duration = Duration::from_millis(500);

/// The most processes of servers that are remembered.
const KNOWN_BACKENDS_MAX: usize = 1_024;

const COMMIT: SqlStr = SqlStr::from_static("COMMIT");
const ROLLBACK: SqlStr = SqlStr::from_static("ROLLBACK");

/// Makes the commit of a transaction wait for the disk, if an earlier user of the connection has switched that off;
/// other values of the setting are fine.
pub(crate) const WAIT_FOR_DISK: &str =
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END";

/// The connection pools of a store, and the permits of its appends.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionPools {
    statements: StatementConnections,
    /// A separate pool: a handler that holds a transaction may append and renew its lease by statements, so that with
    /// one pool handlers could wait for each other's connections. Without [`PLANNER_SETTINGS`], since the handlers
    /// write the statements. On a pool of the application it is the same pool, where permits keep a connection free.
    transactions: PgPool,
    /// A prepared statement of a transaction was outdated: connections that are older may have prepared it, too. For
    /// `transactions`, if they are the store's own.
    last_outdated: Arc<LastFault>,
    /// For appends that give up soon if another transaction holds a row. From four connections on, these and
    /// `long_wait_permits` are half of the connections and one: the rest serves all other statements.
    short_wait_permits: Arc<Semaphore>,
    /// Beside a short-wait permit, for a statement that a caller sends again and again while a transaction holds its tag,
    /// its value or one of its streams. With four connections or more there is one less, so that group commit never waits
    /// for these.
    repeated_wait_permits: Arc<Semaphore>,
    /// For appends to one stream, which wait for its row up to the time limit of a statement.
    long_wait_permits: Arc<Semaphore>,
    /// For reads of the application, half of the transactions: handlers and projections keep the other half.
    read_permits: Arc<Semaphore>,
    /// For a connection beside those of the pools, which is closed at once.
    connect_permit: Arc<Semaphore>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    transaction_timeout: Duration,
}

/// The source of the connections of statements.
#[derive(Debug, Clone)]
enum StatementConnections {
    Own(Arc<StatementPool>),
    /// The pool is the application's, which also serves the transactions.
    Shared(Arc<SharedPool>),
}

/// How a store uses a pool of the application.
///
/// A statement is a transaction there: `BEGIN` with the store's settings, the statement, `COMMIT`. The settings end
/// with it, also behind a pooler that shares connections between transactions.
///
/// Transactions of handlers and appends that wait for a row keep their connections for long. Together they hold one
/// connection less than the pool has for the store: that one serves the statements that such a transaction waits for.
#[derive(Debug)]
struct SharedPool {
    begin: SqlStr,
    known: KnownBackends,
    statements: Gate,
    transactions: Gate,
    /// At most `max_transactions`.
    transaction_permits: Arc<Semaphore>,
    /// One less than the connections for the store.
    holder_permits: Arc<Semaphore>,
}

/// The processes of the server that have answered on a pool of the application. Such a pool does not report new
/// connections, nor which server a pooler has chosen.
struct KnownBackends {
    on_connect: OnConnect,
    /// The id of each process, and when its server was started, in microseconds since 1970.
    known: Mutex<HashSet<(i32, i64)>>,
}

impl KnownBackends {
    /// Reports a connection, unless its process is known, by the row of [`begin_statement`].
    fn note(&self, begun: Option<&PgRow>) {
        let backend = begun.and_then(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?)));
        let is_known = backend.is_some_and(|backend| {
            let mut known = self.known.lock();
            if known.len() == KNOWN_BACKENDS_MAX && !known.contains(&backend) {
                known.clear();
            }
            !known.insert(backend)
        });
        if !is_known {
            (self.on_connect)();
        }
    }
}

impl fmt::Debug for KnownBackends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KnownBackends").field(&self.known).finish()
    }
}

/// The share of a transaction in the connections of the application's pool, until it is dropped.
#[derive(Debug)]
pub(crate) struct TransactionShare {
    _permits: [OwnedSemaphorePermit; 2],
    _pass: GatePass,
}

/// A permit for an append that waits for a row.
pub(crate) struct LongWaitPermit<'s> {
    _of_append: SemaphorePermit<'s>,
    _of_holder: Option<SemaphorePermit<'s>>,
}

impl ConnectionPools {
    /// Creates the pools; a pool opens each connection when it is first needed. Calls `on_connect` for each new
    /// connection of the store's own, and when a process of the server answers a statement on the application's pool
    /// for the first time.
    pub(crate) fn new(config: &PgEventStoreConfig, connector: Connector, on_connect: &OnConnect) -> Self {
        let half = config.max_connections.div_ceil(2) as usize;
        let long_wait = (half / 2).max(1);
        let repeated_wait = (half - long_wait).max(1);
        let others_max = (config.max_connections as usize).saturating_sub(long_wait + 1);
        let short_wait = (repeated_wait + 1).min(others_max).max(1);
        let last_outdated = Arc::<LastFault>::default();
        let (statements, transactions) = match connector {
            Connector::Own(options) => {
                let last_unanswered = Arc::<LastFault>::default();
                let (statements, transactions) =
                    own_pools(config, &options, on_connect, &last_outdated, &last_unanswered);
                let statements = StatementPool::new(statements, config.connect_timeout, last_unanswered);
                (StatementConnections::Own(Arc::new(statements)), transactions)
            }
            Connector::Shared(pool) => (StatementConnections::Shared(Arc::new(shared_pool(config, on_connect))), pool),
        };
        Self {
            statements,
            transactions,
            last_outdated,
            short_wait_permits: Arc::new(Semaphore::new(short_wait)),
            repeated_wait_permits: Arc::new(Semaphore::new(repeated_wait)),
            long_wait_permits: Arc::new(Semaphore::new(long_wait)),
            read_permits: Arc::new(Semaphore::new((config.max_transactions as usize / 2).max(1))),
            connect_permit: Arc::new(Semaphore::new(1)),
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout(),
            transaction_timeout: config.transaction_timeout,
        }
    }

    /// Returns `true` if the connections are those of the application's pool.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared().is_some()
    }

    fn shared(&self) -> Option<&SharedPool> {
        match &self.statements {
            StatementConnections::Own(_) => None,
            StatementConnections::Shared(shared) => Some(shared),
        }
    }

    /// Begins a transaction with `begin`. Keep the share until the transaction is dropped.
    ///
    /// Runs `begin` in a task of its own, which a caller that goes away does not cancel: a connection on which only
    /// half of it ran would return to the pool within an open transaction.
    ///
    /// The task gives a connection of the store's own back if there is no answer. The pool closes it, unless the answer
    /// comes late: then the next `begin` goes on in that transaction. No statement has run in it, but its `now()` is
    /// the earlier time.
    pub(crate) async fn begin(
        &self,
        begin: String,
    ) -> Result<(Transaction<'static, Postgres>, Option<TransactionShare>), BoxError> {
        let share = match self.shared() {
            None => None,
            Some(shared) => Some(self.transaction_share(shared).await?),
        };
        let pool = self.transactions.clone();
        // the pool itself limits the wait for a connection
        let limit = self.connect_timeout.saturating_add(self.answer_timeout);
        // safe: this crate's own text and numbers
        let begin = async move { pool.begin_with(AssertSqlSafe(begin)).await };
        let begun = tokio::spawn(async move {
            let begun = match share {
                None => timeout(limit, begin).await.ok(),
                // the application could get a connection within an open transaction
                Some(_) => Some(begin.await),
            };
            begun.map(|begun| begun.map(|transaction| (transaction, share)))
        });
        let begun = timeout(limit, begun).await.ok().transpose()?.flatten();
        match begun.ok_or(NoAnswerWithin(limit))? {
            Ok(begun) => Ok(begun),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Returns an error of a pool. If a pool of the store's own gave no connection in time, and a new one cannot be
    /// opened, it is the error of that one: the driver's pool retries it in silence until its time is over.
    pub(crate) async fn explain(&self, error: sqlx::Error) -> BoxError {
        if !matches!(error, sqlx::Error::PoolTimedOut) || self.is_shared() {
            return error.into();
        }
        let options = self.transactions.connect_options();
        let connect = async {
            // one at a time: a pool that is in use must not open a connection for each caller that waits
            let _permit = self.connect_permit.acquire().await.ok()?;
            match PgConnection::connect_with(&options).await {
                Ok(connection) => {
                    // the answer is known, so an error of closing tells no more
                    let _ = connection.close().await;
                    None
                }
                Err(error) => Some(error),
            }
        };
        match timeout(CONNECT_ERROR_TIMEOUT, connect).await {
            Ok(Some(source)) => NoConnection { source }.into(),
            Ok(None) | Err(_) => error.into(),
        }
    }

    async fn transaction_share(&self, shared: &SharedPool) -> Result<TransactionShare, StatementError> {
        let not_sent = |error: sqlx::Error| StatementError::NotSent(error.into());
        let pass = shared.transactions.enter().map_err(not_sent)?;
        let permits = async {
            let of_transaction = Arc::clone(&shared.transaction_permits).acquire_owned().await?;
            Ok::<_, AcquireError>([of_transaction, Arc::clone(&shared.holder_permits).acquire_owned().await?])
        };
        Ok(TransactionShare { _permits: self.within_connect_timeout(permits).await?, _pass: pass })
    }

    /// Runs one statement and reads its answer to the end; then it is committed, or rolled back.
    pub(crate) async fn fetch_all(&self, query: Query<'_>) -> Result<Vec<PgRow>, StatementError> {
        let mut rows = Vec::new();
        self.fetch_each(query, |row| rows.push(row)).await?;
        Ok(rows)
    }

    /// Runs one statement, and calls `take` with each row as it arrives, to the end of the answer; after an error some
    /// rows may be taken.
    pub(crate) async fn fetch_each(
        &self,
        query: Query<'_>,
        mut take: impl FnMut(PgRow) + Send,
    ) -> Result<(), StatementError> {
        let not_sent = |error: sqlx::Error| StatementError::NotSent(error.into());
        let _pass = self.shared().map(|shared| shared.statements.enter()).transpose().map_err(not_sent)?;
        let checked_out = match &self.statements {
            StatementConnections::Own(pool) => pool.check_out().await,
            StatementConnections::Shared(_) => self.transactions.acquire().await.map(CheckedOutConnection::new),
        };
        let mut checked_out = match checked_out {
            Ok(checked_out) => checked_out,
            Err(error) => return Err(StatementError::NotSent(self.explain(error).await)),
        };
        let answer = match self.shared() {
            None => self.await_answer(take_rows(checked_out.get(), query, &mut take)).await,
            Some(shared) => {
                // if `BEGIN` gets no answer, the statement was not sent
                let begin = checked_out.get().fetch_all(sqlx::raw_sql(shared.begin.clone()));
                let begun = self.await_answer(begin).await.map_err(StatementError::into_not_sent)?;
                shared.known.note(begun.last());
                match self.await_answer(take_rows(checked_out.get(), query, &mut take)).await {
                    Ok(()) => self.execute(&mut checked_out, COMMIT).await,
                    failed => failed,
                }
            }
        };
        let has_ended = match &answer {
            Ok(()) => true,
            Err(StatementError::NoAnswer(_)) => {
                checked_out.suspect_others();
                false
            }
            Err(error) if error.is_of_prepared() => false,
            Err(_) if self.shared().is_some() => self.execute(&mut checked_out, ROLLBACK).await.is_ok(),
            // the server sends an error before it rolls back, and until then the locks of the statement bound the feed
            Err(_) => ping_within(checked_out.get(), self.answer_timeout).await.is_ok(),
        };
        if has_ended {
            checked_out.return_to_pool();
        }
        answer
    }

    async fn execute(&self, checked_out: &mut CheckedOutConnection, sql: SqlStr) -> Result<(), StatementError> {
        self.await_answer(checked_out.get().execute(sqlx::raw_sql(sql))).await.map(drop)
    }

    async fn await_answer<T>(&self, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StatementError> {
        match timeout(self.answer_timeout, answer).await {
            Ok(answer) => answer.map_err(StatementError::from_driver),
            Err(_) => Err(StatementError::NoAnswer(NoAnswerWithin(self.answer_timeout).into())),
        }
    }

    /// Waits for a permit for a read of the application.
    pub(crate) async fn read_permit(&self) -> Result<OwnedSemaphorePermit, StatementError> {
        self.within_connect_timeout(Arc::clone(&self.read_permits).acquire_owned()).await
    }

    /// Waits for the permits for a statement outside of group commit that does not wait long for a row.
    pub(crate) async fn repeated_wait_permit(&self) -> Result<[SemaphorePermit<'_>; 2], StatementError> {
        let permits = async {
            let of_repeated = self.repeated_wait_permits.acquire().await?;
            Ok::<_, AcquireError>([of_repeated, self.short_wait_permits.acquire().await?])
        };
        self.within_connect_timeout(permits).await
    }

    /// Waits for a permit for a statement of group commit that does not wait long for a row.
    pub(crate) async fn short_wait_permit(&self) -> Result<SemaphorePermit<'_>, StatementError> {
        self.within_connect_timeout(self.short_wait_permits.acquire()).await
    }

    /// Waits for a permit for a statement that may wait for a row up to its time limit.
    pub(crate) async fn long_wait_permit(&self) -> Result<LongWaitPermit<'_>, StatementError> {
        let permits = async {
            let of_append = self.long_wait_permits.acquire().await?;
            let of_holder = match self.shared() {
                None => None,
                Some(shared) => Some(shared.holder_permits.acquire().await?),
            };
            Ok(LongWaitPermit { _of_append: of_append, _of_holder: of_holder })
        };
        self.within_connect_timeout(permits).await
    }

    /// Returns such a permit if one is free.
    pub(crate) fn try_long_wait_permit(&self) -> Option<LongWaitPermit<'_>> {
        let of_append = self.long_wait_permits.try_acquire().ok()?;
        let of_holder = match self.shared() {
            None => None,
            Some(shared) => Some(shared.holder_permits.try_acquire().ok()?),
        };
        Some(LongWaitPermit { _of_append: of_append, _of_holder: of_holder })
    }

    async fn within_connect_timeout<T>(
        &self,
        permits: impl Future<Output = Result<T, AcquireError>>,
    ) -> Result<T, StatementError> {
        let error = match timeout(self.connect_timeout, permits).await {
            Ok(Ok(permits)) => return Ok(permits),
            Ok(Err(_)) => sqlx::Error::PoolClosed,
            Err(_) => sqlx::Error::PoolTimedOut,
        };
        Err(StatementError::NotSent(self.explain(error).await))
    }

    /// Replaces the connections of transactions that are open now, each before its next use; the application's pool
    /// keeps its own until it closes them.
    pub(crate) fn replace_transaction_connections(&self) {
        self.last_outdated.note();
    }

    /// Returns `true` once [`close`](Self::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.read_permits.is_closed()
    }

    /// Closes all connections once their statements have ended; on a pool of the application, stops using its
    /// connections. Waits for transactions up to their time limit; the connection of a later one closes when its owner
    /// drops it.
    pub(crate) async fn close(&self) {
        self.read_permits.close();
        self.short_wait_permits.close();
        self.repeated_wait_permits.close();
        self.long_wait_permits.close();
        let has_ended = match &self.statements {
            StatementConnections::Own(statements) => {
                let statements = timeout(self.answer_timeout, statements.close());
                let transactions = timeout(self.transaction_timeout, self.transactions.close());
                let (statements, transactions) = tokio::join!(statements, transactions);
                statements.is_ok() && transactions.is_ok()
            }
            StatementConnections::Shared(shared) => {
                shared.transaction_permits.close();
                shared.holder_permits.close();
                let statements = shared.statements.close(self.answer_timeout);
                let transactions = shared.transactions.close(self.transaction_timeout);
                let (statements, transactions) = tokio::join!(statements, transactions);
                statements && transactions
            }
        };
        if !has_ended {
            tracing::warn!("store closed with a connection in use: the connection is free when its owner drops it");
        }
    }
}

async fn take_rows(
    connection: &mut PgConnection,
    query: Query<'_>,
    take: &mut (impl FnMut(PgRow) + Send),
) -> Result<(), sqlx::Error> {
    let mut rows = query.fetch(connection);
    while let Some(row) = rows.try_next().await? {
        take(row);
    }
    Ok(())
}

/// Returns the pool of the statements and the pool of the transactions, on connections of the store's own. A new
/// connection may lead to a server that has taken over and lacks commits.
fn own_pools(
    config: &PgEventStoreConfig,
    options: &PgConnectOptions,
    on_connect: &OnConnect,
    last_outdated: &Arc<LastFault>,
    last_unanswered: &Arc<LastFault>,
) -> (PgPool, PgPool) {
    let answer_timeout = config.answer_timeout();
    let pool = |connections, last_outdated: Arc<LastFault>| {
        let last_unanswered = Arc::clone(last_unanswered);
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(config.connect_timeout)
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let is_outdated = last_outdated.is_within(meta.age);
                let is_doubtful = is_doubtful(meta.idle_for, &last_unanswered);
                Box::pin(async move {
                    match is_doubtful {
                        _ if is_outdated => Ok(false),
                        true => ping_within(connection, PING_TIMEOUT).await,
                        false => Ok(true),
                    }
                })
            })
            .after_connect({
                let on_connect = Arc::clone(on_connect);
                move |connection, _| {
                    on_connect();
                    Box::pin(refuse_standby(connection))
                }
            })
    };
    // before the driver's own ping, which has no limit; after a transaction, the rollback may take as long as a
    // statement
    let transactions = pool(config.max_transactions, Arc::clone(last_outdated))
        .after_release(move |connection, _| Box::pin(ping_within(connection, answer_timeout)));
    // its connections are closed after such an error
    let statements = pool(config.max_connections, Arc::default())
        .after_release(|connection, _| Box::pin(ping_within(connection, PING_TIMEOUT)));
    let options_of_statements = options.clone().options(PLANNER_SETTINGS);
    (statements.connect_lazy_with(options_of_statements), transactions.connect_lazy_with(options.clone()))
}

fn shared_pool(config: &PgEventStoreConfig, on_connect: &OnConnect) -> SharedPool {
    // a store without transactions may have a single connection: an append that waits may hold it
    let holders = (config.max_connections as usize).saturating_sub(1).max(1);
    SharedPool {
        begin: begin_statement(config),
        known: KnownBackends { on_connect: Arc::clone(on_connect), known: Mutex::default() },
        statements: Gate::default(),
        transactions: Gate::default(),
        transaction_permits: Arc::new(Semaphore::new(config.max_transactions as usize)),
        holder_permits: Arc::new(Semaphore::new(holders)),
    }
}

/// Returns the begin of the transaction of one statement, with the settings that connections of the store's own have.
///
/// A standby refuses `READ WRITE`, see [`refuse_standby`]. The row names the process and the server that answer.
fn begin_statement(config: &PgEventStoreConfig) -> SqlStr {
    let limit = milliseconds(config.statement_timeout);
    let mut sql = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = {limit}; \
         SET LOCAL idle_in_transaction_session_timeout = {limit}; SET LOCAL lock_timeout = 0; "
    );
    for (name, value) in PLANNER_SETTINGS {
        sql += &format!("SET LOCAL {name} = {value}; ");
    }
    sql += &format!(
        "SELECT pg_backend_pid(), (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, {WAIT_FOR_DISK}"
    );
    // safe: this crate's own text and numbers
    AssertSqlSafe(sql).into_sql_str()
}

/// Waits for the answer to a ping for at most `limit`: the server is there, and has rolled back a dropped transaction
/// or a failed statement. After an error the pool closes the connection.
async fn ping_within(connection: &mut PgConnection, limit: Duration) -> Result<bool, sqlx::Error> {
    match timeout(limit, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(late) => Err(sqlx::Error::Io(std::io::Error::other(late))),
    }
}
