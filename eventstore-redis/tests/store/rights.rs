//! Users that lack a right which a script needs behind its first write: the script writes no key.

use eventbus::{
    EventId,
    ExpectedVersion::{Any, NoStream},
    Name, Uuid,
    event::{Tag, UniqueChange},
    port::{
        Append, AppendError, AppendEvents as _, MultiStreamAppends as _, ReadFeed as _, ReadStream as _,
        Transaction as _,
    },
    store::{Boundaries as _, Handled, HandledCommand, MultiStreamAppend},
};
use eventstore_redis::RedisTransactionError as Error;
use redis::aio::MultiplexedConnection;

use crate::{append_in::limited, common::said, event, events, order, tell};

/// Gives the user a right, as `+hset`, or takes it, as `-hset`.
async fn set_right(admin: &mut MultiplexedConnection, right: &str) {
    tell::<String>(admin, &["ACL", "SETUSER", "app", right]).await;
}

/// Fails if the stream or the feed has an entry that the index lacks: then the store refuses all appends.
#[tokio::test]
async fn an_append_whose_user_lacks_a_right_stores_no_part_of_it() {
    let (server, store) = limited("+@all").await;
    let mut admin = crate::client(server.url()).await;
    for right in ["hget", "hset"] {
        set_right(&mut admin, &format!("-{right}")).await;
        let error = store.append(&order("1"), Any, events(2)).await.unwrap_err();
        assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
        assert!(said(&error).contains(&right.to_uppercase()), "{}", said(&error));
        let mut tx = store.begin_transaction();
        store.append_in(&mut tx, &order("2"), Any, events(2)).await.unwrap();
        let error = tx.commit().await.unwrap_err();
        assert!(
            matches!(&error, Error::EffectRefused { command, .. } if *command == right.to_uppercase()),
            "{error:?}"
        );
        set_right(&mut admin, &format!("+{right}")).await;
    }
    let first = &store.append(&order("1"), NoStream, events(1)).await.unwrap()[0];
    assert_eq!(first.position().unwrap(), 1_u64);
    store.append(&order("2"), NoStream, events(1)).await.unwrap();
}

/// Stored events are told to a caller that repeats an append, also if the user may add none any more.
#[tokio::test]
async fn a_repeated_append_needs_no_right_to_write() {
    let (server, store) = limited("+@all").await;
    let mut admin = crate::client(server.url()).await;
    let given = events(1);
    store.append(&order("1"), NoStream, given.clone()).await.unwrap();
    set_right(&mut admin, "-hset").await;
    assert_eq!(store.append(&order("1"), NoStream, given).await.unwrap()[0].version(), 1_u64);
    assert!(store.append(&order("1"), NoStream, events(1)).await.unwrap_err().is_conflict());
}

/// Fails if the server refuses a write that comes behind the events of a transaction.
#[tokio::test]
async fn a_transaction_whose_user_lacks_the_right_of_a_later_write_is_not_committed() {
    let (server, store) = limited("+@all").await;
    let mut admin = crate::client(server.url()).await;
    let mut tx = store.begin_transaction();
    assert!(tx.is_first(&Name::from_static("mail"), &order("9"), EventId::new()).await.unwrap());
    store.append_in(&mut tx, &order("1"), Any, events(1)).await.unwrap();
    set_right(&mut admin, "-zadd").await;
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(&error, Error::EffectRefused { command, .. } if command == "ZADD"), "{error:?}");
    let (key, request) = ("pay-1".parse().unwrap(), Uuid::from_u128(1));
    let command = HandledCommand { tenant_id: None, key, request, answer: "paid".into() };
    let append = Append { stream: order("1"), expected: Any, events: events(1) };
    let multi = MultiStreamAppend { handled: Some(Handled::Command(command)), ..MultiStreamAppend::single(append) };
    let error = store.append_streams(multi).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
    assert_eq!(store.head().await.unwrap(), 0_u64);
    set_right(&mut admin, "+zadd").await;

    let email = |value: Option<&str>| {
        let change = UniqueChange::new(Name::from_static("email"), value.map(Into::into)).unwrap();
        vec![event(1).with_unique(vec![change])]
    };
    store.append(&order("1"), NoStream, email(Some("a@x"))).await.unwrap();
    set_right(&mut admin, "-hdel").await;
    let error = store.append(&order("1"), Any, email(None)).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
    assert_eq!(store.stream_version(&order("1")).await.unwrap(), 1_u64);
}

/// Fails if the store reports a committed transaction as one that is not committed.
#[tokio::test]
async fn a_transaction_whose_user_may_not_remove_its_locks_is_committed() {
    let (_server, store) = limited("-del").await;
    let (handler, id) = (Name::from_static("mail"), EventId::new());
    let mut tx = store.begin_transaction();
    assert!(tx.is_first(&handler, &order("9"), id).await.unwrap());
    tx.commit().await.unwrap();
    assert!(!store.begin_transaction().is_first(&handler, &order("9"), id).await.unwrap());
}

/// Fails if the note of the tag is written without the counts: then no repeat writes them.
#[tokio::test]
async fn a_tag_whose_user_lacks_a_right_is_not_added() {
    let (server, store) = limited("+@all").await;
    let mut admin = crate::client(server.url()).await;
    let event = &store.append(&order("1"), NoStream, events(1)).await.unwrap()[0];
    let tag = Tag::from_stored("course:1").unwrap();
    for right in ["hset", "hincrby", "zadd"] {
        set_right(&mut admin, &format!("-{right}")).await;
        let error = store.add_tag(event, &tag).await.unwrap_err();
        assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
        set_right(&mut admin, &format!("+{right}")).await;
    }
    assert!(store.add_tag(event, &tag).await.unwrap());
}
