//! Tables, indexes and sequences.

use eventbus_cli::doctor::{CheckFinding, DoctorConfig, Severity::*};

use super::common::{Store, config, expect_finding, expect_healthy, expect_only, pool, run_sql, until};

#[tokio::test]
async fn a_database_without_a_store_and_a_missing_table_are_found() {
    let store = Store::new().await;
    let no_store = store.doctor().postgres(pool(store.url()), "orders");
    let found = expect_only(&no_store, "pg-tables", Fault, "holds no store").await;
    assert!(found.finding.finding.contains("`orders`"), "{found:?}");
    let report = no_store.run().await;
    let skipped = report.skipped().iter().find(|skipped| skipped.check == "pg-index").unwrap();
    assert_eq!(skipped.reason, "the schema holds no store");
    expect_healthy(&store.doctor(), "pg-tables").await;
    store.run("DROP TABLE notes").await;
    expect_finding(&store.doctor(), "pg-tables", Fault, "lacks tables: `notes`").await;
}

#[tokio::test]
async fn migrations_of_a_different_release_are_found() {
    let store = Store::new().await;
    let newer = "INSERT INTO migrations (version, name, kind) VALUES (99, 'future', 'additive')";
    let found = store.broken_by(newer, "pg-release", Warning, "additive migration 99 `future`").await;
    assert_eq!(found.finding.observed["version"], 99);
    store.run("UPDATE migrations SET kind = 'breaking' WHERE version = 99").await;
    expect_only(&store.doctor(), "pg-release", Fault, "breaking migration 99 `future`").await;
    store.run("DELETE FROM migrations WHERE version IN (99, 1)").await;
    expect_only(&store.doctor(), "pg-release", Warning, "lack migrations of this release: 1").await;
}

#[tokio::test]
async fn a_cache_of_the_sequence_is_found() {
    let store = Store::new().await;
    let cached = "ALTER SEQUENCE events_position_seq CACHE 32";
    let found = store.broken_by(cached, "pg-sequence", Fault, "CACHE 32").await;
    store.run(&found.finding.repair).await;
    expect_healthy(&store.doctor(), "pg-sequence").await;
}

#[tokio::test]
async fn sequences_that_were_restored_without_their_state_are_found() {
    let store = Store::new().await;
    let reset = "SELECT setval('events_position_seq', 1)";
    let found = store.broken_by(reset, "pg-sequence-behind", Fault, "`events_position_seq` is at 1, and 3").await;
    let statement =
        |found: &CheckFinding| found.finding.repair.strip_prefix("stop all writers, then ").unwrap().to_owned();
    store.run(&statement(&found)).await;
    let reset = "ALTER SEQUENCE streams_stream_no_seq RESTART";
    let found = store.broken_by(reset, "pg-sequence-behind", Fault, "`streams_stream_no_seq`").await;
    store.run(&statement(&found)).await;
    expect_healthy(&store.doctor(), "pg-sequence-behind").await;
}

#[tokio::test]
async fn missing_and_invalid_indexes_are_found() {
    let store = Store::new().await;
    let dropped = "ALTER TABLE events DROP CONSTRAINT events_stream_key";
    let found = store.broken_by(dropped, "pg-index", Fault, "lacks the index `events_stream_key`").await;
    // alone: such a statement runs in no transaction
    run_sql(store.url(), &found.finding.repair).await;
    let dropped = "DROP INDEX deliveries_handled_at_idx";
    let found = store.broken_by(dropped, "pg-index", Warning, "lacks the index `deliveries_handled_at_idx`").await;
    run_sql(store.url(), &found.finding.repair).await;
    let invalid = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'events_event_id_key'::regclass";
    store.broken_by(invalid, "pg-index", Fault, "events_event_id_key` on").await;
}

