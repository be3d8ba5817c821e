//! Foreign writes to the store's keys, and removals, are errors that name key and entry.

use std::collections::BTreeSet;

use eventbus::{
    ExpectedVersion, Position, RecordedEvent, StreamId, Version,
    port::{
        AppendError, AppendEvents as _, Checkpoints as _, Direction, ReadError, ReadFeed as _, ReadStream as _,
        listings::{Listings as _, StreamFilter},
    },
};
use eventstore_redis::RedisEventStore;
use futures_util::TryStreamExt as _;
use redis::aio::MultiplexedConnection;

use crate::{
    append::{append, together},
    common::said,
    event, events, fresh, key, order, tell,
};

/// A store with three events of an order and one of a second order, and the names of its streams.
async fn filled() -> (RedisEventStore, MultiplexedConnection, String, String) {
    let (store, connection) = fresh().await;
    store.append(&order("1"), ExpectedVersion::NoStream, events(3)).await.unwrap();
    store.append(&order("2"), ExpectedVersion::NoStream, events(1)).await.unwrap();
    let (stream, feed) = (key(&store, "aggregate:Order:1"), key(&store, "aggregate:feed"));
    (store, connection, stream, feed)
}

fn place(error: &ReadError) -> &str {
    match error {
        ReadError::Corrupt { place, .. } => place,
        other => panic!("{other:?}"),
    }
}

async fn read(store: &RedisEventStore, direction: Direction) -> Result<Vec<RecordedEvent>, ReadError> {
    let from = if direction == Direction::Forward { Version::FIRST } else { Version::MAX };
    store.read_stream(&order("1"), from, direction).try_collect().await
}

async fn feed(store: &RedisEventStore) -> Result<Vec<RecordedEvent>, ReadError> {
    store.read_feed(Position::START, Position::new(u64::MAX), &eventbus::port::FeedFilter::all()).try_collect().await
}

async fn refused(store: &RedisEventStore, place: &str) {
    let error = store.append(&order("1"), ExpectedVersion::Any, vec![event(9)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }) && !error.is_retryable(), "{error:?}");
    assert!(said(&error).contains(place), "{}", said(&error));
}

#[tokio::test]
async fn an_entry_of_the_tutorials_own_code_is_named_by_whoever_meets_it() {
    let (store, mut connection, stream, feed_key) = filled().await;
    let words = ["XADD", &stream, "*", "type", "OrderPaid", "data", "{}", "timestamp", "1706185200000"];
    let foreign: String = tell(&mut connection, &words).await;
    let place_of_it = format!("key `{stream}`, entry {foreign}");
    for direction in [Direction::Forward, Direction::Backward] {
        assert_eq!(place(&read(&store, direction).await.unwrap_err()), place_of_it);
    }
    assert_eq!(place(&store.stream_version(&order("1")).await.unwrap_err()), place_of_it);
    refused(&store, &place_of_it).await;
    assert_eq!(feed(&store).await.unwrap().len(), 4, "the feed knows nothing of it");
    assert_eq!(store.append(&order("2"), ExpectedVersion::Any, vec![event(9)]).await.unwrap()[0].version(), 2_u64);

    let foreign: String = tell(&mut connection, &["XADD", &feed_key, "*", "a", "b"]).await;
    let place_of_it = format!("key `{feed_key}`, entry {foreign}");
    assert_eq!(place(&feed(&store).await.unwrap_err()), place_of_it);
    assert_eq!(place(&store.head().await.unwrap_err()), place_of_it);
    refused(&store, &place_of_it).await;
}

#[tokio::test]
async fn a_foreign_entry_in_the_way_of_the_next_version_is_refused_before_anything_is_written() {
    let (store, mut connection, stream, feed_key) = filled().await;
    // the fourth version was stored and is removed: the server accepts its id no more
    tell::<String>(&mut connection, &["XADD", &stream, "4-0", "a", "b"]).await;
    tell::<u64>(&mut connection, &["XDEL", &stream, "4-0"]).await;
    refused(&store, "equal or smaller").await;
    let length: u64 = tell(&mut connection, &["XLEN", &feed_key]).await;
    assert_eq!(length, 4, "nothing was half written");
    // the same with the feed
    tell::<String>(&mut connection, &["XADD", &feed_key, "5-0", "a", "b"]).await;
    tell::<u64>(&mut connection, &["XDEL", &feed_key, "5-0"]).await;
    let error = store.append(&order("3"), ExpectedVersion::Any, vec![event(9)]).await.unwrap_err();
    assert!(said(&error).contains(&format!("key `{feed_key}`, entry 5-0")), "{}", said(&error));
    assert_eq!(store.stream_version(&order("3")).await.unwrap(), Version::NONE);
    let stream = order("2");
    assert!(store.append(&stream, ExpectedVersion::Any, events(2)).await.is_err());
    // after the repair, the store appends again
    tell::<String>(&mut connection, &["XSETID", &feed_key, "4-0"]).await;
    store.append(&stream, ExpectedVersion::Exact(1.into()), events(2)).await.unwrap();
    assert_eq!(feed(&store).await.unwrap().len(), 6);
}

