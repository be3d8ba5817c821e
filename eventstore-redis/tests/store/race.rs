//! Two concurrent writers: the tutorial's two steps accept both, one script accepts one.

use eventbus::{
    ExpectedVersion,
    port::{AppendError, AppendEvents as _, ReadStream as _},
};
use redis::aio::MultiplexedConnection;

use crate::{client, common, event, fresh, key, order, tell};

/// The first step of the tutorial's `append_event`: ask for the length, and compare.
async fn is_expected(connection: &mut MultiplexedConnection, stream: &str, expected: u64) -> bool {
    tell::<u64>(connection, &["XLEN", stream]).await == expected
}

/// Its second step.
async fn add(connection: &mut MultiplexedConnection, stream: &str, kind: &str) -> String {
    tell(connection, &["XADD", stream, "*", "type", kind, "data", "{}", "timestamp", "1706185200000"]).await
}

#[tokio::test]
async fn length_then_add_lets_two_writers_through() {
    let stream = eventbus_test::unique_name("aggregate:order");
    let mut ada = client(eventbus_test::redis_url()).await;
    let mut bob = client(eventbus_test::redis_url()).await;
    add(&mut ada, &stream, "OrderCreated").await;
    // each writer decides on the version that it has loaded: 1
    assert!(is_expected(&mut ada, &stream, 1).await);
    assert!(is_expected(&mut bob, &stream, 1).await);
    add(&mut ada, &stream, "OrderPaid").await;
    add(&mut bob, &stream, "OrderCancelled").await;
    let length: u64 = tell(&mut ada, &["XLEN", &stream]).await;
    assert_eq!(length, 3, "both were let through: an order that is paid and cancelled at version 2");
}

#[tokio::test]
async fn of_two_writers_at_one_version_the_second_is_told_of_the_conflict() {
    let (ada, _) = fresh().await;
    let bob = common::store::open(ada.config().clone()).await;
    let stream = order("12345");
    ada.append(&stream, ExpectedVersion::NoStream, vec![event(1)]).await.unwrap();
    // each writer decides on the version that it has loaded
    let seen_by_ada = ada.stream_version(&stream).await.unwrap();
    let seen_by_bob = bob.stream_version(&stream).await.unwrap();
    ada.append(&stream, ExpectedVersion::Exact(seen_by_ada), vec![event(2)]).await.unwrap();
    let refused = bob.append(&stream, ExpectedVersion::Exact(seen_by_bob), vec![event(3)]).await.unwrap_err();
    assert!(matches!(&refused, AppendError::Conflict { actual, .. } if actual.get() == 2), "{refused:?}");
    assert_eq!(bob.stream_version(&stream).await.unwrap(), 2_u64);
}

#[tokio::test]
async fn keys_and_fields_are_those_of_the_tutorial() {
    let (store, mut connection) = fresh().await;
    store.append(&order("12345"), ExpectedVersion::NoStream, vec![event(120)]).await.unwrap();
    let stream = key(&store, "aggregate:Order:12345");
    let entries: Vec<(String, Vec<String>)> = tell(&mut connection, &["XRANGE", &stream, "-", "+"]).await;
    let (id, fields) = &entries[0];
    assert_eq!(id, "1-0");
    let [kind, timestamp, data] = [0, 1, 2].map(|i| (fields[2 * i].as_str(), fields[2 * i + 1].as_str()));
    assert_eq!((kind, timestamp.0, data), (("type", "Paid"), "timestamp", ("data", r#"{"cents":120}"#)));
    let now: Vec<u64> = tell(&mut connection, &["TIME"]).await;
    let timestamp: u64 = timestamp.1.parse().unwrap();
    assert!(timestamp.abs_diff(now[0] * 1_000) < 60_000, "milliseconds since 1970: {timestamp}");
    let length: u64 = tell(&mut connection, &["XLEN", &stream]).await;
    assert_eq!(length, store.stream_version(&order("12345")).await.unwrap().get(), "`get_version` of the tutorial");
}
