//! The totals of orders as rows, in SQLite and in PostgreSQL.

use eventbus::prelude::*;
use eventstore_postgres::PgConnection;
use eventstore_sqlite::{SqliteTransaction, SqliteTransactionError};

use super::OrderPlaced;

#[derive(Debug)]
pub(crate) struct Totals;

#[projection(
    name = "totals",
    tables("totals"),
    key = "id",
    set_up = "CREATE TABLE IF NOT EXISTS totals (id TEXT PRIMARY KEY, cents INTEGER NOT NULL)",
    manual
)]
impl Totals {
    fn add(
        &self,
        event: &OrderPlaced,
        id: &AggregateId,
        tx: &mut SqliteTransaction,
    ) -> Result<(), SqliteTransactionError> {
        tx.execute("INSERT INTO totals VALUES (?1, ?2) ON CONFLICT DO NOTHING", (id.as_str(), event.cents))?;
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct PgTotals;

#[projection(
    name = "totals",
    tables("totals"),
    key = "id",
    set_up = "CREATE TABLE IF NOT EXISTS totals (id text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0))",
    manual
)]
impl PgTotals {
    async fn add(&self, event: &OrderPlaced, id: &AggregateId, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let insert = "INSERT INTO totals VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(insert).bind(id.as_str()).bind(event.cents).execute(conn).await?;
        Ok(())
    }
}
