//! Events appended in a transaction are stored with all its effects, or not at all.

use std::time::Duration;

use eventbus::{
    EventId, ExpectedVersion, Name, NewEvent, Position, RecordedEvent,
    event::UniqueChange,
    port::{
        Append, AppendError, AppendEvents as _, EventTypes as _, ReadFeed as _, ReadStream as _, Shadow,
        Transaction as _, Transactions as _,
    },
    store::{UniqueKey, UniqueValues as _},
};
use eventstore_redis::{RedisEventStore, RedisTransaction, RedisTransactionError as Error};
use futures_util::TryStreamExt as _;

use crate::{
    common::{
        proxy::{Network, Proxy},
        said, until,
    },
    event, events, fresh, key, order, tell,
};

use ExpectedVersion::{Any, Exact, NoStream, StreamExists};

async fn feed(store: &RedisEventStore) -> Vec<RecordedEvent> {
    store.read_all(Position::START).try_collect().await.unwrap()
}

/// Streams and versions in the order of the feed, whose positions have no gaps.
async fn places(store: &RedisEventStore) -> Vec<(String, u64)> {
    let feed = feed(store).await;
    assert!(feed.iter().zip(1_u64..).all(|(event, position)| event.position().unwrap() == position));
    feed.iter().map(|event| (event.metadata().aggregate_id().to_string(), event.version().get())).collect()
}

fn ids(events: &[NewEvent]) -> Vec<EventId> {
    events.iter().map(NewEvent::event_id).collect()
}

#[tokio::test]
async fn events_and_effects_are_there_together() {
    let (store, mut connection) = fresh().await;
    store.append(&order("1"), NoStream, events(2)).await.unwrap();
    let mut tx = store.begin_transaction();
    tx.hincrby("stats", "orders", 1).unwrap();
    let appended = store.append_in(&mut tx, &order("1"), Exact(2.into()), events(2)).await.unwrap();
    assert_eq!(appended.iter().map(|event| event.version().get()).collect::<Vec<_>>(), [3, 4]);
    assert!(appended.iter().all(|event| event.position().is_none()), "the commit gives positions");
    store.append_in(&mut tx, &order("2"), NoStream, events(1)).await.unwrap();
    // the transaction reads its own events
    store.append_in(&mut tx, &order("1"), Exact(4.into()), events(1)).await.unwrap();
    let conflict = store.append_in(&mut tx, &order("2"), NoStream, events(1)).await.unwrap_err();
    assert!(matches!(&conflict, AppendError::Conflict { actual, .. } if *actual == 1_u64), "{conflict:?}");
    assert!(store.append_in(&mut tx, &order("3"), StreamExists, Vec::new()).await.unwrap().is_empty());
    assert_eq!(store.head().await.unwrap(), 2_u64, "nothing is written before the commit");
    let mut watch = store.appended().watch();
    tx.commit().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), watch.appended()).await.expect("readers are woken");
    let wanted =
        [("1", 1), ("1", 2), ("1", 3), ("1", 4), ("2", 1), ("1", 5)].map(|(id, version)| (id.to_owned(), version));
    assert_eq!(places(&store).await, wanted);
    assert_eq!(tell::<u64>(&mut connection, &["HGET", &key(&store, "stats"), "orders"]).await, 1);

    let mut dropped = store.begin_transaction();
    store.append_in(&mut dropped, &order("1"), Any, events(1)).await.unwrap();
    drop(dropped);
    assert_eq!(store.stream_version(&order("1")).await.unwrap(), 5_u64);
    store.append(&order("1"), Exact(5.into()), events(1)).await.unwrap();
}

#[tokio::test]
async fn whoever_appends_first_wins() {
    let (store, mut connection) = fresh().await;
    for (other, is_changed) in [("1", true), ("2", false)] {
        let mut tx = store.begin_transaction();
        tx.hincrby("stats", "orders", 1).unwrap();
        store.append_in(&mut tx, &order("1"), Any, events(1)).await.unwrap();
        store.append(&order(other), Any, events(1)).await.unwrap();
        let head = store.head().await.unwrap();
        match tx.commit().await {
            Err(Error::Changed { key: named }) => {
                assert!(is_changed && named == key(&store, "aggregate:Order:1"), "{named}");
                assert_eq!(store.head().await.unwrap(), head);
                assert_eq!(tell::<u64>(&mut connection, &["EXISTS", &key(&store, "stats")]).await, 0);
            }
            committed => assert!(!is_changed && committed.is_ok(), "{committed:?}"),
        }
    }
    assert_eq!(places(&store).await.len(), 3);
    // the same events, by a caller that repeats an append whose answer was lost
    let given = events(2);
    let mut tx = store.begin_transaction();
    store.append_in(&mut tx, &order("3"), Any, given.clone()).await.unwrap();
    store.append(&order("3"), Any, given).await.unwrap();
    assert!(matches!(tx.commit().await.unwrap_err(), Error::Changed { .. }));
    assert_eq!(store.stream_version(&order("3")).await.unwrap(), 2_u64);
}

