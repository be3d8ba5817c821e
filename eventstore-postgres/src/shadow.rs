//! Shadows: copies of tables in a schema of their own, which a rebuild fills while the live tables serve.
//!
//! Invariant: a transaction that works in a shadow locks its copies, so that none is dropped meanwhile: the name of a
//! dropped copy would refer to the live table.

use std::time::Duration;

use eventbus::{BoxError, Position, port::Shadow};
use sqlx::{AssertSqlSafe, Row as _, SqlSafeStr as _};

use crate::{error::PgTransactionError, identifier::Identifier, record::decode_position, transaction::PgTransaction};

/// The time limit of replacing the rows of the live tables: the transaction writes all of them.
const REPLACE_ROWS_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A live table and its copy, with their schemas, quoted.
struct TablePair {
    live: String,
    copy: String,
}

/// The copies of one shadow, as one transaction works on them.
pub(crate) struct ShadowTables<'a> {
    transaction: &'a mut PgTransaction,
    shadow: &'a Shadow,
    /// The schema that holds the copies, quoted.
    schema: String,
}

impl<'a> ShadowTables<'a> {
    pub(crate) fn new(transaction: &'a mut PgTransaction, shadow: &'a Shadow) -> Self {
        let schema = format!("\"{}\"", transaction.statements().schema().shadow_name(&shadow.name));
        Self { transaction, shadow, schema }
    }

    fn tables(&self) -> Result<Vec<Identifier>, PgTransactionError> {
        self.shadow.tables.iter().map(|table| Identifier::new(table)).collect()
    }

    /// Creates the copies unless they exist; returns the position up to which they are filled.
    pub(crate) async fn make(&mut self) -> Result<Position, BoxError> {
        self.lock_shadow().await?;
        let pairs = self.find_pairs().await?;
        // checked before the work, which may take hours, and again before rows are replaced
        self.check_references(&pairs).await?;
        let mut is_there = true;
        for pair in &pairs {
            is_there = is_there && self.has_same_shape(pair).await?;
        }
        // without a position the copies are created anew: they were never filled, or their rows went live already
        let filled = self.query_filled_position(include_str!("sql/load_checkpoint.sql")).await?;
        if let (true, Some(position)) = (is_there, filled) {
            return Ok(position);
        }
        self.drop_copies().await?;
        self.transaction.run(format!("CREATE SCHEMA {}", self.schema)).await?;
        for TablePair { live, copy } in pairs {
            self.transaction.run(format!("CREATE TABLE {copy} (LIKE {live} INCLUDING ALL)")).await?;
        }
        Ok(Position::START)
    }

    /// Locks the copies and makes the names of the tables refer to them, until the transaction ends.
    pub(crate) async fn switch_to_copies(&mut self) -> Result<(), BoxError> {
        for table in self.tables()? {
            self.transaction.run(format!("LOCK TABLE {}.{table} IN ROW EXCLUSIVE MODE", self.schema)).await?;
        }
        let sql = "SELECT set_config('search_path', concat_ws(', ', $1::text, \
                   nullif(current_setting('search_path'), '')), true)";
        self.transaction.fetch_all(sqlx::query(sql).bind(self.schema.clone())).await?;
        self.transaction.set_in_shadow();
        Ok(())
    }

    pub(crate) async fn drop_all(&mut self) -> Result<(), BoxError> {
        self.lock_shadow().await?;
        self.drop_copies().await
    }

    /// Replaces only the rows of the live tables, so that their rights, views and foreign keys stay.
    pub(crate) async fn replace_live_rows(&mut self) -> Result<Position, BoxError> {
        if self.transaction.is_in_shadow() {
            return Err(PgTransactionError::InShadow.into());
        }
        let pairs = self.find_pairs().await?;
        self.check_references(&pairs).await?;
        self.transaction.extend_deadline(REPLACE_ROWS_TIMEOUT);
        self.transaction.run(format!("SET LOCAL statement_timeout = {}", REPLACE_ROWS_TIMEOUT.as_millis())).await?;
        // writers of the live tables wait, readers do not
        for TablePair { live, .. } in &pairs {
            self.transaction.run(format!("LOCK TABLE {live} IN SHARE ROW EXCLUSIVE MODE")).await?;
        }
        let filled = self.take_filled_position().await?.unwrap_or(Position::START);
        // until the rows are there again
        self.transaction.run("SET CONSTRAINTS ALL DEFERRED".into()).await?;
        // backward: tables come after those that they refer to
        for TablePair { live, .. } in pairs.iter().rev() {
            self.transaction.run(format!("DELETE FROM {live}")).await?;
        }
        for pair in &pairs {
            self.copy_rows(pair).await?;
        }
        // checks each row here, as the commit has less time
        self.transaction.run("SET CONSTRAINTS ALL IMMEDIATE".into()).await?;
        self.transaction.extend_deadline(Duration::ZERO);
        Ok(filled)
    }

