//! A read-only transaction of one check.
//!
//! Invariant: each statement of a check runs in such a transaction, unnamed: a pooler in between may give each
//! transaction a different session of the server.

use std::time::Duration;

use eventstore_postgres::sqlx::{
    self, AssertSqlSafe, Executor as _, PgConnection, PgPool, Postgres, SqlSafeStr as _, Transaction, types::Json,
};
use serde_json::{Map, Value};

use super::{
    outcome::CheckError,
    statement::{Database, Row},
};

/// A read-only transaction of one check.
#[derive(Debug)]
pub(crate) struct PgSession {
    transaction: Transaction<'static, Postgres>,
    schema: String,
}

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

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

impl Database for PgSession {
    async fn rows(&mut self, sql: String) -> Result<Vec<Row>, CheckError> {
        let sql = format!("SELECT to_jsonb(r) FROM (\n{sql}\n) r");
        // safe: texts of this crate, with numbers, and with names that are quoted
        let statement = sqlx::query_scalar(AssertSqlSafe(sql).into_sql_str()).persistent(false);
        let rows: Vec<Json<Map<String, Value>>> = statement.fetch_all(&mut *self.transaction).await?;
        Ok(rows.into_iter().map(|Json(row)| Row(row)).collect())
    }

    fn expand(&self, name: &str) -> Option<String> {
        let schema = || format!("\"{}\"", self.schema.replace('"', "\"\""));
        Some(match name.split_once(' ').unwrap_or((name, "")) {
            ("schema", _) => schema(),
            ("schema_text", _) => format!("'{}'", self.schema.replace('\'', "''")),
            ("schema_name", _) => self.schema.clone(),
            ("table", table) => format!("{}.{table}", schema()),
            ("seconds", time) => format!("extract(epoch FROM {time})::float8"),
            ("now", _) => "extract(epoch FROM clock_timestamp())::float8".into(),
            ("uuid", id) => id.into(),
            ("lease_end", _) => "extract(epoch FROM expires_at)::float8".into(),
            _ => return None,
        })
    }
}
