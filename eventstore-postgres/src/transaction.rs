//! An open transaction of a handler, a projection or the caller.
//!
//! Invariant: `commit` never reports success for a transaction that the server rolled back. The server answers a commit
//! of a failed transaction as if it had succeeded, so `commit` checks the transaction first, unless the last statement
//! on it was the store's and succeeded.
//!
//! Real time, not the given clock: the replies of PostgreSQL, which ends transactions by its own clock.

use std::{sync::Arc, time::Duration};

use eventbus::{
    BoxError, Position,
    port::{Append, AppendError, Lease},
};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Postgres, Row as _, SqlSafeStr as _, postgres::PgRow};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    append::append_in_transaction,
    config::milliseconds,
    error::PgTransactionError,
    identifier::Identifier,
    pool::{Query, TransactionShare, WAIT_FOR_DISK},
    statements::Statements,
    store_inner::StoreInner,
};

const READ_WRITE: &str = "READ COMMITTED READ WRITE";

const HAS_APPENDED: &str = "SELECT {appended_in}";

/// Returns the settings for the statements of a transaction.
///
/// The limit of a lock is below the limit of a statement, so that a held lock and a slow statement give different
/// errors.
fn statement_limits(limit: Duration) -> String {
    let milliseconds = milliseconds(limit);
    format!("SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = {}", (milliseconds / 2).max(1))
}

/// The first version of PostgreSQL that can limit a transaction as a whole.
const HAS_TRANSACTION_TIMEOUT: u32 = 170_000;

/// A transaction of the store's database: of a handler or projection, or begun by
/// [`begin_transaction`](crate::PgEventStore::begin_transaction) or [`begin_read`](crate::PgEventStore::begin_read).
/// Dropping it rolls it back.
///
/// Handlers and projections take it as `connection: &mut PgConnection`.
#[derive(derive_more::Debug)]
#[debug("PgTransaction")]
pub struct PgTransaction {
    inner: sqlx::Transaction<'static, Postgres>,
    store: Arc<StoreInner>,
    deadline: Instant,
    /// The time up to the deadline.
    limit: Duration,
    /// `Some(true)` if events were appended; `None` if the caller had the connection since the last check.
    has_appended: Option<bool>,
    /// Set if a statement may have failed: the caller had the connection, or a statement of the store did not end.
    is_unchecked: bool,
    /// Set if the names of tables refer to the copies of a shadow.
    is_in_shadow: bool,
    /// After the transaction: dropped when its connection is on the way back to the pool.
    _share: Option<TransactionShare>,
    /// Set if it only reads.
    _read_permit: Option<OwnedSemaphorePermit>,
}

impl PgTransaction {
    pub(crate) async fn begin(store: &Arc<StoreInner>) -> Result<Self, BoxError> {
        Self::begin_as(store, READ_WRITE, "", None).await
    }

    /// Begins the transaction of a handler or projection: a crash must not undo it once the bus knows that the event is
    /// handled.
    pub(crate) async fn begin_for_handler(store: &Arc<StoreInner>) -> Result<Self, BoxError> {
        let more_settings = match store.connections().is_shared() {
            true => format!("; SELECT {WAIT_FOR_DISK}"),
            false => String::new(),
        };
        Self::begin_as(store, READ_WRITE, &more_settings, None).await
    }

    /// Begins a transaction that only reads, on one snapshot.
    pub(crate) async fn begin_read(store: &Arc<StoreInner>) -> Result<Self, BoxError> {
        let begin = async {
            let permit = store.connections().read_permit().await?;
            let mut read = Self::begin_as(store, "REPEATABLE READ READ ONLY", "", Some(permit)).await?;
            read.limit_total().await?;
            Ok(read)
        };
        // one limit for all waits: for the permit, for the share in a pool of the application, for the connection
        match timeout(store.config().connect_timeout, begin).await {
            Ok(begun) => begun,
            Err(_) => Err(store.connections().explain(sqlx::Error::PoolTimedOut).await),
        }
    }