#[tokio::test]
async fn what_was_removed_is_missed() {
    let (store, mut connection, stream, feed_key) = filled().await;
    tell::<u64>(&mut connection, &["XDEL", &stream, "2-0"]).await;
    let missing = format!("key `{stream}`, entry 2-0");
    for direction in [Direction::Forward, Direction::Backward] {
        assert_eq!(place(&read(&store, direction).await.unwrap_err()), missing);
    }
    assert_eq!(place(&feed(&store).await.unwrap_err()), missing);
    refused(&store, &format!("key `{stream}`, entry 3-0")).await;
    tell::<u64>(&mut connection, &["XDEL", &feed_key, "1-0"]).await;
    let error = feed(&store).await.unwrap_err();
    assert_eq!(place(&error), format!("key `{feed_key}`, entry 2-0"));
    assert!(said(&error).contains("entry 1-0 is missing"), "{}", said(&error));
}

/// A removed feed must not lead to reused positions, nor a removed index to events stored twice.
#[tokio::test]
async fn a_feed_or_an_index_that_is_gone_takes_no_appends() {
    for (name, entry) in [("aggregate:feed", "eventstore:ids`, entry 4 of 0"), ("eventstore:ids", "entry 0 of 4")] {
        let (store, mut connection, ..) = filled().await;
        tell::<u64>(&mut connection, &["DEL", &key(&store, name)]).await;
        refused(&store, entry).await;
        let head: u64 = tell(&mut connection, &["XLEN", &key(&store, "aggregate:Order:1")]).await;
        assert_eq!(head, 3, "nothing was written");
    }
}

#[tokio::test]
async fn damaged_fields_are_named() {
    for (field, value) in [
        ("event_id", "no id"),
        ("timestamp", "yesterday"),
        ("micros", ""),
        ("schema_version", "-1"),
        ("schema_version", "0"),
        ("position", "x"),
        ("correlation_id", "?"),
        ("attributes", "[1]"),
        ("recorded_at", "x"),
        ("original_recorded_at", "today"),
        ("data", "{"),
        ("type", ""),
        ("timestamp", "99999999999999999999999999999999"),
    ] {
        let (store, mut connection, stream, _) = filled().await;
        let mut entries: Vec<(String, Vec<String>)> = tell(&mut connection, &["XRANGE", &stream, "-", "+"]).await;
        tell::<u64>(&mut connection, &["DEL", &stream]).await;
        let fields = &mut entries[1].1;
        match fields.iter().position(|name| name == field) {
            Some(at) => fields[at + 1] = value.into(),
            None => fields.extend([field.into(), value.into()]),
        }
        for (id, fields) in &entries {
            let mut words = vec!["XADD", stream.as_str(), id];
            words.extend(fields.iter().map(String::as_str));
            tell::<String>(&mut connection, &words).await;
        }
        let error = read(&store, Direction::Forward).await.unwrap_err();
        assert_eq!(place(&error), format!("key `{stream}`, entry 2-0"), "{field}");
        assert!(feed(&store).await.is_err(), "{field}");
    }
}

#[tokio::test]
async fn keys_of_another_kind_are_errors_and_nothing_is_written() {
    let (store, mut connection, _, feed_key) = filled().await;
    let taken = key(&store, "aggregate:Order:3");
    tell::<String>(&mut connection, &["SET", &taken, "mine"]).await;
    let appends = ["4", "3", "5"].map(|id| eventbus::port::Append {
        stream: order(id),
        expected: ExpectedVersion::Any,
        events: events(2),
    });
    let results = store.append_many(appends.into()).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    let error = results[1].as_ref().unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }) && said(error).contains("WRONGTYPE"), "{error:?}");
    assert_eq!(place(&store.stream_version(&order("3")).await.unwrap_err()), format!("key `{taken}`"));
    assert_eq!(feed(&store).await.unwrap().len(), 8);

    let ids = key(&store, "eventstore:ids");
    tell::<String>(&mut connection, &["SET", &ids, "mine"]).await;
    let error = store.append(&order("6"), ExpectedVersion::Any, events(1)).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
    let length: u64 = tell(&mut connection, &["XLEN", &feed_key]).await;
    assert_eq!(length, 8);
}

#[tokio::test]
async fn a_checkpoint_of_the_tutorial_is_no_position_and_named() {
    let (store, mut connection) = fresh().await;
    let name = eventbus::Name::from_static("projection:order-stats");
    let checkpoint = key(&store, "projection:order-stats:checkpoint");
    tell::<String>(&mut connection, &["SET", &checkpoint, "1706185200000-0"]).await;
    let error = store.load_checkpoint(&name).await.unwrap_err();
    assert!(said(&error).contains(&checkpoint), "{}", said(&error));
    store.save_checkpoint(&name, 7.into()).await.unwrap();
    assert_eq!(tell::<String>(&mut connection, &["GET", &checkpoint]).await, "7");
}

