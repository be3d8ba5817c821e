//! The schema that holds the tables, and the names and numbers derived from its name.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::error::PgConnectError;

/// The longest identifier of PostgreSQL, which silently truncates longer ones.
pub(crate) const MAX_IDENTIFIER_BYTES: usize = 63;

/// The last position drawn, 0 if there is none.
///
/// Invariant: statements call the function and never read the sequence as a table. The session that draws the first
/// number of a block leaves the block's last number there for a moment, while it writes to the log, and a read of the
/// table does not wait for that. An append that sees this number locks a bound above its own positions, and readers
/// skip them.
const LAST_POSITION_SQL: &str = "coalesce(pg_sequence_last_value('{schema}.events_position_seq'), 0)";

/// The name of a schema, checked: it can stand in a statement as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schema(String);

impl Schema {
    pub(crate) fn new(name: &str) -> Result<Self, PgConnectError> {
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() > MAX_IDENTIFIER_BYTES {
            "it has more than 63 bytes"
        } else if !name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            "only lower-case letters, digits and underscores are allowed, and no digit first"
        } else if name.starts_with("pg_") || name == "information_schema" {
            "the server keeps such names for itself"
        } else {
            return Ok(Self(name.into()));
        };
        Err(PgConnectError::InvalidSchema {
            schema: name.chars().take(MAX_IDENTIFIER_BYTES).flat_map(char::escape_debug).collect(),
            reason,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// The number that keeps the advisory locks of this schema apart from all other locks: 1 to 2^19 − 1.
    ///
    /// Locks are per database, and it may hold several schemas. Together with 44 bits of a position it makes a
    /// positive `bigint`; it is never 0, where small numbers chosen by hand are.
    fn lock_namespace(&self) -> u64 {
        fnv1a(&self.0) % ((1 << 19) - 1) + 1
    }

    /// Returns the schema of a shadow of this store: readable, and different for each name of each store.
    pub(crate) fn shadow_name(&self, name: &str) -> String {
        let readable = name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit(), "_");
        let hash = fnv1a(&format!("{}.{name}", self.0));
        format!("{:.16}_shadow_{readable:.22}_{hash:016x}", self.0)
    }

    /// Returns the channel on which stores of this schema notify each other.
    pub(crate) fn channel(&self) -> String {
        format!("{:.37}_appended_{:016x}", self.0, fnv1a(&self.0))
    }

    /// Replaces the placeholders `{drawn}`, `{schema}`, `{channel}` and `{namespace}` in a text of this crate.
    pub(crate) fn fill_placeholders(&self, sql: &str) -> String {
        sql.replace("{drawn}", LAST_POSITION_SQL)
            .replace("{schema}", &format!("\"{}\"", self.0))
            .replace("{channel}", &self.channel())
            .replace("{namespace}", &self.lock_namespace().to_string())
    }

    /// Returns a statement of this crate, filled in for this schema.
    pub(crate) fn statement(&self, sql: &str) -> SqlStr {
        // safe: this crate's own text, and the name of the schema, which `new` checked
        AssertSqlSafe(self.fill_placeholders(sql)).into_sql_str()
    }
}

/// FNV-1a: never changes.
fn fnv1a(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, step)
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, Executor as _, PgConnection};
    use tokio::task::JoinSet;

    use super::*;
    use crate::{PgEventStore, PgEventStoreConfig};

    async fn run(sql: String) {
        let mut connection = PgConnection::connect(eventbus_test::postgres_url()).await.unwrap();
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    }

    /// Four sessions draw as fast as they can: about one draw in 10,000 meets the moment when the table shows too much.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_drawn_later_is_after_the_last_position_drawn() {
        let schema = Schema::new(&eventbus_test::unique_name("store")).unwrap();
        let database_url = eventbus_test::postgres_url().to_owned();
        let config = PgEventStoreConfig { database_url, schema: schema.name().into(), ..Default::default() };
        let store = PgEventStore::connect_with(config).await.unwrap();
        let draw = schema.fill_placeholders(
            "DO $$
             DECLARE
                 drawn bigint;
                 drawn_later bigint;
             BEGIN
                 FOR i IN 1..100000 LOOP
                     drawn := {drawn};
                     drawn_later := nextval('{schema}.events_position_seq');
                     IF drawn_later <= drawn THEN
                         RAISE '% was drawn after %', drawn_later, drawn;
                     END IF;
                 END LOOP;
             END $$",
        );
        let sessions: JoinSet<_> = (0..4).map(|_| run(draw.clone())).collect();
        sessions.join_all().await;
        drop(store);
        run(schema.fill_placeholders("DROP SCHEMA {schema} CASCADE")).await;
    }

    #[test]
    fn only_plain_identifiers_are_schemas() {
        for name in ["eventbus", "_x", "a1_b", &"x".repeat(63)] {
            assert_eq!(Schema::new(name).unwrap().name(), name);
        }
        let long = "x".repeat(64);
        for name in ["", "Orders", "1a", "a-b", "a b", "a\"; DROP", "é", "pg_x", "information_schema", &long] {
            let error = Schema::new(name).unwrap_err();
            assert!(matches!(error, PgConnectError::InvalidSchema { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn the_lock_namespace_never_changes() {
        let namespace = |name| Schema::new(name).unwrap().lock_namespace();
        assert_eq!(namespace("eventbus"), NAMESPACE_OF_EVENTBUS);
        assert_ne!(namespace("eventbus"), namespace("eventbus2"));
    }

    #[test]
    fn shadows_have_schemas_of_their_own() {
        let of = |schema: &str, name| Schema::new(schema).unwrap().shadow_name(name);
        assert_eq!(of("eventbus", "Orders:v2"), "eventbus_shadow_orders_v2_3e11f12100c2e2d8");
        assert_ne!(of("eventbus", "orders:v2"), of("eventbus", "orders_v2"));
        assert_ne!(of("eventbus", "orders"), of("eventbus2", "orders"));
        let longest = of(&"x".repeat(63), &"漢".repeat(85));
        assert_eq!((longest.len(), Schema::new(&longest).is_ok()), (63, true), "{longest}");
    }

    /// Processes of two releases share one database: changing the number lets the feed skip.
    const NAMESPACE_OF_EVENTBUS: u64 = 341769;
}