    async fn begin_as(
        store: &Arc<StoreInner>,
        mode: &'static str,
        more_settings: &str,
        read_permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, BoxError> {
        if !store.has_transactions() {
            return Err(PgTransactionError::NoTransactions.into());
        }
        // the server ends the transaction at these limits: a paused process cannot
        let limit = store.config().transaction_timeout;
        let begin = format!(
            "BEGIN ISOLATION LEVEL {mode}; SET LOCAL idle_in_transaction_session_timeout = {}; {}{more_settings}",
            milliseconds(limit),
            statement_limits(limit)
        );
        let (inner, share) = store.connections().begin(begin).await?;
        Ok(Self {
            inner,
            store: Arc::clone(store),
            deadline: Instant::now() + limit,
            limit,
            has_appended: Some(false),
            is_unchecked: false,
            is_in_shadow: false,
            _share: share,
            _read_permit: read_permit,
        })
    }

    /// Limits the time of a whole read, if the server can. A read does not commit, so no step of the store would notice
    /// that it takes too long.
    async fn limit_total(&mut self) -> Result<(), BoxError> {
        if self.inner.server_version_num().is_none_or(|version| version < HAS_TRANSACTION_TIMEOUT) {
            return Ok(());
        }
        // no `SELECT set_config(..)`, which would take the snapshot of the read before its first statement
        let limit = milliseconds(self.store.config().transaction_timeout);
        self.run(format!("SET LOCAL transaction_timeout = {limit}")).await
    }

    /// Returns the connection, for statements within the transaction. Do not send `COMMIT` on it.
    pub fn connection(&mut self) -> &mut PgConnection {
        self.is_unchecked = true;
        self.has_appended = None;
        &mut self.inner
    }

    /// Commits a transaction of the caller's own, and wakes readers if events were appended in it. The store commits
    /// the transaction of a handler or projection itself.
    ///
    /// # Errors
    /// The error of the server; then the transaction is rolled back. If the connection breaks, or
    /// [`PgTransactionError::TimedOut`] occurs during the commit, the outcome is unknown.
    pub async fn commit(mut self) -> Result<(), BoxError> {
        let has_appended = match self.has_appended {
            Some(has_appended) if !self.is_unchecked => has_appended,
            _ => self.load_has_appended().await?,
        };
        let timed_out = self.timed_out();
        if self.is_late() {
            return Err(timed_out.into());
        }
        let sent = has_appended.then(|| self.store.append_notifier().sent());
        let committed = timeout_at(self.deadline, self.inner.commit()).await;
        // notifies, also if the outcome is unknown: readers that poll for no reason do no harm
        drop(sent);
        Ok(committed.map_err(|_| timed_out)??)
    }

    pub(crate) fn statements(&self) -> &Statements {
        self.store.transaction_statements()
    }

    fn timed_out(&self) -> PgTransactionError {
        PgTransactionError::TimedOut { limit: self.limit }
    }

    /// Moves the deadline to `by` from now plus the usual limit: `by` for the next step, the limit for the rest.
    pub(crate) fn extend_deadline(&mut self, by: Duration) {
        self.limit = by + self.store.config().transaction_timeout;
        self.deadline = Instant::now() + self.limit;
    }

    pub(crate) async fn fetch_all(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, BoxError> {
        self.before_deadline(async |connection| query.fetch_all(connection).await).await
    }

    /// Runs statements without parameters, and discards their rows.
    pub(crate) async fn run(&mut self, sql: String) -> Result<(), BoxError> {
        // safe: this crate's own text and checked names, or the text of a projection's attribute
        let sql = sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str());
        self.before_deadline(async |connection| connection.execute(sql).await.map(drop)).await
    }

    /// Runs the statements of a set-up, while no other transaction of the database sets up tables.
    pub(crate) async fn set_up(&mut self, statements: &str) -> Result<(), BoxError> {
        self.lock_set_up().await?;
        // at each start but the first, the tables of a `CREATE TABLE IF NOT EXISTS` exist
        self.run("SET LOCAL client_min_messages = warning".into()).await?;
        let begun = self.load_number("SELECT txid_current()").await?;
        self.run(statements.into()).await?;
        match self.load_number("SELECT txid_current()").await? == begun {
            true => Ok(()),
            false => Err(PgTransactionError::EndedBySetUp.into()),
        }
    }

    /// Waits until no other transaction of the database sets up tables, and keeps others from it until this one ends.
    ///
    /// Waits up to the limit of a migration, which then is also the limit of the statements: an index of a large table
    /// takes longer than other transactions may. For locks they wait only as long as other transactions, since further
    /// statements wait behind them. One lock for all stores of the database: tables of projections are outside of the
    /// stores' schemas.
    async fn lock_set_up(&mut self) -> Result<(), BoxError> {
        let limit = self.store.config().migration_timeout;
        let limits_of_others = statement_limits(self.store.config().transaction_timeout);
        self.extend_deadline(limit);
        let milliseconds = milliseconds(limit);
        let lock = "SELECT pg_advisory_xact_lock(1702260326, 0)";
        self.run(format!(
            "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {milliseconds}; {lock}; {limits_of_others}; \
             SET LOCAL statement_timeout = {milliseconds}"
        ))
        .await?;
        self.extend_deadline(limit);
        Ok(())
    }

    async fn load_number(&mut self, sql: &'static str) -> Result<Option<i64>, BoxError> {
        let rows = self.fetch_all(sqlx::query(sql)).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// Returns `true` if the transaction has used up its time.
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Advances the checkpoint of `lease` if the lease is current. The same reply shows whether events were appended.
    pub(crate) async fn advance(&mut self, lease: &Lease, from: Position, to: Position) -> Result<bool, BoxError> {
        let query = match from {
            Position::START => self.statements().query(include_str!("sql/advance_first.sql")),
            _ => self.statements().query(include_str!("sql/advance.sql")),
        };
        let query = query
            .bind(lease.role.as_str())
            .bind(i64::try_from(lease.epoch).unwrap_or(i64::MAX))
            .bind(from.as_i64())
            .bind(to.as_i64());
        let rows = self.fetch_all(query).await?;
        if let Some(row) = rows.first() {
            self.has_appended = Some(row.try_get(0)?);
        }
        Ok(!rows.is_empty())
    }

    pub(crate) async fn append(&mut self, append: Append) -> Result<(), AppendError> {
        let (store, deadline, timed_out) = (Arc::clone(&self.store), self.deadline, self.timed_out());
        match timeout_at(deadline, append_in_transaction(&store, self.connection(), append)).await {
            Ok(appended) => appended.map(drop),
            Err(_) => Err(AppendError::Unavailable(timed_out.into())),
        }
    }

    pub(crate) fn is_in_shadow(&self) -> bool {
        self.is_in_shadow
    }

    pub(crate) fn set_in_shadow(&mut self) {
        self.is_in_shadow = true;
    }

    /// Returns the type of a column, by its name in the catalogue.
    pub(crate) async fn find_column_type(
        &mut self,
        table: &Identifier,
        column: &Identifier,
    ) -> Result<Option<String>, BoxError> {
        let query = sqlx::query(include_str!("sql/column_type.sql")).bind(table.to_string()).bind(column.name());
        Ok(self.fetch_all(query).await?.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// Returns the table that the name means in a statement, with its schema.
    pub(crate) async fn find_table(&mut self, table: &Identifier) -> Result<Option<String>, BoxError> {
        let query = sqlx::query(include_str!("sql/live_table.sql")).bind(table.to_string());
        Ok(self.fetch_all(query).await?.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// Asks the server if events were appended. In a failed transaction this is an error.
    async fn load_has_appended(&mut self) -> Result<bool, BoxError> {
        let rows = self.fetch_all(self.statements().query(HAS_APPENDED)).await?;
        rows.first().map_or(Ok(false), |row| Ok(row.try_get(0)?))
    }

    async fn before_deadline<T>(
        &mut self,
        statement: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T, BoxError> {
        self.is_unchecked = true;
        let answer = timeout_at(self.deadline, statement(&mut self.inner)).await;
        let answer = answer.map_err(|_| self.timed_out())??;
        self.is_unchecked = false;
        Ok(answer)
    }
}
