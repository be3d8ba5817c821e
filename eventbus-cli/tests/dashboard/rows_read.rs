//! What the pages read of a large store: rows by indexes, and few of them.

use std::time::Duration;

use eventbus::{
    App, ExpectedVersion, Name, Position, StreamId,
    port::{AppendEvents as _, Checkpoints as _},
};
use eventbus_cli::dashboard::DashboardConfig;
use eventstore_postgres::PgEventStore;
use futures_util::future::try_join_all;
use sqlx::{Connection as _, PgConnection};

use crate::{
    common::send,
    filling::add_first_dead_letters,
    http::between,
    mounted::mount,
    reads::{OPERATING_PATHS, rows_read},
    served::Served,
    shop::placed,
};

/// More than a page reads.
const MANY: usize = 1_500;
/// The most rows of a table, or entries of its indexes, that a page reads: those of one page of the store, and a few for the
/// first sample.
const ROWS_MAX: i64 = 1_010;

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
    add_first_dead_letters(&store, "mail", MANY as u64).await;
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
    ]
    .into_iter()
    .chain(OPERATING_PATHS)
    {
        let before = rows_read(&mut connection).await;
        let served = Served::start(&["--store", database.url(), "--sample-every", "1h"]);
        served.site.get(path).await.ok();
        drop(served);
        let after = rows_read(&mut connection).await;
        for (table, (scanned, found)) in after.since(&before) {
            // the first sample lists the handlers, and counts the rows of each
            if table == "handler_rows" {
                continue;
            }
            // the planner scans a table of few rows, as that is cheaper than its index
            assert!(scanned < 100, "{path} scans {scanned} rows of {table}");
            // dead letters are counted without their events
            let counts_only = table == "events" && ["/", "/groups", "/health"].contains(&path);
            assert!(!counts_only || found < 100, "{path} reads {found} events");
            assert!(found <= ROWS_MAX, "{path} reads {found} entries of indexes of {table}");
        }
    }
}

/// An application counts its dead letters for its health.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_an_application_read_few_of_many_dead_letters() {
    let database = eventbus_test::postgres();
    let store = PgEventStore::connect(database.url()).await.unwrap();
    fill_long_stream(&store).await;
    add_first_dead_letters(&store, "send", MANY as u64).await;
    store.close().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let mut read = async |path: Option<&str>| {
        let before = rows_read(&mut connection).await;
        let store = PgEventStore::connect(database.url()).await.unwrap();
        let app = App::builder().store(store.clone()).handler::<send>().start().await.unwrap();
        // the handler reads the feed once
        app.settled().await.unwrap();
        let site = mount(&app, DashboardConfig::default()).await;
        if let Some(path) = path {
            site.get(path).await.ok();
        }
        app.shutdown(Duration::from_secs(60)).await.unwrap();
        store.close().await;
        rows_read(&mut connection).await.since(&before)["events"].1
    };
    let by_application = read(None).await;
    for path in ["", "/health"] {
        let by_page = read(Some(path)).await - by_application;
        assert!(by_page <= ROWS_MAX, "{path} reads {by_page} entries of indexes");
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
        let read = rows_read(&mut connection).await.since(&before)["events"].1;
        // those of one page of the store, and what the application at rest reads meanwhile
        assert!((50..=1_200).contains(&read), "up to {upto}: {read} entries of indexes");
    }
}
