//! The ports of transactions: beginning them, and the operations of the runtime within one.

use std::{any::Any, error::Error};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, Position, StreamId,
    port::{Append, AppendError, Lease, ServerFault, Shadow, Transaction, Transactions, TypeKey},
};
use sqlx::{AssertSqlSafe, Row as _, SqlSafeStr as _};

use crate::{
    error::PgTransactionError, identifier::Identifier, shadow::ShadowTables, statement_error, store::PgEventStore,
    transaction::PgTransaction,
};

#[async_trait]
impl Transactions for PgEventStore {
    fn transaction_type(&self) -> TypeKey {
        TypeKey::of::<PgTransaction>()
    }

    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault> {
        let fault = statement_error::server_fault(error);
        if fault.as_ref().is_some_and(statement_error::is_outdated_statement) {
            // the handler runs again, on a connection that has not prepared the statement
            self.inner().connections().replace_transaction_connections();
        }
        fault
    }

    async fn set_up_tables(&self, statements: &str) -> Result<(), BoxError> {
        let mut transaction = self.begin_transaction().await?;
        transaction.set_up(statements).await?;
        transaction.commit().await
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError> {
        Ok(Box::new(PgTransaction::begin_for_handler(self.inner()).await?))
    }

    async fn make_shadow(&self, shadow: &Shadow) -> Result<Position, BoxError> {
        let mut transaction = self.begin_transaction().await?;
        let filled = ShadowTables::new(&mut transaction, shadow).make().await?;
        transaction.commit().await?;
        Ok(filled)
    }

    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError> {
        let mut transaction = PgTransaction::begin_for_handler(self.inner()).await?;
        ShadowTables::new(&mut transaction, shadow).switch_to_copies().await?;
        Ok(Box::new(transaction))
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        let mut transaction = self.begin_transaction().await?;
        ShadowTables::new(&mut transaction, shadow).drop_all().await?;
        transaction.commit().await
    }
}

#[async_trait]
impl Transaction for PgTransaction {
    fn as_any_mut(&mut self) -> &mut (dyn Any + Send) {
        self
    }

    fn is_late(&self) -> bool {
        Self::is_late(self)
    }

    async fn advance(&mut self, lease: &Lease, from: Position, to: Position) -> Result<bool, BoxError> {
        Self::advance(self, lease, from, to).await
    }

    async fn is_first(&mut self, handler: &Name, stream: &StreamId, event: EventId) -> Result<bool, BoxError> {
        let query = self.statements().query(include_str!("sql/note_delivery.sql"));
        let query = query.bind(handler.as_str()).bind(event.as_uuid()).bind(stream.aggregate_id().as_str());
        let query = query.bind(stream.aggregate_type().as_str()).bind(stream.tenant_or_nil());
        Ok(!self.fetch_all(query).await?.is_empty())
    }

    async fn append(&mut self, append: Append) -> Result<(), AppendError> {
        Self::append(self, append).await
    }

    async fn replace_rows(&mut self, shadow: &Shadow) -> Result<Position, BoxError> {
        ShadowTables::new(self, shadow).replace_live_rows().await
    }

    async fn has_table(&mut self, table: &str, column: Option<&str>) -> Result<bool, BoxError> {
        let table = Identifier::new(table)?;
        match column {
            Some(column) => Ok(self.find_column_type(&table, &Identifier::new(column)?).await?.is_some()),
            None => Ok(self.find_table(&table).await?.is_some()),
        }
    }

    async fn has_rows(&mut self, table: &str) -> Result<bool, BoxError> {
        let table = Identifier::new(table)?;
        if self.find_table(&table).await?.is_none() {
            return Ok(false);
        }
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {table})");
        let rows = self.fetch_all(sqlx::query(AssertSqlSafe(sql).into_sql_str())).await?;
        rows.first().map_or(Ok(false), |row| Ok(row.try_get(0)?))
    }

    async fn delete_rows(&mut self, table: &str, column: &str, value: &str) -> Result<(), BoxError> {
        let (table, column) = (Identifier::new(table)?, Identifier::new(column)?);
        let of_type = self.find_column_type(&table, &column).await?;
        let of_type = of_type
            .ok_or_else(|| PgTransactionError::NoColumn { table: table.name().into(), column: column.name().into() })?;
        // cast to the column's own type, so that the comparison uses the column's index
        let sql = format!("DELETE FROM {table} WHERE {column} = CAST($1::text AS {of_type})");
        self.fetch_all(sqlx::query(AssertSqlSafe(sql).into_sql_str()).bind(value)).await.map(drop)
    }

    async fn commit(self: Box<Self>) -> Result<(), BoxError> {
        Self::commit(*self).await
    }
}
