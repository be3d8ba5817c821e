//! Snapshots that cannot be used: a read returns what it returns without them.

use eventbus::{
    ExpectedVersion, Name, RecordedEvent, Version,
    port::{AppendEvents as _, Direction, ReadError, ReadStream as _, Snapshots as _, StoredSnapshot},
};
use eventstore_redis::RedisEventStore;
use futures_util::TryStreamExt as _;
use redis::aio::MultiplexedConnection;

use crate::{
    client,
    common::{said, store},
    events, fresh, key, order, tell,
};

const FOLD: Name = Name::from_static("Balance");

fn snapshot(version: u64) -> StoredSnapshot {
    StoredSnapshot { version: version.into(), data: version.to_string().into_bytes() }
}

/// A store with five events of an order and a snapshot of it at version 3, and the key of that.
async fn with_snapshot() -> (RedisEventStore, MultiplexedConnection, String) {
    let (store, connection) = fresh().await;
    store.append(&order("1"), ExpectedVersion::NoStream, events(5)).await.unwrap();
    assert!(store.save_snapshot(&order("1"), &FOLD, &snapshot(3)).await.unwrap());
    let key = key(&store, "eventstore:snapshot:Balance:aggregate:Order:1");
    (store, connection, key)
}

async fn read(store: &RedisEventStore) -> Result<(Option<StoredSnapshot>, Vec<RecordedEvent>), ReadError> {
    let read = store.read_from_snapshot(&order("1"), &FOLD).await?;
    Ok((read.snapshot, read.events.try_collect().await?))
}

async fn plain(store: &RedisEventStore) -> Result<Vec<RecordedEvent>, ReadError> {
    store.read_stream(&order("1"), Version::FIRST, Direction::Forward).try_collect().await
}

#[tokio::test]
async fn damaged_snapshot_is_absent_until_one_replaces_it() {
    for version in ["", "-3", "0", "6", "03", "+3", "3.0", "3e0", "0x3", "three", "9223372036854775807", "1e300", "3\n"]
    {
        let (store, mut connection, key) = with_snapshot().await;
        let all = plain(&store).await.unwrap();
        tell::<u64>(&mut connection, &["HSET", &key, "version", version]).await;
        assert_eq!(read(&store).await.unwrap(), (None, all.clone()), "{version:?}");
        assert!(store.save_snapshot(&order("1"), &FOLD, &snapshot(2)).await.unwrap(), "{version:?}");
        assert_eq!(read(&store).await.unwrap(), (Some(snapshot(2)), all[2..].to_vec()), "{version:?}");
    }
    for damage in [&["HDEL", "version"][..], &["HDEL", "data"], &["SET", "text"], &["DEL"]] {
        let (store, mut connection, key) = with_snapshot().await;
        let all = plain(&store).await.unwrap();
        let command: Vec<_> = damage[..1].iter().copied().chain([&*key]).chain(damage[1..].iter().copied()).collect();
        tell::<redis::Value>(&mut connection, &command).await;
        assert_eq!(read(&store).await.unwrap(), (None, all.clone()), "{damage:?}");
        assert!(store.save_snapshot(&order("1"), &FOLD, &snapshot(4)).await.unwrap(), "{damage:?}");
        assert_eq!(read(&store).await.unwrap(), (Some(snapshot(4)), all[4..].to_vec()), "{damage:?}");
    }
}

#[tokio::test]
async fn hash_of_a_snapshot_has_the_words_of_the_tables() {
    let (_store, mut connection, key) = with_snapshot().await;
    let mut fields: Vec<String> = tell(&mut connection, &["HKEYS", &key]).await;
    fields.sort_unstable();
    assert_eq!(fields, ["data", "taken_at", "version"]);
    let taken_at: i128 = tell::<String>(&mut connection, &["HGET", &key, "taken_at"]).await.parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_micros();
    assert!(taken_at.abs_diff(now.cast_signed()) < 60_000_000, "{taken_at}");
}

#[tokio::test]
async fn missing_event_behind_a_snapshot_is_an_error_as_without_one() {
    let (store, mut connection, _) = with_snapshot().await;
    let stream = key(&store, "aggregate:Order:1");
    tell::<u64>(&mut connection, &["XDEL", &stream, "4-0"]).await;
    let wanted = said(&plain(&store).await.unwrap_err());
    assert_eq!(said(&read(&store).await.unwrap_err()), wanted);
    assert!(wanted.contains("entry 4-0"), "{wanted}");
}

#[tokio::test]
async fn key_that_is_no_stream_is_the_same_error_with_a_snapshot() {
    let (store, mut connection, _) = with_snapshot().await;
    let stream = key(&store, "aggregate:Order:1");
    tell::<redis::Value>(&mut connection, &["SET", &stream, "text"]).await;
    let (ReadError::Corrupt { place, .. }, ReadError::Corrupt { place: wanted, .. }) =
        (read(&store).await.unwrap_err(), plain(&store).await.unwrap_err())
    else {
        panic!("not corrupt");
    };
    assert_eq!(place, wanted);
    let error = store.save_snapshot(&order("1"), &FOLD, &snapshot(4)).await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn load_from_a_snapshot_is_one_script() {
    let server = eventbus_test::private_redis();
    let store = store::open(store::config_on(server.url())).await;
    let mut connection = client(server.url()).await;
    store.append(&order("1"), ExpectedVersion::NoStream, events(5)).await.unwrap();
    assert!(store.save_snapshot(&order("1"), &FOLD, &snapshot(3)).await.unwrap());
    read(&store).await.unwrap(); // the server now knows the script
    tell::<String>(&mut connection, &["CONFIG", "RESETSTAT"]).await;
    for _ in 0..10 {
        assert_eq!(read(&store).await.unwrap().0, Some(snapshot(3)));
    }
    let info: String = tell(&mut connection, &["INFO", "commandstats"]).await;
    let mut calls: Vec<_> = info.lines().filter_map(|line| line.split_once(",")).map(|(calls, _)| calls).collect();
    calls.sort_unstable();
    let wanted = ["config|resetstat:calls=1", "evalsha:calls=10", "hmget:calls=10", "xlen:calls=10", "xrange:calls=20"];
    assert_eq!(calls, wanted.map(|call| format!("cmdstat_{call}")));
}