#[tokio::test]
async fn what_is_refused_undoes_events_and_effects() {
    let (store, mut connection) = fresh().await;
    store.append(&order("1"), NoStream, events(2)).await.unwrap();
    tell::<String>(&mut connection, &["SET", &key(&store, "text"), "old"]).await;
    let stream = key(&store, "aggregate:Order:3");
    // a foreign entry was at the place of the first version, and is removed
    tell::<String>(&mut connection, &["XADD", &stream, "1-0", "a", "b"]).await;
    tell::<u64>(&mut connection, &["XDEL", &stream, "1-0"]).await;
    for (command, named) in [("HINCRBY", key(&store, "text")), ("XADD", stream)] {
        let mut tx = store.begin_transaction();
        tx.set("fresh", 1).unwrap();
        tx.set("other", 1).unwrap();
        if command == "HINCRBY" {
            tx.hincrby("text", "field", 1).unwrap();
        }
        for id in ["1", "2", "1", "3"] {
            store.append_in(&mut tx, &order(id), Any, events(2)).await.unwrap();
        }
        let error = tx.commit().await.unwrap_err();
        assert!(
            matches!(&error, Error::EffectRefused { command: is, key, .. } if is == command && *key == named),
            "{error:?}"
        );
        assert_eq!(places(&store).await.len(), 2);
        let exist = ["EXISTS", &key(&store, "fresh"), &key(&store, "other"), &key(&store, "aggregate:Order:2")];
        assert_eq!(tell::<u64>(&mut connection, &exist).await, 0, "{command}");
    }
    // the undo leaves no trace: their next versions are free
    store.append(&order("1"), Exact(2.into()), events(1)).await.unwrap();
    store.append(&order("2"), NoStream, events(1)).await.unwrap();
    tell::<u64>(&mut connection, &["XDEL", &key(&store, "aggregate:feed"), "1-0"]).await;
    let mut tx = store.begin_transaction();
    store.append_in(&mut tx, &order("2"), Any, events(1)).await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(said(&error).contains("aggregate:feed"), "{}", said(&error));
}

/// The value of the first name is given back in the plan when the second name cannot be read.
#[tokio::test]
async fn an_append_that_cannot_read_a_value_gives_back_none() {
    let (store, mut connection) = fresh().await;
    let holding = |name, value: &str| UniqueChange::new(Name::from_static(name), Some(value.into())).unwrap();
    let first = event(1).with_unique(vec![holding("email", "a@x")]);
    store.append(&order("1"), NoStream, vec![first]).await.unwrap();
    let keys: Vec<String> = tell(&mut connection, &["KEYS", &key(&store, "*unique_values*")]).await;
    tell::<String>(&mut connection, &["SET", &keys[0].replace("email", "name"), "foreign"]).await;
    let mut tx = store.begin_transaction();
    tx.set("fresh", 1).unwrap();
    let second = event(1).with_unique(vec![holding("email", "b@x"), holding("name", "Ada")]);
    store.append_in(&mut tx, &order("1"), Any, vec![second]).await.unwrap_err();
    tx.commit().await.unwrap();
    let held = UniqueKey::taken_by(&order("1"), &holding("email", "a@x")).unwrap();
    assert_eq!(store.find_holder(&held).await.unwrap(), Some(order("1")));
    assert_eq!(store.stream_version(&order("1")).await.unwrap(), 1_u64);
}

