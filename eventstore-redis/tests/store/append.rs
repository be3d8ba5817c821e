//! Appends that the server or the store refuses store no part of them, alone or together.

use eventbus::{
    EventId,
    ExpectedVersion::{self, Any, Exact, NoStream},
    Name, NewEvent, Position, RecordedEvent, Uuid,
    event::UniqueChange,
    port::{
        Append, AppendError, AppendEvents as _, EventTypes as _, MultiStreamAppends as _, ReadFeed as _,
        ReadStream as _,
    },
    store::{
        Handled, HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamOutcome, UniqueKey, UniqueValues as _,
    },
};
use eventstore_redis::RedisEventStore;
use futures_util::TryStreamExt as _;

use crate::{
    common::{
        proxy::{Network, Proxy},
        said, until,
    },
    event, events, fresh, key, order, tell,
};

async fn feed(store: &RedisEventStore) -> Vec<RecordedEvent> {
    store.read_all(Position::START).try_collect().await.unwrap()
}

pub(crate) fn append(id: &str, expected: ExpectedVersion, events: Vec<NewEvent>) -> Append {
    Append { stream: order(id), expected, events }
}

/// Appends to orders together.
pub(crate) async fn together(
    store: &RedisEventStore,
    appends: impl Into<Vec<Append>>,
) -> Result<MultiStreamOutcome, AppendError> {
    store.append_streams(MultiStreamAppend { appends: appends.into(), ..Default::default() }).await
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

/// Fails if the first streams keep their events, or if one of their next versions is not free afterwards.
#[tokio::test]
async fn a_stream_that_the_server_refuses_undoes_the_streams_before_it() {
    let (store, mut connection) = fresh().await;
    store.append(&order("1"), NoStream, events(2)).await.unwrap();
    let stream = key(&store, "aggregate:Order:3");
    // a foreign entry was at the place of the first version, and is removed
    tell::<String>(&mut connection, &["XADD", &stream, "1-0", "a", "b"]).await;
    tell::<u64>(&mut connection, &["XDEL", &stream, "1-0"]).await;
    let email = UniqueChange::new(Name::from_static("email"), Some("a@x".into())).unwrap();
    let taken = UniqueKey::taken_by(&order("1"), &email).unwrap();
    let taking = vec![event(1).with_unique(vec![email])];
    let delivery = HandledDelivery { handler: Name::from_static("mail"), stream: order("9"), event_id: EventId::new() };
    let appends = vec![append("1", Any, taking), append("2", Any, events(2)), append("3", Any, events(2))];
    let handled = Some(Handled::Delivery(delivery.clone()));
    let error = store.append_streams(MultiStreamAppend { appends, handled, condition: None }).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }) && said(&error).contains("equal or smaller"), "{error:?}");
    assert_eq!(feed(&store).await.len(), 2);
    assert_eq!(tell::<u64>(&mut connection, &["EXISTS", &key(&store, "aggregate:Order:2")]).await, 0);
    assert_eq!(store.find_holder(&taken).await.unwrap(), None);
    assert!(!store.is_handled(&delivery).await.unwrap());
    together(&store, [append("1", Exact(2.into()), events(1)), append("2", NoStream, events(1))]).await.unwrap();
}

/// Servers newer than Redis 7.0 do not lower a stream's last id, and this user may not do so either.
#[tokio::test]
async fn events_are_undone_where_the_server_lowers_no_last_id() {
    let (server, store) = limited("-xsetid").await;
    let mut connection = crate::client(server.url()).await;
    store.append(&order("1"), NoStream, events(2)).await.unwrap();
    let before = feed(&store).await;
    let feed_key = key(&store, "aggregate:feed");
    // an entry was at its next position, and is removed
    tell::<String>(&mut connection, &["XADD", &feed_key, "3-0", "a", "b"]).await;
    tell::<u64>(&mut connection, &["XDEL", &feed_key, "3-0"]).await;
    let error = together(&store, ["1", "2"].map(|id| append(id, Any, events(2)))).await.unwrap_err();
    assert!(said(&error).contains(&feed_key), "{}", said(&error));
    let error = store.append(&order("1"), Any, events(2)).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
    assert_eq!(tell::<u64>(&mut connection, &["EXISTS", &key(&store, "aggregate:Order:2")]).await, 0);
    tell::<String>(&mut connection, &["XSETID", &feed_key, "2-0"]).await;
    assert_eq!(feed(&store).await, before);
    store.append(&order("1"), Exact(2.into()), events(1)).await.unwrap();
}

