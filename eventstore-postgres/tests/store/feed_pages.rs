//! Pages of the feed that come with its end, in one round trip or in two.

use crate::common::{TestSchema, add, run, stream};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

// in a snapshot that is as old as the head, a page would miss events
eventbus::event_store_conformance! {
    @each TestSchema::new().store_of_repeatable_reads();
    feed_starts_after_a_position,
    long_feeds_are_read_whole,
    events_are_read_at_positions,
    feeds_are_read_around_skipped_positions,
    appends_do_not_break_an_open_feed,
    head_is_at_or_after_the_last_event,
    feed_never_skips_repeats_or_reorders,
    nothing_appears_at_or_below_the_head,
    pages_are_read_after_their_end,
    pages_reach_as_far_as_they_say,
}

async fn error_of(connection: &mut PgConnection, sql: &str) -> String {
    let refused = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    refused.unwrap_err().as_database_error().unwrap().message().to_owned()
}

#[tokio::test]
async fn one_snapshot_for_head_and_page_is_refused() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    add(&store, &stream(), 3).await;
    let (mut connection, name) = (schema.connection().await, schema.name());
    let read = |schema: &str| format!("SELECT * FROM read_feed_page(0, NULL, NULL, 10, '\"{schema}\"')");
    let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(read(name)))).await.unwrap();
    assert_eq!(rows.len(), 4, "the end and three events");
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        run(&mut connection, &format!("BEGIN ISOLATION LEVEL {isolation}")).await;
        let refused = error_of(&mut connection, &read(name)).await;
        assert_eq!(refused, "read the head and the page by two statements", "{isolation}");
        run(&mut connection, "ROLLBACK").await;
    }
    // the schema was renamed since the function was made, whose text names the former schema
    let refused = error_of(&mut connection, &read("renamed")).await;
    assert_eq!(refused, "read the head and the page by two statements");
}

/// Else the rules above would show nothing.
#[tokio::test]
async fn the_statements_of_the_rules_are_repeatable_reads() {
    let schema = TestSchema::new();
    let store = schema.store_of_repeatable_reads().await;
    let mut transaction = store.begin_transaction().await.unwrap();
    let isolation = sqlx::query_scalar("SELECT current_setting('default_transaction_isolation')");
    let isolation: String = isolation.fetch_one(transaction.connection()).await.unwrap();
    assert_eq!(isolation, "repeatable read");
}
