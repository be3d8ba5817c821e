//! Beginning transactions.

use std::time::Duration;

use async_trait::async_trait;
use eventbus::{
    BoxError, Position,
    port::{Shadow, Transaction, Transactions, TypeKey},
};
use sqlx::Row as _;

use crate::{config::milliseconds, lease::microseconds, store::PgEventStore, transaction::PgTransaction};

/// The most deliveries that one statement forgets.
const BATCH: i64 = 10_000;

/// The transactions of a store.
pub(crate) struct PgTransactions(pub(crate) PgEventStore);

#[async_trait]
impl Transactions for PgTransactions {
    fn transaction_type(&self) -> TypeKey {
        TypeKey::of::<PgTransaction>()
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError> {
        Ok(Box::new(self.open().await?))
    }

    async fn make_shadow(&self, shadow: &Shadow) -> Result<Position, BoxError> {
        let mut transaction = self.open().await?;
        let filled = transaction.make_shadow(shadow).await?;
        Box::new(transaction).commit().await?;
        Ok(filled)
    }

    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError> {
        let mut transaction = self.open().await?;
        transaction.enter(shadow).await?;
        Ok(Box::new(transaction))
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        let mut transaction = self.open().await?;
        transaction.drop_shadow(shadow).await?;
        Box::new(transaction).commit().await
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        let microseconds = microseconds(older_than);
        let mut forgotten = 0;
        loop {
            let query = sqlx::query(self.0.statements.forget_deliveries.clone()).bind(microseconds).bind(BATCH);
            let rows = self.0.connections.fetch_all(query).await.map_err(|fault| fault.into_source())?;
            let batch: i64 = rows.first().ok_or("no answer")?.try_get(0)?;
            forgotten += u64::try_from(batch)?;
            if batch < BATCH {
                return Ok(forgotten);
            }
        }
    }
}

impl PgTransactions {
    /// Begins, with limits so that the server ends what its owner cannot: the owner may be paused.
    async fn open(&self) -> Result<PgTransaction, BoxError> {
        let limit = self.0.config.transaction_timeout;
        let milliseconds = milliseconds(limit);
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = {milliseconds}; \
             SET LOCAL statement_timeout = {milliseconds}"
        );
        let inner = self.0.connections.begin(begin).await?;
        Ok(PgTransaction::new(inner, &self.0, limit))
    }
}
