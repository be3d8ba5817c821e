//! Events that foreign clients removed: they are found, and the feed stops there.

use std::time::Duration;

use eventbus::{
    ExpectedVersion, NewEvent, Position, RecordedEvent,
    port::{AppendEvents as _, MissingEvent},
    prelude::*,
    projection::{RebuildError, Rebuilt},
    testkit::event_store::{
        feed_stops_at_a_missing_event, filtered_feed_omits_a_missing_event, missing_ends_of_streams_are_found,
        missing_event_fails_at_its_position, missing_events_are_found,
    },
};
use eventstore_redis::RedisEventStore;
use redis::aio::MultiplexedConnection;

use crate::{fresh, key, order, tell};

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

#[tokio::test]
async fn the_suite_holds_for_the_filtered_feed() {
    let (store, connection) = fresh().await;
    filtered_feed_omits_a_missing_event(store.clone(), async |event| remove(&connection, &store, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_events_at_positions() {
    let (store, connection) = fresh().await;
    missing_event_fails_at_its_position(store.clone(), async |event| {
        remove(&connection, &store, event).await;
    })
    .await;
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Paid {
    cents: i64,
}

#[derive(Default)]
struct InMemory(Vec<i64>);

#[projection(name = "in-memory", manual)]
impl InMemory {
    fn paid(&mut self, event: &Paid) {
        self.0.push(event.cents);
    }
}

fn check_refusal(refused: Result<Rebuilt, RebuildError>, wanted: &MissingEvent) {
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, RebuildError::MissingEvent { missing, .. } if missing == wanted), "{refused:?}");
}

async fn check_unchanged(app: &App) {
    assert_eq!(app.projected::<InMemory>(Position::new(5)).await.unwrap().0, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_rebuild_refuses_a_store_with_a_missing_event_and_leaves_everything_as_it_was() {
    let (store, mut connection) = fresh().await;
    for (id, cents) in [("1", 1), ("1", 2), ("2", 3), ("1", 4), ("2", 5)] {
        let event = NewEvent::from_event(&Paid { cents }).unwrap();
        store.append(&order(id), ExpectedVersion::Any, vec![event]).await.unwrap();
    }
    let app = App::builder().store(store.clone()).projection_with(InMemory::default);
    let app = app.without_relay().start().await.unwrap();
    check_unchanged(&app).await;
    let stream = key(&store, "aggregate:Order:1");
    let entries: Vec<(String, Vec<String>)> = tell(&mut connection, &["XRANGE", &stream, "-", "+"]).await;
    tell::<u64>(&mut connection, &["XDEL", &stream, "2-0"]).await;
    let missing = MissingEvent { stream: order("1"), version: 2.into() };
    check_refusal(app.rebuild::<InMemory>().await, &missing);
    check_unchanged(&app).await;

    // an entry can only be added at the end
    tell::<u64>(&mut connection, &["DEL", &stream]).await;
    for (id, fields) in &entries {
        let words = ["XADD", &stream, id].into_iter().chain(fields.iter().map(String::as_str));
        tell::<String>(&mut connection, &words.collect::<Vec<_>>()).await;
    }
    assert_eq!(app.rebuild::<InMemory>().await.unwrap().events, 5);
    check_unchanged(&app).await;
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}