/// Fails if a migration adds an index that the check does not know.
#[tokio::test]
async fn the_check_of_indexes_knows_each_index_of_a_new_database() {
    let store = Store::new().await;
    let drop_all = "DO $$ DECLARE i record; BEGIN
        FOR i IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
            WHERE connamespace = 'eventbus'::regnamespace AND contype IN ('p', 'u') LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', i.t, i.conname);
        END LOOP;
        FOR i IN SELECT indexname FROM pg_indexes WHERE schemaname = 'eventbus' LOOP
            EXECUTE format('DROP INDEX eventbus.%I', i.indexname);
        END LOOP; END $$";
    let mut connection = pool(store.url()).acquire().await.unwrap();
    let count = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'eventbus'";
    let count: i64 = eventstore_postgres::sqlx::query_scalar(count).fetch_one(&mut *connection).await.unwrap();
    store.run(drop_all).await;
    let report = store.doctor().only(["pg-index"]).unwrap().run().await;
    assert_eq!(i64::try_from(report.findings().len()).unwrap(), count, "{report}");
}

/// The statements of `docs/partition-events.md` make keys of each partition.
#[tokio::test]
async fn a_partitioned_table_has_its_keys_in_each_partition() {
    let store = Store::new().await;
    store
        .run(
            "ALTER TABLE events RENAME TO events_old;
             CREATE TABLE events (LIKE events_old INCLUDING DEFAULTS) PARTITION BY RANGE (position);
             ALTER TABLE events ATTACH PARTITION events_old FOR VALUES FROM (1) TO (1000);
             CREATE TABLE events_new PARTITION OF events FOR VALUES FROM (1000) TO (2000);
             ALTER TABLE events_new ADD PRIMARY KEY (position), ADD UNIQUE (stream_no, version)",
        )
        .await;
    let found =
        expect_finding(&store.doctor(), "pg-index", Fault, "events_new` lacks the index `events_new_event_id_key`")
            .await;
    run_sql(store.url(), &found.finding.repair).await;
    expect_healthy(&store.doctor(), "pg-index").await;
    // by its name the store knows a repeated append
    let renamed = "ALTER INDEX events_new_event_id_key RENAME TO events_new_ids";
    let found = store.broken_by(renamed, "pg-index", Fault, "has not the name `events_new_event_id_key`").await;
    run_sql(store.url(), &found.finding.repair).await;
    expect_healthy(&store.doctor(), "pg-index").await;
}

#[tokio::test]
async fn an_unlogged_table_is_found() {
    let store = Store::new().await;
    let unlogged = "ALTER TABLE checkpoints SET UNLOGGED";
    let found = store.broken_by(unlogged, "pg-unlogged", Fault, "checkpoints` is unlogged").await;
    store.run(&found.finding.repair).await;
    expect_healthy(&store.doctor(), "pg-unlogged").await;
}

#[tokio::test]
async fn dead_rows_are_found() {
    let store = Store::new().await;
    // without autovacuum, which would be faster than the check
    store
        .run(
            "ALTER TABLE notes SET (autovacuum_enabled = off);
             INSERT INTO notes SELECT n::text, '' FROM generate_series(1, 2000) n; DELETE FROM notes;
",
        )
        .await;
    expect_healthy(&store.doctor(), "pg-dead-rows").await;
    let doctor = store.doctor().config(DoctorConfig { dead_rows: 1_000, ..config() });
    let only = || doctor.clone().only(["pg-dead-rows"]).unwrap();
    until("the server has counted", async || !only().run().await.findings().is_empty()).await;
    expect_finding(&doctor, "pg-dead-rows", Warning, "notes` has 2000 dead rows beside 0").await;
}

#[tokio::test]
async fn a_table_that_is_not_vacuumed_is_found() {
    let store = Store::new().await;
    let off = "ALTER TABLE checkpoints SET (autovacuum_enabled = off)";
    let found = store.broken_by(off, "pg-autovacuum", Warning, "checkpoints` is not vacuumed").await;
    store.run(&found.finding.repair).await;
    expect_healthy(&store.doctor(), "pg-autovacuum").await;
}

#[tokio::test]
async fn triggers_rules_and_row_security_are_found() {
    let store = Store::new().await;
    for (sql, text) in [
        ("ALTER TABLE events ENABLE ROW LEVEL SECURITY", "has row security"),
        ("CREATE RULE keep AS ON INSERT TO notes DO INSTEAD NOTHING", "has a rule `keep`"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER swallow BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION f()",
            "has a trigger `swallow`",
        ),
    ] {
        let found = store.broken_by(sql, "pg-foreign-logic", Warning, text).await;
        store.run(&found.finding.repair).await;
    }
    expect_healthy(&store.doctor(), "pg-foreign-logic").await;
}
