//! Events that foreign clients removed: they are found, and the feed stops there.

use std::{collections::BTreeMap, time::Duration};

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
use eventstore_redis::{RedisEventStore, RedisTransaction, RedisTransactionError};
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

struct Rows;

#[projection(name = "rows", manual, tables("paid:*"), key = "key")]
impl Rows {
    async fn paid(
        &self,
        event: &Paid,
        meta: &Metadata,
        tx: &mut RedisTransaction,
    ) -> Result<(), RedisTransactionError> {
        tx.hincrby(&format!("paid:{}", meta.aggregate_id()), "cents", event.cents)
    }
}

fn check_refusal(refused: Result<Rebuilt, RebuildError>, wanted: &MissingEvent) {
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, RebuildError::MissingEvent { missing, .. } if missing == wanted), "{refused:?}");
}

async fn check_unchanged(app: &App, store: &RedisEventStore, connection: &mut MultiplexedConnection) {
    let last = Position::new(5);
    assert_eq!(app.projected::<InMemory>(last).await.unwrap().0, [1, 2, 3, 4, 5]);
    drop(app.projected::<Rows>(last).await.unwrap());
    for (id, cents) in [("1", 7), ("2", 8)] {
        let row: BTreeMap<String, i64> = tell(connection, &["HGETALL", &key(store, &format!("paid:{id}"))]).await;
        assert_eq!(row, BTreeMap::from([("cents".to_owned(), cents)]), "{id}");
    }
}

#[tokio::test]
async fn a_rebuild_refuses_a_store_with_a_missing_event_and_leaves_everything_as_it_was() {
    let (store, mut connection) = fresh().await;
    for (id, cents) in [("1", 1), ("1", 2), ("2", 3), ("1", 4), ("2", 5)] {
        let event = NewEvent::from_event(&Paid { cents }).unwrap();
        store.append(&order(id), ExpectedVersion::Any, vec![event]).await.unwrap();
    }
    let app = App::builder().store(store.clone()).projection_with(InMemory::default).projection(Rows);
    let app = app.without_relay().start().await.unwrap();
    check_unchanged(&app, &store, &mut connection).await;
    let stream = key(&store, "aggregate:Order:1");
    let entries: Vec<(String, Vec<String>)> = tell(&mut connection, &["XRANGE", &stream, "-", "+"]).await;
    tell::<u64>(&mut connection, &["XDEL", &stream, "2-0"]).await;
    let missing = MissingEvent { stream: order("1"), version: 2.into() };
    check_refusal(app.rebuild::<InMemory>().await, &missing);
    check_refusal(app.rebuild::<Rows>().await, &missing);
    check_refusal(app.rebuild_aggregate::<Rows>(&order("1")).await, &missing);
    check_unchanged(&app, &store, &mut connection).await;
    let of_another = app.rebuild_aggregate::<Rows>(&order("2")).await.unwrap();
    assert_eq!(of_another.events, 2, "no event of this aggregate is missing");

    // an entry can only be added behind all others
    tell::<u64>(&mut connection, &["DEL", &stream]).await;
    for (id, fields) in &entries {
        let words = ["XADD", &stream, id].into_iter().chain(fields.iter().map(String::as_str));
        tell::<String>(&mut connection, &words.collect::<Vec<_>>()).await;
    }
    assert_eq!(app.rebuild::<InMemory>().await.unwrap().events, 5);
    assert_eq!(app.rebuild::<Rows>().await.unwrap().events, 5);
    assert_eq!(app.rebuild_aggregate::<Rows>(&order("1")).await.unwrap().events, 3);
    check_unchanged(&app, &store, &mut connection).await;
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}
