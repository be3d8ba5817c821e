//! A read-only transaction of one check.
//!
//! Invariant: each statement of a check runs in such a transaction, unnamed: a pooler in between may give each
//! transaction a different session of the server.

use std::time::Duration;

use eventstore_postgres::sqlx::{
    self, AssertSqlSafe, Executor as _, FromRow, PgConnection, PgPool, Postgres, SqlSafeStr as _, Transaction,
    postgres::{PgArguments, PgRow},
    query::QueryAs,
};

use super::outcome::CheckError;

/// A read-only transaction of one check.
#[derive(Debug)]
pub(crate) struct PgSession {
    transaction: Transaction<'static, Postgres>,
    schema: String,
}

/// A statement with the parameters that are bound to it.
pub(crate) type Statement<T> = QueryAs<'static, Postgres, T, PgArguments>;

impl PgSession {
    pub(crate) async fn begin(pool: &PgPool, schema: &str, limit: Duration) -> Result<Self, CheckError> {
        let mut transaction = pool.begin_with("BEGIN READ ONLY").await?;
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
        let settings = format!(
            "SET LOCAL statement_timeout = {limit}; SET LOCAL lock_timeout = '1s'; SET LOCAL search_path = pg_catalog"
        );
        transaction.execute(sqlx::raw_sql(AssertSqlSafe(settings))).await?;
        Ok(Self { transaction, schema: schema.into() })
    }

    /// Runs a statement without parameters, and returns its rows.
    ///
    /// `{schema}` stands for the schema as an identifier, `{schema_text}` for the schema as a text.
    pub(crate) async fn rows<T>(&mut self, sql: &str) -> Result<Vec<T>, CheckError>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        self.rows_with(sql, |statement| statement).await
    }

    /// The same with parameters.
    pub(crate) async fn rows_with<T>(
        &mut self,
        sql: &str,
        bind: impl FnOnce(Statement<T>) -> Statement<T>,
    ) -> Result<Vec<T>, CheckError>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let sql = sql
            .replace("{schema_text}", &format!("'{}'", self.schema.replace('\'', "''")))
            .replace("{schema}", &format!("\"{}\"", self.schema.replace('"', "\"\"")));
        // safe: texts of this crate, and the name of the schema, quoted
        let statement = sqlx::query_as(AssertSqlSafe(sql).into_sql_str()).persistent(false);
        Ok(bind(statement).fetch_all(&mut *self.transaction).await?)
    }

    /// Runs a statement that returns one row.
    pub(crate) async fn row<T>(&mut self, sql: &str) -> Result<T, CheckError>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let row = self.rows(sql).await?.into_iter().next();
        row.ok_or_else(|| CheckError::Other("PostgreSQL returned no row".into()))
    }

    /// Ends the transaction; a dropped one ends a moment later.
    pub(crate) async fn end(self) -> Result<(), CheckError> {
        Ok(self.transaction.rollback().await?)
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}
