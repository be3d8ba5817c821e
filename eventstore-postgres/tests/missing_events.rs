//! Events that other software removed: they are found, and the feed stops there.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;

use common::{TestSchema, run};
use eventbus::{
    RecordedEvent,
    port::ReadFeed as _,
    testkit::event_store::{
        feed_stops_at_a_missing_event, missing_ends_of_streams_are_found, missing_events_are_found,
    },
};

async fn remove(schema: &TestSchema, event: &RecordedEvent) {
    let position = event.position().unwrap_or_default();
    run(&mut schema.connection().await, &format!("DELETE FROM events WHERE position = {position}")).await;
}

#[tokio::test]
async fn the_suite_holds_for_removed_events() {
    let schema = TestSchema::new();
    missing_events_are_found(schema.store().await, async |event| remove(&schema, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_removed_ends_of_streams() {
    let schema = TestSchema::new();
    missing_ends_of_streams_are_found(schema.store().await, async |event| remove(&schema, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_the_feed() {
    let schema = TestSchema::new();
    feed_stops_at_a_missing_event(schema.store().await, async |event| remove(&schema, event).await).await;
}

/// A search of more streams, and of a longer stream, than one statement counts leaves out no version.
#[tokio::test]
async fn a_search_of_many_statements_leaves_out_no_version() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let mut connection = schema.connection().await;
    let many = "
        INSERT INTO streams (stream_no, version, recorded_at, tenant_id, aggregate_id, aggregate_type)
        SELECT i, CASE WHEN i = 4200 THEN 210000 ELSE 2 END, now(), '00000000-0000-0000-0000-000000000000',
            'id-' || i, 'Account'
        FROM generate_series(1, 4250) i;
        INSERT INTO events (position, stream_no, version, occurred_at, recorded_at, event_id, correlation_id,
            schema_version, event_type, payload)
        SELECT row_number() OVER (), s.stream_no, v, now(), now(), gen_random_uuid(), gen_random_uuid(), 1, 'Common', '{}'
        FROM streams s, generate_series(1, s.version) v";
    run(&mut connection, many).await;
    assert_eq!(store.find_missing_event(None).await.unwrap(), None);
    // from the last one on, so that the new gap is the first
    for (stream, version) in [
        (4_201, 1),
        (4_200, 200_001),
        (4_200, 200_000),
        (4_200, 100_001),
        (4_200, 100_000),
        (4_097, 1),
        (4_096, 2),
        (1, 1),
    ] {
        run(&mut connection, &format!("DELETE FROM events WHERE stream_no = {stream} AND version = {version}")).await;
        let missing = store.find_missing_event(None).await.unwrap().unwrap();
        let aggregate_id = format!("id-{stream}");
        assert_eq!((missing.stream.aggregate_id().as_str(), missing.version.get()), (&*aggregate_id, version));
        let alone = store.find_missing_event(Some(&missing.stream)).await.unwrap();
        assert_eq!(alone, Some(missing));
    }
}
