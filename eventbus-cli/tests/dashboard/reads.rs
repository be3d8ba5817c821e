//! The rows that sessions have read of the tables of a store, as PostgreSQL counts them.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{PgConnection, Row as _};

/// The pages for operators, which have the same address in every shop.
pub(crate) const OPERATING_PATHS: [&str; 6] =
    ["/projections", "/groups", "/dead-letters", "/dead-letters?error=none", "/relay", "/health"];

/// The rows that were read of each table since the server began to count: by scans of the table, and by indexes.
pub(crate) struct RowsRead(BTreeMap<String, (i64, i64)>);

impl RowsRead {
    /// Returns the rows that were read since `before`.
    pub(crate) fn since(&self, before: &Self) -> BTreeMap<String, (i64, i64)> {
        let read_before = |table: &String| before.0.get(table).copied().unwrap_or_default();
        let since = self.0.iter().map(|(table, (scanned, found))| {
            let (scanned_before, found_before) = read_before(table);
            (table.clone(), (scanned - scanned_before, found - found_before))
        });
        since.collect()
    }
}

/// Waits until a database has no session but ours, so that the sessions have reported what they read, and returns the
/// rows that were read of each table.
pub(crate) async fn rows_read(connection: &mut PgConnection) -> RowsRead {
    let waiting = async {
        let others = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        while sqlx::query_scalar::<_, i64>(others).fetch_one(&mut *connection).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("the sessions end");
    let read = "SELECT t.relname::text, coalesce(t.seq_tup_read, 0)::bigint, \
                coalesce((SELECT sum(i.idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = t.relid), 0)::bigint \
                FROM pg_stat_user_tables t WHERE t.schemaname = 'eventbus'";
    let rows = sqlx::query(read).fetch_all(connection).await.unwrap();
    RowsRead(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}