#[tokio::test]
async fn events_that_are_stored_are_not_stored_again() {
    let (store, _) = fresh().await;
    let given = events(2);
    for _ in 0..2 {
        let mut tx = store.begin_transaction();
        for _ in 0..2 {
            let appended = store.append_in(&mut tx, &order("1"), NoStream, given.clone()).await.unwrap();
            let appended: Vec<_> = appended.iter().map(|event| event.metadata().event_id()).collect();
            assert_eq!(appended, ids(&given));
        }
        tx.commit().await.unwrap();
    }
    assert_eq!(feed(&store).await.len(), 2);
    let mut tx = store.begin_transaction();
    let fresh = event(1);
    store.append_in(&mut tx, &order("2"), Any, vec![fresh.clone()]).await.unwrap();
    for (stream, events) in [("1", vec![given[0].clone(), event(2)]), ("2", vec![fresh.clone(), event(3)])] {
        let error = store.append_in(&mut tx, &order(stream), Any, events).await.unwrap_err();
        assert!(matches!(error, AppendError::EventIdTaken { .. }), "{error:?}");
    }
    // an id is unique within its stream only
    store.append_in(&mut tx, &order("1"), Any, vec![fresh]).await.unwrap();
    store.append_in(&mut tx, &order("2"), Any, given[..1].to_vec()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(feed(&store).await.len(), 5);
}

#[tokio::test]
async fn transactions_of_others_take_no_events() {
    let ((store, _), (other, _)) = (fresh().await, fresh().await);
    let mut tx = other.begin_transaction();
    let error = store.append_in(&mut tx, &order("1"), Any, events(1)).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }) && said(&error).contains("another store"), "{error:?}");
    let shadow = Shadow { name: Name::from_static("projection:a:rebuild"), tables: vec!["stats".into()] };
    store.make_shadow(&shadow).await.unwrap();
    let mut tx = store.begin_in(&shadow).await.unwrap();
    let tx: &mut RedisTransaction = tx.as_any_mut().downcast_mut().unwrap();
    let error = store.append_in(tx, &order("1"), Any, events(1)).await.unwrap_err();
    assert!(said(&error).contains("append_in"), "{error:?}");
    let other = tx.is_first(&Name::from_static("mail"), &order("1"), EventId::new()).await;
    assert!(other.is_err());
}

