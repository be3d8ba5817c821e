//! What the pages read of a large store: rows by indexes, and few of them.

use std::{collections::BTreeMap, time::Duration};

use eventbus::{
    App, ExpectedVersion, Name, Position, StreamId,
    port::{AppendEvents as _, Checkpoints as _},
};
use eventbus_cli::dashboard::DashboardConfig;
use eventstore_postgres::PgEventStore;
use futures_util::future::try_join_all;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::{filling::add_dead_letters, http::between, mounted::mount, served::Served, shop::placed};

/// More than a page reads.
const MANY: usize = 1_500;
/// The most rows of a table, or entries of its indexes, that a page reads: those of one page of the store, and a few for the
/// first sample.
const ROWS_MAX: i64 = 1_010;

/// Waits until a database has no session but ours, so that the sessions have reported what they read, and returns the
/// rows that were read of each table: by scans of the table, and by indexes.
async fn rows_read(connection: &mut PgConnection) -> BTreeMap<String, (i64, i64)> {
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
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// Appends 1,800 events to the stream `Order/long`.
async fn fill_long_stream(store: &PgEventStore) {
    let long = StreamId::parse("Order", "long").unwrap();
    for _ in 0..2 {
        store.append(&long, ExpectedVersion::Any, (0..900).map(placed).collect()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_scans_a_table_or_reads_more_than_a_thousand_rows() {
    let database = eventbus_test::postgres();
    let store = PgEventStore::connect(database.url()).await.unwrap();
    fill_long_stream(&store).await;
    let streams = (0..MANY).map(async |number| {
        let stream = StreamId::parse("Order", &format!("o-{number:05}")).unwrap();
        store.append(&stream, ExpectedVersion::NoStream, vec![placed(1)]).await.map(drop)
    });
    try_join_all(streams).await.unwrap();
    add_dead_letters(&store, "mail", MANY as u64, Position::new(100)).await;
    for reader in ["projection:totals", "relay:bus"] {
        store.save_checkpoint(&Name::from_static(reader), Position::new(100)).await.unwrap();
    }
    store.close().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    sqlx::query("ANALYZE").execute(&mut connection).await.unwrap();

    let dead_letters = Served::start(&["--store", database.url()]).site.get("/dead-letters").await.ok();
    let dead_letter = format!("/dead-letter?id={}", between(&dead_letters, "./dead-letter?id=", "\"")[0]);
    for path in [
        "/",
        &dead_letter,
        "/streams",
        "/streams?prefix=o-0",
        "/streams?type=Cart",
        "/stream?type=Order&id=long",
        "/stream?type=Order&id=long&upto=900",
        "/stream?type=Order&id=o-00007",
        "/projections",
        "/groups",
        "/dead-letters",
        "/dead-letters?error=none",
        "/relay",
        "/health",
    ] {
        let before = rows_read(&mut connection).await;
        let served = Served::start(&["--store", database.url(), "--sample-every", "1h"]);
        let page = served.site.get(path).await.ok();
        assert_eq!(page.contains("counts the pending deliveries"), path == "/groups", "{path} {page}");
        drop(served);
        let after = rows_read(&mut connection).await;
        for (table, (scanned, found)) in after {
            let (scanned_before, found_before) = before.get(&table).copied().unwrap_or_default();
            let (scanned, found) = (scanned - scanned_before, found - found_before);
            // the planner scans a table of few rows, as that is cheaper than its index
            assert!(scanned < 100, "{path} scans {scanned} rows of {table}");
            // dead letters are counted without their events
            let counts_only = table == "events" && ["/", "/groups", "/health"].contains(&path);
            assert!(!counts_only || found < 100, "{path} reads {found} events");
            assert!(found <= ROWS_MAX, "{path} reads {found} entries of indexes of {table}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_with_the_states_of_a_stream_reads_its_events_once() {
    let database = eventbus_test::postgres();
    let store = PgEventStore::connect(database.url()).await.unwrap();
    fill_long_stream(&store).await;
    store.close().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    for (upto, has_states) in [("900", true), ("1800", false)] {
        let before = rows_read(&mut connection).await;
        let store = PgEventStore::connect(database.url()).await.unwrap();
        let app = App::builder().store(store.clone()).start().await.unwrap();
        let site = mount(&app, DashboardConfig::default()).await;
        let page = site.get(&format!("/stream?type=Order&id=long&upto={upto}")).await.ok();
        assert_eq!(page.contains("Changed in the state"), has_states, "{page}");
        app.shutdown(Duration::from_secs(60)).await.unwrap();
        store.close().await;
        let found = |read: &BTreeMap<String, (i64, i64)>| read["events"].1;
        let read = found(&rows_read(&mut connection).await) - found(&before);
        // those of one page of the store, and what the application at rest reads meanwhile
        assert!((50..=1_200).contains(&read), "up to {upto}: {read} entries of indexes");
    }
}
