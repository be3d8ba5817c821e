//! Users that lack a right which a script needs behind its first write: the script writes no key.

use eventbus::{
    EventId,
    ExpectedVersion::{Any, NoStream},
    Name, Uuid,
    event::UniqueChange,
    port::{AppendError, AppendEvents as _, MultiStreamAppends as _, ReadFeed as _, ReadStream as _},
    store::{Handled, HandledCommand, HandledDelivery, MultiStreamAppend},
};
use redis::aio::MultiplexedConnection;

use crate::{
    append::{append, limited, together},
    common::said,
    event, events, order, tell,
};

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
        let error = together(&store, ["1", "2"].map(|id| append(id, Any, events(2)))).await.unwrap_err();
        assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
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

/// Fails if the server refuses a write that comes behind the events.
#[tokio::test]
async fn an_append_whose_user_lacks_the_right_of_a_later_write_stores_no_part_of_it() {
    let (server, store) = limited("+@all").await;
    let mut admin = crate::client(server.url()).await;
    set_right(&mut admin, "-zadd").await;
    let delivery = HandledDelivery { handler: Name::from_static("mail"), stream: order("9"), event_id: EventId::new() };
    let (key, request) = ("pay-1".parse().unwrap(), Uuid::from_u128(1));
    let command = HandledCommand { tenant_id: None, key, request, answer: "paid".into() };
    for handled in [Handled::Delivery(delivery), Handled::Command(command)] {
        let single = MultiStreamAppend::single(append("1", Any, events(1)));
        let multi = MultiStreamAppend { handled: Some(handled), ..single };
        let error = store.append_streams(multi).await.unwrap_err();
        assert!(matches!(error, AppendError::Refused { .. }) && said(&error).contains("ZADD"), "{error:?}");
    }
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
