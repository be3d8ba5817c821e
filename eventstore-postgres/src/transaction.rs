//! An open transaction: what handlers and projections take part in.
//!
//! Keep: nothing is committed that the server undid. A transaction in which a statement failed answers a commit as if all
//! were well; so it is asked first, unless a statement of ours succeeded after whatever else was done.
//!
//! Real time, not the given clock: the replies of PostgreSQL, which ends transactions by its own clock.

use std::{any::Any, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, Position,
    port::{FromTransaction, Lease, Shadow, Transaction},
};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Postgres, Row as _, SqlSafeStr as _, postgres::PgRow};
use tokio::time::{Instant, timeout_at};

use crate::{
    error::PgTransactionError, identifier::Identifier, notify::AppendNotifier, pool::Query, statements::Statements,
    store::PgEventStore,
};

/// A transaction of the store's database, that of a handler or projection or one that
/// [`begin_transaction`](PgEventStore::begin_transaction) begins; dropped is rolled back.
///
/// Handlers and projections take it as `connection: &mut PgConnection`.
pub struct PgTransaction {
    inner: sqlx::Transaction<'static, Postgres>,
    statements: Arc<Statements>,
    append_notifier: Arc<AppendNotifier>,
    limit: Duration,
    deadline: Instant,
    /// Whether events were appended in it; nothing if somebody else used the connection since that was asked.
    has_appended: Option<bool>,
    /// Whether a statement may have failed: somebody else used the connection, or one of ours did not come to its end.
    is_unchecked: bool,
    /// Whether names of tables mean the copies of a shadow.
    pub(crate) is_in_shadow: bool,
}

impl PgTransaction {
    pub(crate) fn new(inner: sqlx::Transaction<'static, Postgres>, store: &PgEventStore, limit: Duration) -> Self {
        Self {
            inner,
            statements: Arc::clone(&store.statements),
            append_notifier: Arc::clone(&store.append_notifier),
            limit,
            deadline: Instant::now() + limit,
            has_appended: Some(false),
            is_unchecked: false,
            is_in_shadow: false,
        }
    }

    /// The connection, for statements that are to be part of the transaction. Not to be committed by hand.
    pub fn connection(&mut self) -> &mut PgConnection {
        self.is_unchecked = true;
        self.has_appended = None;
        &mut self.inner
    }

    /// Commits a transaction of the caller's own, and wakes readers if events were appended in it. One that a handler or
    /// projection takes is the store's to commit.
    ///
    /// # Errors
    /// What the server says, then nothing is kept; where the connection broke, or [`PgTransactionError::TimedOut`] came
    /// while committing, nobody knows.
    pub async fn commit(self) -> Result<(), BoxError> {
        Transaction::commit(Box::new(self)).await
    }

    pub(crate) fn statements(&self) -> &Statements {
        &self.statements
    }

    /// Gives what is done now more time, and what comes after it the usual.
    pub(crate) fn extend_deadline(&mut self, by: Duration) {
        self.deadline = Instant::now() + by + self.limit;
    }

    pub(crate) async fn fetch_all(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, BoxError> {
        self.is_unchecked = true;
        let rows = self.before_deadline(self.deadline, |connection| query.fetch_all(connection)).await?;
        self.is_unchecked = false;
        Ok(rows)
    }

    /// Runs statements that have no parameters and whose answers nobody needs.
    pub(crate) async fn run(&mut self, sql: String) -> Result<(), BoxError> {
        // made of our own text and of checked names
        let sql = sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str());
        self.is_unchecked = true;
        self.before_deadline(self.deadline, |connection| connection.execute(sql)).await?;
        self.is_unchecked = false;
        Ok(())
    }

    /// Asks whether events were appended; fails in a transaction that has failed.
    async fn load_has_appended(&mut self) -> Result<bool, BoxError> {
        let rows = self.fetch_all(sqlx::query(self.statements.has_appended.clone())).await?;
        rows.first().map_or(Ok(false), |row| Ok(row.try_get(0)?))
    }

    async fn before_deadline<'t, T, F>(
        &'t mut self,
        deadline: Instant,
        statement: impl FnOnce(&'t mut PgConnection) -> F,
    ) -> Result<T, BoxError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        match timeout_at(deadline, statement(&mut self.inner)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(PgTransactionError::TimedOut { limit: self.limit }.into()),
        }
    }
}

#[async_trait]
impl Transaction for PgTransaction {
    fn as_any_mut(&mut self) -> &mut (dyn Any + Send) {
        self
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    async fn advance(&mut self, lease: &Lease, from: Position, to: Position) -> Result<bool, BoxError> {
        let sql = match from {
            Position::START => &self.statements.advance_first,
            _ => &self.statements.advance,
        };
        let query = sqlx::query(sql.clone())
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

    async fn is_first(&mut self, handler: &Name, event: EventId) -> Result<bool, BoxError> {
        let query = sqlx::query(self.statements.record_delivery.clone()).bind(handler.as_str()).bind(event.as_uuid());
        Ok(!self.fetch_all(query).await?.is_empty())
    }

    async fn replace_rows(&mut self, shadow: &Shadow) -> Result<Position, BoxError> {
        self.replace_live_rows(shadow).await
    }

    async fn has_table(&mut self, table: &str, column: Option<&str>) -> Result<bool, BoxError> {
        let table = Identifier::new(table)?;
        match column {
            Some(column) => Ok(self.find_column_type(&table, &Identifier::new(column)?).await?.is_some()),
            None => Ok(self.find_table(&table).await?.is_some()),
        }
    }

    async fn delete_rows(&mut self, table: &str, column: &str, value: &str) -> Result<(), BoxError> {
        let (table, column) = (Identifier::new(table)?, Identifier::new(column)?);
        let of_type = self.find_column_type(&table, &column).await?;
        let of_type = of_type
            .ok_or_else(|| PgTransactionError::NoColumn { table: table.name().into(), column: column.name().into() })?;
        // the type as the catalogue calls it: so the column is compared as it is, along its index
        let sql = format!("DELETE FROM {table} WHERE {column} = CAST($1::text AS {of_type})");
        self.fetch_all(sqlx::query(AssertSqlSafe(sql).into_sql_str()).bind(value)).await.map(drop)
    }

    async fn commit(mut self: Box<Self>) -> Result<(), BoxError> {
        let has_appended = match self.has_appended {
            Some(has_appended) if !self.is_unchecked => has_appended,
            _ => self.load_has_appended().await?,
        };
        let Self { inner, append_notifier, limit, deadline, .. } = *self;
        if Instant::now() >= deadline {
            return Err(PgTransactionError::TimedOut { limit }.into());
        }
        let committed = timeout_at(deadline, inner.commit()).await;
        // also where nobody knows what became of it: who looks will see
        if has_appended {
            append_notifier.notify();
        }
        match committed {
            Ok(committed) => Ok(committed?),
            Err(_) => Err(PgTransactionError::TimedOut { limit }.into()),
        }
    }
}

impl fmt::Debug for PgTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgTransaction").finish_non_exhaustive()
    }
}

impl FromTransaction<PgEventStore> for PgConnection {
    type Transaction = PgTransaction;

    fn from_transaction(transaction: &mut PgTransaction) -> &mut Self {
        transaction.connection()
    }
}
