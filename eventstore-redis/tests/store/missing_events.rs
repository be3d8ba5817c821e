//! Events that foreign clients removed: they are found, and the feed stops there.

use eventbus::{
    RecordedEvent,
    testkit::event_store::{
        feed_stops_at_a_missing_event, missing_ends_of_streams_are_found, missing_events_are_found,
    },
};
use eventstore_redis::RedisEventStore;
use redis::aio::MultiplexedConnection;

use crate::{fresh, key, tell};

async fn remove(connection: &MultiplexedConnection, keys_of: &RedisEventStore, event: &RecordedEvent) {
    let stream = event.metadata().stream();
    let key = key(keys_of, &format!("aggregate:{}:{}", stream.aggregate_type(), stream.aggregate_id().as_str()));
    let removed: u64 = tell(&mut connection.clone(), &["XDEL", &key, &format!("{}-0", event.version())]).await;
    assert_eq!(removed, 1, "{key}");
}

#[tokio::test]
async fn the_suite_holds_for_removed_events() {
    let (store, connection) = fresh().await;
    missing_events_are_found(store.clone(), async |event| remove(&connection, &store, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_removed_ends_of_streams() {
    let (store, connection) = fresh().await;
    missing_ends_of_streams_are_found(store.clone(), async |event| remove(&connection, &store, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_the_feed() {
    let (store, connection) = fresh().await;
    feed_stops_at_a_missing_event(store.clone(), async |event| remove(&connection, &store, event).await).await;
}
