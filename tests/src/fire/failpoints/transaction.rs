//! Transactions that end the process at their calls, and that record each advance of a checkpoint with its lease.

use std::{any::Any, error::Error, sync::Arc};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, Position, StreamId,
    port::{Append, AppendError, Lease, ServerFault, Shadow, Transaction, Transactions, TypeKey},
};
use eventstore_postgres::PgTransaction;

use super::FailPoints;

/// Commits with the advance that it records, or not at all.
const INSERT_ADVANCE_SQL: &str = "INSERT INTO fire.advances (role, epoch) VALUES ($1, $2)";

pub(super) struct FailPointTransactions {
    transactions: Arc<dyn Transactions>,
    fail_points: FailPoints,
}

impl FailPointTransactions {
    pub(super) fn new(transactions: Arc<dyn Transactions>, fail_points: FailPoints) -> Self {
        Self { transactions, fail_points }
    }

    fn wrap(&self, transaction: Box<dyn Transaction>) -> Box<dyn Transaction> {
        Box::new(FailPointTransaction { transaction, fail_points: self.fail_points.clone(), is_switch: false })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Transactions for FailPointTransactions {
    fn transaction_type(&self) -> TypeKey {
        self.transactions.transaction_type()
    }

    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault> {
        self.transactions.server_fault(error)
    }

    async fn set_up_tables(&self, statements: &str) -> Result<(), BoxError> {
        self.transactions.set_up_tables(statements).await
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError> {
        Ok(self.wrap(self.transactions.begin().await?))
    }

    async fn make_shadow(&self, shadow: &Shadow) -> Result<Position, BoxError> {
        self.transactions.make_shadow(shadow).await
    }

    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError> {
        Ok(self.wrap(self.transactions.begin_in(shadow).await?))
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        self.transactions.drop_shadow(shadow).await
    }
}

struct FailPointTransaction {
    transaction: Box<dyn Transaction>,
    fail_points: FailPoints,
    is_switch: bool,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Transaction for FailPointTransaction {
    fn as_any_mut(&mut self) -> &mut (dyn Any + Send) {
        self.transaction.as_any_mut()
    }

    fn is_late(&self) -> bool {
        self.transaction.is_late()
    }

    async fn advance(&mut self, lease: &Lease, from: Position, to: Position) -> Result<bool, BoxError> {
        let advanced = self.fail_points.around("checkpoint", self.transaction.advance(lease, from, to)).await?;
        if let Some(postgres) = self.transaction.as_any_mut().downcast_mut::<PgTransaction>().filter(|_| advanced) {
            let note = sqlx::query(INSERT_ADVANCE_SQL).bind(lease.role.as_str()).bind(i64::try_from(lease.epoch)?);
            note.execute(postgres.connection()).await?;
        }
        Ok(advanced)
    }

    async fn is_first(&mut self, handler: &Name, stream: &StreamId, event: EventId) -> Result<bool, BoxError> {
        self.fail_points.around("inbox", self.transaction.is_first(handler, stream, event)).await
    }

    async fn append(&mut self, append: Append) -> Result<(), AppendError> {
        self.fail_points.around("append-in", self.transaction.append(append)).await
    }

    async fn replace_rows(&mut self, shadow: &Shadow) -> Result<Position, BoxError> {
        self.is_switch = true;
        self.fail_points.around("switch", self.transaction.replace_rows(shadow)).await
    }

    async fn has_table(&mut self, table: &str, column: Option<&str>) -> Result<bool, BoxError> {
        self.transaction.has_table(table, column).await
    }

    async fn has_rows(&mut self, table: &str) -> Result<bool, BoxError> {
        self.transaction.has_rows(table).await
    }

    async fn delete_rows(&mut self, table: &str, column: &str, value: &str) -> Result<(), BoxError> {
        self.transaction.delete_rows(table, column, value).await
    }

    async fn commit(self: Box<Self>) -> Result<(), BoxError> {
        let point = if self.is_switch { "switched" } else { "commit" };
        self.fail_points.around(point, self.transaction.commit()).await
    }
}
