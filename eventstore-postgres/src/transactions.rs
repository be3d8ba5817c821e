//! Beginning transactions.

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use eventbus::{
    BoxError, Position,
    port::{ServerFault, Shadow, Transaction, Transactions, TypeKey},
};
use sqlx::Row as _;

use crate::{
    config::milliseconds, lease::microseconds, statement_error, store::PgEventStore, transaction::PgTransaction,
};

/// The most deliveries that one statement forgets.
const FORGET_BATCH_MAX: i64 = 10_000;

/// The transactions of a store.
pub(crate) struct PgTransactions(pub(crate) PgEventStore);

#[async_trait]
impl Transactions for PgTransactions {
    fn transaction_type(&self) -> TypeKey {
        TypeKey::of::<PgTransaction>()
    }

    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault> {
        statement_error::server_fault(error)
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError> {
        Ok(Box::new(self.0.begin_transaction().await?))
    }

    async fn make_shadow(&self, shadow: &Shadow) -> Result<Position, BoxError> {
        let mut transaction = self.0.begin_transaction().await?;
        let filled = transaction.make_shadow(shadow).await?;
        Box::new(transaction).commit().await?;
        Ok(filled)
    }

    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError> {
        let mut transaction = self.0.begin_transaction().await?;
        transaction.switch_to_copies(shadow).await?;
        Ok(Box::new(transaction))
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        let mut transaction = self.0.begin_transaction().await?;
        transaction.drop_shadow(shadow).await?;
        Box::new(transaction).commit().await
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        let microseconds = microseconds(older_than);
        let mut forgotten = 0;
        loop {
            let query =
                sqlx::query(self.0.statements.forget_deliveries.clone()).bind(microseconds).bind(FORGET_BATCH_MAX);
            let rows = self.0.connections.fetch_all(query).await.map_err(|fault| fault.into_source())?;
            let batch: i64 = rows.first().ok_or("no answer")?.try_get(0)?;
            forgotten += u64::try_from(batch)?;
            if batch < FORGET_BATCH_MAX {
                return Ok(forgotten);
            }
        }
    }
}

impl PgEventStore {
    /// Begins a transaction of the caller's own, outside of handlers and projections. Dropped, it is rolled back.
    ///
    /// It is made like those of handlers: on a connection of the store, of which `max_transactions` have one at the same
    /// time, with `transaction_timeout` as its limit.
    ///
    /// # Errors
    /// Why no connection can be had, for example that the server is away.
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
        // with limits so that the server ends what its owner cannot: the owner may be paused
        let limit = self.config.transaction_timeout;
        let milliseconds = milliseconds(limit);
        // sooner than the limit of a statement: so a lock that is held is told from a statement that takes too long
        let lock_milliseconds = (milliseconds / 2).max(1);
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = {milliseconds}; \
             SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = {lock_milliseconds}"
        );
        let inner = self.connections.begin(begin).await?;
        Ok(PgTransaction::new(inner, self, limit))
    }
}