/// Fails if the script meets a key of a different type behind its first write.
#[tokio::test]
async fn keys_of_a_different_type_refuse_values_and_notes_before_the_first_write() {
    let (store, mut connection) = fresh().await;
    let holding = |name, value: &str| UniqueChange::new(Name::from_static(name), Some(value.into())).unwrap();
    let first = event(1).with_unique(vec![holding("email", "a@x")]);
    store.append(&order("1"), NoStream, vec![first]).await.unwrap();
    let keys: Vec<String> = tell(&mut connection, &["KEYS", &key(&store, "*unique_values*")]).await;
    for name in [keys[0].replace("email", "name"), key(&store, "eventstore:command_times")] {
        tell::<String>(&mut connection, &["SET", &name, "foreign"]).await;
    }
    let second = event(1).with_unique(vec![holding("email", "b@x"), holding("name", "Ada")]);
    let error = store.append(&order("1"), Any, vec![second]).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
    let (key, request) = ("pay-1".parse().unwrap(), Uuid::from_u128(1));
    let handled = Some(Handled::Command(HandledCommand { tenant_id: None, key, request, answer: "paid".into() }));
    let multi = MultiStreamAppend { handled, ..MultiStreamAppend::single(append("1", Any, events(1))) };
    let error = store.append_streams(multi).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
    let held = UniqueKey::taken_by(&order("1"), &holding("email", "a@x")).unwrap();
    assert_eq!(store.find_holder(&held).await.unwrap(), Some(order("1")));
    assert_eq!(store.stream_version(&order("1")).await.unwrap(), 1_u64);
}

#[tokio::test]
async fn an_append_that_is_too_large_is_refused_before_it_is_sent() {
    let (store, _) = fresh().await;
    let large = || NewEvent::new(Name::from_static("Paid"), 1, format!("{{{}}}", " ".repeat(128 * 1024 * 1024)));
    let append = |id, event| append(id, Any, vec![event]);
    let results = store.append_many(vec![append("1", event(1)), append("2", large()), append("3", event(2))]).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    let together = together(&store, [append("4", event(1)), append("5", large())]).await.map(drop);
    for error in [results[1].as_ref().unwrap_err(), &together.unwrap_err()] {
        let is_refused = matches!(error, AppendError::Refused { .. });
        assert!(is_refused && said(error).contains("at most 134217728 bytes"), "{error:?}");
    }
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
async fn the_first_append_to_a_store_that_was_emptied_lists_its_types_anew() {
    for is_together in [false, true] {
        let (store, mut connection) = fresh().await;
        store.append(&order("1"), NoStream, events(3)).await.unwrap();
        let before = store.stored_event_types().await.unwrap();
        let gone = ["aggregate:feed", "aggregate:Order:1", "eventstore:ids", "eventstore:event_types"];
        let gone = gone.map(|name| key(&store, name));
        let removed: u64 = tell(&mut connection, &["DEL", &gone[0], &gone[1], &gone[2], &gone[3]]).await;
        assert_eq!(removed, 4);
        // this append detects that events are lost
        if is_together {
            together(&store, [append("2", NoStream, events(1)), append("3", NoStream, events(1))]).await.unwrap();
        } else {
            store.append(&order("2"), NoStream, events(1)).await.unwrap();
        }
        let after = store.stored_event_types().await.unwrap();
        assert_eq!(after, before, "together: {is_together}");
    }
}