/// A handler that reacts to an event by appending a further one does so once, however often the event is delivered.
#[tokio::test]
async fn an_event_that_follows_from_another_is_appended_once() {
    let (store, _) = fresh().await;
    let delivered = EventId::new();
    for is_first in [true, false] {
        let mut transaction = store.begin().await.unwrap();
        assert_eq!(transaction.is_first(&Name::from_static("ship"), &order("1"), delivered).await.unwrap(), is_first);
        if is_first {
            let tx: &mut RedisTransaction = transaction.as_any_mut().downcast_mut().unwrap();
            store.append_in(tx, &order("1"), Any, events(1)).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }
    assert_eq!(feed(&store).await.len(), 1);
}

#[tokio::test]
async fn an_append_that_is_too_large_is_refused_before_it_is_sent() {
    let (store, _) = fresh().await;
    let large = NewEvent::new(Name::from_static("Paid"), 1, format!("{{{}}}", " ".repeat(128 * 1024 * 1024)));
    let append = |id, event| Append { stream: order(id), expected: Any, events: vec![event] };
    let results = store.append_many(vec![append("1", event(1)), append("2", large), append("3", event(2))]).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    let error = results[1].as_ref().unwrap_err();
    assert!(
        matches!(error, AppendError::Refused { .. }) && said(error).contains("at most 134217728 bytes"),
        "{error:?}"
    );
}

/// Servers newer than Redis 7.0 do not lower a stream's last id, and this user may not do so either.
#[tokio::test]
async fn events_are_undone_where_no_last_id_is_taken_back() {
    let (server, store) = limited("-xsetid").await;
    let mut connection = crate::client(server.url()).await;
    store.append(&order("1"), NoStream, events(2)).await.unwrap();
    let before = feed(&store).await;
    let feed_key = key(&store, "aggregate:feed");
    // an entry was at its next position, and is removed
    tell::<String>(&mut connection, &["XADD", &feed_key, "3-0", "a", "b"]).await;
    tell::<u64>(&mut connection, &["XDEL", &feed_key, "3-0"]).await;
    let mut tx = store.begin_transaction();
    tx.hincrby("stats", "orders", 1).unwrap();
    for id in ["1", "2"] {
        store.append_in(&mut tx, &order(id), Any, events(2)).await.unwrap();
    }
    assert!(matches!(tx.commit().await.unwrap_err(), Error::EffectRefused { key, .. } if key == feed_key));
    let error = store.append(&order("1"), Any, events(2)).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
    let exist = ["EXISTS", &key(&store, "stats"), &key(&store, "aggregate:Order:2")];
    assert_eq!(tell::<u64>(&mut connection, &exist).await, 0);
    tell::<String>(&mut connection, &["XSETID", &feed_key, "2-0"]).await;
    assert_eq!(feed(&store).await, before);
    store.append(&order("1"), Exact(2.into()), events(1)).await.unwrap();
}

/// Effects that a server refuses with different errors.
#[tokio::test]
async fn effects_are_undone_whatever_the_server_says() {
    let (server, store) = limited("-rename").await;
    let mut connection = crate::client(server.url()).await;
    tell::<String>(&mut connection, &["SET", &key(&store, "text"), "old"]).await;
    for (refused, said) in [("RESTORE", "BUSYKEY"), ("DEL", "can't run this command")] {
        let mut tx = store.begin_transaction();
        tx.hincrby("stats", "orders", 1).unwrap();
        match refused {
            "DEL" => tx.del("text").unwrap(),
            _ => tx.command(refused, "text", ["0", "no dump"]).unwrap(),
        }
        let error = tx.commit().await.unwrap_err();
        assert!(matches!(&error, Error::EffectRefused { command, .. } if command == refused), "{error:?}");
        assert!(self::said(&error).contains(said), "{}", self::said(&error));
        assert_eq!(tell::<u64>(&mut connection, &["EXISTS", &key(&store, "stats")]).await, 0, "{refused}");
        assert_eq!(tell::<String>(&mut connection, &["GET", &key(&store, "text")]).await, "old");
    }
}

/// A user without a right that only the undo needs; the value to be changed may be missing or there.
#[tokio::test]
async fn an_effect_that_the_user_may_not_undo_is_refused_before_it_is_made() {
    for (right, old) in [
        ("hset", "HSET values a 5"),
        ("hdel", "HSET values a 5"),
        ("srem", "SADD values b"),
        ("zadd", "ZADD values 5 a"),
        ("zrem", "ZADD values 5 a"),
        ("del", "SET values 5"),
    ] {
        for has_value in [false, true] {
            let (server, store) = limited("+@all").await;
            let mut connection = crate::client(server.url()).await;
            let (values, text) = (key(&store, "values"), key(&store, "text"));
            if has_value {
                let command: Vec<_> =
                    old.split(' ').map(|word| if word == "values" { &values } else { word }).collect();
                tell::<redis::Value>(&mut connection, &command).await;
            }
            tell::<String>(&mut connection, &["SET", &text, "no number"]).await;
            tell::<String>(&mut connection, &["ACL", "SETUSER", "app", &format!("-{right}")]).await;
            let dump = async |connection: &mut _| tell::<Option<Vec<u8>>>(connection, &["DUMP", &values]).await;
            let before = dump(&mut connection).await;
            let mut tx = store.begin_transaction();
            match right {
                "hset" | "hdel" => tx.hincrby("values", "a", 1).unwrap(),
                "srem" => tx.sadd("values", "a").unwrap(),
                "zadd" | "zrem" => tx.zincrby("values", "a", 1.0).unwrap(),
                _ => tx.incrby("values", 1).unwrap(),
            }
            tx.incrby("text", 1).unwrap();
            let error = tx.commit().await.unwrap_err();
            assert!(matches!(error, Error::EffectRefused { .. }), "{right}: {error:?}");
            assert_eq!(dump(&mut connection).await, before, "{right}, has a value: {has_value}");
        }
    }
}

#[tokio::test]
async fn a_transaction_that_only_removes_is_made_on_a_server_without_memory() {
    let (server, store) = limited("+@all").await;
    let mut connection = crate::client(server.url()).await;
    let mut tx = store.begin_transaction();
    tx.hset("values", "a", "1").unwrap();
    tx.hset("values", "b", "2").unwrap();
    tx.commit().await.unwrap();
    tell::<String>(&mut connection, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let mut tx = store.begin_transaction();
    tx.hincrby("values", "a", 1).unwrap();
    tx.hdel("values", "b").unwrap();
    assert!(matches!(tx.commit().await.unwrap_err(), Error::Unavailable(_)));
    let mut tx = store.begin_transaction();
    tx.hdel("values", "a").unwrap();
    tx.hdel("values", "c").unwrap();
    tx.commit().await.unwrap();
    assert_eq!(tell::<Vec<String>>(&mut connection, &["HGETALL", &key(&store, "values")]).await, ["b", "2"]);
}

/// Fails if the error says that no event was stored because no repeat could be sent.
#[tokio::test]
async fn an_append_whose_answer_is_lost_with_the_server_has_an_unknown_outcome() {
    let server = eventbus_test::private_redis();
    let proxy = Proxy::before(server.port()).await;
    let store = crate::common::store::open(crate::common::store::config_on(&proxy.url())).await;
    store.append(&order("1"), NoStream, events(1)).await.unwrap();
    let mut connection = crate::client(server.url()).await;
    tell::<String>(&mut connection, &["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let append = tokio::spawn(async move { store.append(&order("1"), Any, events(1)).await });
    until("the append is at the server", async || {
        tell::<String>(&mut connection, &["INFO", "clients"]).await.contains("blocked_clients:1")
    })
    .await;
    proxy.set(Network::Cut);
    let error = append.await.unwrap().unwrap_err();
    assert!(matches!(error, AppendError::OutcomeUnknown(_)), "{error:?}");
}

/// A store whose user lacks one right.
pub(crate) async fn limited(but: &str) -> (eventbus_test::PrivateRedis, RedisEventStore) {
    let server = eventbus_test::private_redis();
    let mut connection = crate::client(server.url()).await;
    tell::<String>(&mut connection, &["ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", but]).await;
    let url = server.url().replace("redis://", "redis://app:pw@");
    let store = crate::common::store::open(crate::common::store::config_on(&url)).await;
    (server, store)
}

/// The first answer of their append may have been lost: a caller that repeats it with new ids stores them twice.
#[tokio::test]
async fn stored_events_that_cannot_be_read_have_an_unknown_outcome() {
    let (_server, store) = limited("-xrange").await;
    let events = vec![NewEvent::new(Name::from_static("Placed"), 1, "{}")];
    store.append(&order("1"), NoStream, events.clone()).await.unwrap();
    let error = store.append(&order("1"), NoStream, events).await.unwrap_err();
    assert!(matches!(error, AppendError::OutcomeUnknown(_)), "{error:?}");
}

#[tokio::test]
async fn event_types_are_listed_with_the_transaction_that_stores_them() {
    let (store, _) = fresh().await;
    let new = |version| NewEvent::new(Name::from_static("New"), version, "{}");
    let listed = async || {
        let types = store.stored_event_types().await.unwrap();
        types.iter().map(|stored| (stored.schema_version, stored.first_position.get())).collect::<Vec<_>>()
    };
    let mut lost = store.begin_transaction();
    store.append_in(&mut lost, &order("1"), NoStream, vec![new(7)]).await.unwrap();
    drop(lost);
    let mut conflict = store.begin_transaction();
    store.append_in(&mut conflict, &order("1"), NoStream, vec![new(7)]).await.unwrap();
    store.append(&order("1"), NoStream, vec![new(2)]).await.unwrap();
    conflict.commit().await.unwrap_err();
    assert_eq!(listed().await, [(2, 1)]);
    let mut kept = store.begin_transaction();
    store.append_in(&mut kept, &order("2"), NoStream, vec![new(2), new(3)]).await.unwrap();
    kept.commit().await.unwrap();
    assert_eq!(listed().await, [(3, 1)]);
}

#[tokio::test]
async fn the_first_append_to_a_store_that_was_emptied_lists_its_types_anew() {
    for is_transaction in [false, true] {
        let (store, mut connection) = fresh().await;
        store.append(&order("1"), NoStream, events(3)).await.unwrap();
        let before = store.stored_event_types().await.unwrap();
        let gone = ["aggregate:feed", "aggregate:Order:1", "eventstore:ids", "eventstore:event_types"];
        let gone = gone.map(|name| key(&store, name));
        let removed: u64 = tell(&mut connection, &["DEL", &gone[0], &gone[1], &gone[2], &gone[3]]).await;
        assert_eq!(removed, 4);
        // this append detects that events are lost
        if is_transaction {
            let mut transaction = store.begin_transaction();
            store.append_in(&mut transaction, &order("2"), NoStream, events(1)).await.unwrap();
            transaction.commit().await.unwrap();
        } else {
            store.append(&order("2"), NoStream, events(1)).await.unwrap();
        }
        let after = store.stored_event_types().await.unwrap();
        assert_eq!(after, before, "in a transaction: {is_transaction}");
    }
}