    /// Deletes and returns the position up to which the copies are filled. Transactions that fill them wait for this
    /// one, and find no position if it commits.
    async fn take_filled_position(&mut self) -> Result<Option<Position>, BoxError> {
        self.query_filled_position(include_str!("sql/take_checkpoint.sql")).await
    }

    async fn check_references(&mut self, pairs: &[TablePair]) -> Result<(), BoxError> {
        let live: Vec<&str> = pairs.iter().map(|pair| &*pair.live).collect();
        match self.transaction.fetch_all(sqlx::query(include_str!("sql/referring_table.sql")).bind(live)).await?.first()
        {
            Some(row) => Err(PgTransactionError::Referred { table: row.try_get(0)?, by: row.try_get(1)? }.into()),
            None => Ok(()),
        }
    }

    async fn copy_rows(&mut self, TablePair { live, copy }: &TablePair) -> Result<(), BoxError> {
        let sql = include_str!("sql/columns.sql");
        let rows = self.transaction.fetch_all(sqlx::query(sql).bind(live)).await?;
        let columns = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
        let names = columns.join(", ");
        self.transaction
            .run(format!("INSERT INTO {live} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {copy}"))
            .await?;
        for (column, row) in columns.iter().zip(&rows) {
            if let Some(identity) = row.try_get(1)? {
                self.catch_up_identity(live, column, identity).await?;
            }
        }
        Ok(())
    }

    /// Moves the sequence of a live table up to the numbers copied into it; the copy drew them from its own sequence.
    async fn catch_up_identity(&mut self, live: &str, column: &str, name: &str) -> Result<(), BoxError> {
        let sql = include_str!("sql/catch_up_identity.sql").replace("{column}", column).replace("{live}", live);
        let query = sqlx::query(AssertSqlSafe(sql).into_sql_str()).bind(live).bind(name);
        self.transaction.fetch_all(query).await.map(drop)
    }

    async fn find_pairs(&mut self) -> Result<Vec<TablePair>, BoxError> {
        let mut pairs = Vec::new();
        for table in self.tables()? {
            let live = self.transaction.find_table(&table).await?;
            let live = live.ok_or_else(|| PgTransactionError::NoTable { table: table.name().into() })?;
            pairs.push(TablePair { live, copy: format!("{}.{table}", self.schema) });
        }
        Ok(pairs)
    }

    async fn has_same_shape(&mut self, TablePair { live, copy }: &TablePair) -> Result<bool, BoxError> {
        let query = sqlx::query(include_str!("sql/same_shape.sql")).bind(live).bind(copy);
        let rows = self.transaction.fetch_all(query).await?;
        Ok(rows.first().ok_or("no answer")?.try_get(0)?)
    }

    async fn query_filled_position(&mut self, sql: &'static str) -> Result<Option<Position>, BoxError> {
        let query = self.transaction.statements().query(sql).bind(self.shadow.name.as_str());
        self.transaction.fetch_all(query).await?.first().map(|row| decode_position(row, 0)).transpose()
    }

    /// Drops the copies, in a transaction that runs no statement of a user.
    async fn drop_copies(&mut self) -> Result<(), BoxError> {
        // an operator who reads the notice, which names each table, may take it for a loss of data
        self.transaction.run("SET LOCAL client_min_messages = warning".into()).await?;
        self.transaction.run(format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema)).await?;
        self.take_filled_position().await.map(drop)
    }

    /// Locks the shadow, so that concurrent calls that create or drop it run one after the other.
    async fn lock_shadow(&mut self) -> Result<(), BoxError> {
        let query = sqlx::query("SELECT pg_advisory_xact_lock(1702260325, hashtext($1))").bind(self.schema.clone());
        self.transaction.fetch_all(query).await.map(drop)
    }
}
