//! Copies of tables in a schema of their own, filled while the live ones serve.
//!
//! Keep: whoever works in a shadow holds its tables. A name that means no copy would mean the live table.

use std::time::Duration;

use eventbus::{BoxError, Position, port::Shadow};
use sqlx::{AssertSqlSafe, Row as _, SqlSafeStr as _, SqlStr};

use crate::{error::PgTransactionError, identifier::Identifier, transaction::PgTransaction};

/// How long the rows of the live tables may take to be replaced: all of them are written.
const REPLACE_ROWS_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A live table and its copy, as statements have them.
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
        let schema = format!("\"{}\"", transaction.statements().schema.shadow_name(&shadow.name));
        Self { transaction, shadow, schema }
    }

    fn tables(&self) -> Result<Vec<Identifier>, PgTransactionError> {
        self.shadow.tables.iter().map(|table| Identifier::new(table)).collect()
    }

    /// Makes the copies that are not there; how far they are filled.
    pub(crate) async fn make(&mut self) -> Result<Position, BoxError> {
        self.lock_shadow().await?;
        let mut pairs = Vec::new();
        let mut is_there = true;
        for table in self.tables()? {
            let pair =
                TablePair { live: self.find_live_table(&table).await?, copy: format!("{}.{table}", self.schema) };
            is_there = is_there && self.has_same_shape(&pair).await?;
            pairs.push(pair);
        }
        // copies that nobody filled, or that have served, are made anew: the latter have rows
        if let (true, Some(position)) = (is_there, self.load_filled_position().await?) {
            return Ok(position);
        }
        self.drop_copies().await?;
        self.transaction.run(format!("CREATE SCHEMA {}", self.schema)).await?;
        for TablePair { live, copy } in pairs {
            self.transaction.run(format!("CREATE TABLE {copy} (LIKE {live} INCLUDING ALL)")).await?;
        }
        Ok(Position::START)
    }

    /// Lets the names of the tables mean the copies, up to the end of the transaction.
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

    /// Replaces the rows and nothing else, so that rights, views and foreign keys of the live tables stay.
    pub(crate) async fn replace_live_rows(&mut self) -> Result<Position, BoxError> {
        if self.transaction.is_in_shadow() {
            return Err(PgTransactionError::InShadow.into());
        }
        let mut pairs = Vec::new();
        for table in self.tables()? {
            pairs.push(TablePair {
                live: self.find_live_table(&table).await?,
                copy: format!("{}.{table}", self.schema),
            });
        }
        self.check_references(&pairs).await?;
        self.transaction.extend_deadline(REPLACE_ROWS_TIMEOUT);
        self.transaction.run(format!("SET LOCAL statement_timeout = {}", REPLACE_ROWS_TIMEOUT.as_millis())).await?;
        for TablePair { live, .. } in &pairs {
            self.transaction.run(format!("LOCK TABLE {live} IN SHARE ROW EXCLUSIVE MODE")).await?;
        }
        let filled = self.take_filled_position().await?.unwrap_or(Position::START);
        // tables that refer to others come after them in the list
        for TablePair { live, .. } in pairs.iter().rev() {
            self.transaction.run(format!("DELETE FROM {live}")).await?;
        }
        for pair in &pairs {
            self.copy_rows(pair).await?;
        }
        self.transaction.extend_deadline(Duration::ZERO);
        Ok(filled)
    }

    /// How far the copies are filled. Nobody fills them further, and if the transaction commits, nobody knows it any more.
    async fn take_filled_position(&mut self) -> Result<Option<Position>, BoxError> {
        self.query_filled_position(self.transaction.statements().delete_checkpoint.clone()).await
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

    /// The copy counted by itself: the live table goes on after what it was given.
    async fn catch_up_identity(&mut self, live: &str, column: &str, name: &str) -> Result<(), BoxError> {
        let sql = include_str!("sql/catch_up_identity.sql").replace("{column}", column).replace("{live}", live);
        let query = sqlx::query(AssertSqlSafe(sql).into_sql_str()).bind(live).bind(name);
        self.transaction.fetch_all(query).await.map(drop)
    }

    /// The live table, with its schema.
    async fn find_live_table(&mut self, table: &Identifier) -> Result<String, BoxError> {
        let found = self.transaction.find_table(table).await?;
        Ok(found.ok_or_else(|| PgTransactionError::NoTable { table: table.name().into() })?)
    }

    async fn has_same_shape(&mut self, TablePair { live, copy }: &TablePair) -> Result<bool, BoxError> {
        let query = sqlx::query(include_str!("sql/same_shape.sql")).bind(live).bind(copy);
        let rows = self.transaction.fetch_all(query).await?;
        Ok(rows.first().ok_or("no answer")?.try_get(0)?)
    }

    async fn load_filled_position(&mut self) -> Result<Option<Position>, BoxError> {
        self.query_filled_position(self.transaction.statements().load_checkpoint.clone()).await
    }

    async fn query_filled_position(&mut self, sql: SqlStr) -> Result<Option<Position>, BoxError> {
        let query = sqlx::query(sql).bind(self.shadow.name.as_str());
        match self.transaction.fetch_all(query).await?.first() {
            Some(row) => Ok(Some(Position::new(u64::try_from(row.try_get::<i64, _>(0)?)?))),
            None => Ok(None),
        }
    }

    async fn drop_copies(&mut self) -> Result<(), BoxError> {
        self.transaction.run(format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema)).await?;
        self.take_filled_position().await.map(drop)
    }

    /// Those who make and drop one shadow at once take turns.
    async fn lock_shadow(&mut self) -> Result<(), BoxError> {
        let query = sqlx::query("SELECT pg_advisory_xact_lock(1702260325, hashtext($1))").bind(self.schema.clone());
        self.transaction.fetch_all(query).await.map(drop)
    }
}
