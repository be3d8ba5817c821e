//! Each read has limits in events and in bytes.

use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, Version,
    port::{AppendEvents as _, Direction, FeedFilter, ReadFeed as _, ReadStream as _},
};
use eventbus_test::PrivateRedis;
use eventstore_redis::RedisEventStore;
use futures_util::TryStreamExt as _;
use redis::aio::MultiplexedConnection;

use crate::{
    client,
    common::store::{config_on, open},
    event, events, fresh, key, order, tell,
};

const MIB: usize = 1024 * 1024;

fn of_bytes(bytes: usize) -> NewEvent {
    NewEvent::new(Name::from_static("Paid"), 1, format!("{{{}}}", " ".repeat(bytes)))
}

/// Returns a store on a server that closes a connection that has to receive more than 12 MiB at once.
async fn on_limited_server() -> (PrivateRedis, RedisEventStore, MultiplexedConnection) {
    let server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    let mut connection = client(server.url()).await;
    let limit = "normal 12582912 0 0";
    tell::<String>(&mut connection, &["CONFIG", "SET", "client-output-buffer-limit", limit]).await;
    (server, store, connection)
}

#[tokio::test]
async fn large_events_are_read_in_small_pages() {
    let (_server, store, _) = on_limited_server().await;
    let stream = order("1");
    let mut last = Vec::new();
    for bytes in [1, MIB, 8 * MIB, MIB] {
        last = (0..24).map(|_| of_bytes(if bytes == 8 * MIB { 1 } else { bytes })).collect();
        last.push(of_bytes(bytes));
        store.append(&stream, ExpectedVersion::Any, last.clone()).await.unwrap();
    }
    for (from, direction) in [(Version::FIRST, Direction::Forward), (Version::MAX, Direction::Backward)] {
        let all: Vec<_> = store.read_stream(&stream, from, direction).try_collect().await.unwrap();
        let mut versions: Vec<_> = all.iter().map(|event| event.version().get()).collect();
        versions.sort_unstable();
        assert_eq!(versions, (1..=100).collect::<Vec<_>>());
    }
    let filter = FeedFilter::all().event_types([Name::from_static("Paid")]);
    for filter in [FeedFilter::all(), filter] {
        let head = store.head().await.unwrap();
        let all: Vec<_> = store.read_feed(Position::START, head, &filter).try_collect().await.unwrap();
        let positions: Vec<_> = all.iter().map(|event| event.position().unwrap().get()).collect();
        assert_eq!(positions, (1..=100).collect::<Vec<_>>());
    }
    let again = store.append(&stream, ExpectedVersion::Any, last).await.unwrap();
    assert_eq!((again.len(), again[24].version().get()), (25, 100));
    assert_eq!(store.stream_version(&stream).await.unwrap(), 100_u64);
}

/// The search reads 22 events of 1 MiB.
#[tokio::test]
async fn a_missing_event_among_large_ones_is_found_in_small_pages() {
    let (_server, store, mut connection) = on_limited_server().await;
    let stream = order("1");
    let large = (0..24).map(|_| of_bytes(MIB)).collect();
    store.append(&stream, ExpectedVersion::Any, large).await.unwrap();
    tell::<u64>(&mut connection, &["XDEL", &key(&store, "aggregate:Order:1"), "23-0"]).await;
    let missing = store.find_missing_event(Some(&stream)).await.unwrap().unwrap();
    assert_eq!((missing.stream, missing.version.get()), (stream, 23));
}

#[tokio::test]
async fn pages_end_where_events_do() {
    let (store, _) = fresh().await;
    for count in [15, 16, 17, 255, 256, 257, 272] {
        let stream = order(&count.to_string());
        store.append(&stream, ExpectedVersion::Any, events(count)).await.unwrap();
        for (from, direction) in [(Version::FIRST, Direction::Forward), (Version::MAX, Direction::Backward)] {
            let all: Vec<_> = store.read_stream(&stream, from, direction).try_collect().await.unwrap();
            assert_eq!(all.len() as u64, count);
        }
        let past: Vec<_> =
            store.read_stream(&stream, Version::new(count + 1), Direction::Forward).try_collect().await.unwrap();
        assert!(past.is_empty());
        store.append(&stream, ExpectedVersion::Exact(count.into()), vec![event(1)]).await.unwrap();
    }
}