#[tokio::test]
async fn a_server_without_memory_stores_all_of_an_append_or_nothing() {
    let server = eventbus_test::private_redis();
    let store = crate::common::store::open(crate::common::store::config_on(server.url())).await;
    let mut connection = crate::client(server.url()).await;
    tell::<String>(&mut connection, &["CONFIG", "SET", "maxmemory", "3mb"]).await;
    let mut stored = 0;
    let error = loop {
        match store.append(&order("1"), ExpectedVersion::Any, events(20)).await {
            Ok(events) => stored += events.len(),
            Err(error) => break error,
        }
        assert!(stored < 100_000, "the memory has no end");
    };
    assert!(matches!(error, AppendError::Unavailable(_)), "{error:?}");
    tell::<String>(&mut connection, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = together(&store, ["2", "3"].map(|id| append(id, ExpectedVersion::Any, events(1)))).await.unwrap_err();
    assert!(matches!(error, AppendError::Unavailable(_)), "{error:?}");
    assert_eq!(feed(&store).await.unwrap().len(), stored);
    assert_eq!(read(&store, Direction::Forward).await.unwrap().len(), stored);
    tell::<String>(&mut connection, &["CONFIG", "SET", "maxmemory", "0"]).await;
    store.append(&order("1"), ExpectedVersion::Exact((stored as u64).into()), events(1)).await.unwrap();
}

/// The store drops its connections: the name may lead to the new master by now.
#[tokio::test]
async fn a_server_that_is_a_replica_now_is_unavailable_and_left() {
    let server = eventbus_test::private_redis();
    let store = crate::common::store::open(crate::common::store::config_on(server.url())).await;
    let mut connection = crate::client(server.url()).await;
    store.append(&order("1"), ExpectedVersion::Any, events(1)).await.unwrap();
    let others = async |connection: &mut MultiplexedConnection| -> Vec<String> {
        let own: u64 = tell(connection, &["CLIENT", "ID"]).await;
        let all: String = tell(connection, &["CLIENT", "LIST", "TYPE", "normal"]).await;
        let id = |line: &str| line.split(' ').next().unwrap().to_owned();
        all.lines().map(id).filter(|id| *id != format!("id={own}")).collect()
    };
    let port = eventbus_test::internal::closed_port().to_string();
    tell::<String>(&mut connection, &["REPLICAOF", "127.0.0.1", &port]).await;
    for is_each in [true, false] {
        let before = others(&mut connection).await;
        if is_each {
            let results = ["1", "2"].map(|id| eventbus::port::Append {
                stream: order(id),
                expected: ExpectedVersion::Any,
                events: events(1),
            });
            for result in store.append_many(results.into()).await {
                let error = result.unwrap_err();
                assert!(
                    matches!(error, AppendError::Unavailable(_)) && said(&error).contains("read only"),
                    "{error:?}"
                );
            }
        } else {
            let appends = ["1", "2"].map(|id| append(id, ExpectedVersion::Any, events(1)));
            let error = together(&store, appends).await.unwrap_err();
            assert!(matches!(error, AppendError::Unavailable(_)), "{error:?}");
        }
        store.head().await.unwrap();
        // the server closes the one that was left when it notices
        let left = async { while others(&mut connection).await.iter().any(|id| before.contains(id)) {} };
        tokio::time::timeout(std::time::Duration::from_secs(60), left).await.expect("the connection is still open");
    }
    tell::<String>(&mut connection, &["REPLICAOF", "NO", "ONE"]).await;
    store.append(&order("1"), ExpectedVersion::Exact(1.into()), events(1)).await.unwrap();
}

/// The streams of all pages of the list.
async fn listed(store: &RedisEventStore) -> BTreeSet<StreamId> {
    let (mut found, mut after) = (BTreeSet::new(), None);
    loop {
        let page = store.list_streams(&StreamFilter::default(), after.as_ref(), 10).await.unwrap();
        found.extend(page.items.into_iter().map(|item| item.stream));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

/// A foreign program in the same database may give its keys any bytes.
#[tokio::test]
async fn a_foreign_key_that_is_no_text_keeps_no_stream_from_the_list() {
    let (store, mut connection, ..) = filled().await;
    let foreign = [key(&store, "").as_bytes(), b"\xff"].concat();
    redis::cmd("SET").arg(foreign).arg("1").exec_async(&mut connection).await.unwrap();
    assert_eq!(listed(&store).await, BTreeSet::from([order("1"), order("2")]));
}

#[tokio::test]
async fn a_foreign_key_that_is_no_stream_keeps_no_stream_from_the_list() {
    let (store, mut connection, ..) = filled().await;
    tell::<String>(&mut connection, &["SET", &key(&store, "aggregate:Order:3"), "1"]).await;
    tell::<u64>(&mut connection, &["HSET", &key(&store, "aggregate:Order:4:stream"), "n", "1"]).await;
    assert_eq!(listed(&store).await, BTreeSet::from([order("1"), order("2")]));
}
