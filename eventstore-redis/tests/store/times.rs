//! The times at which events were recorded, and the mark of sealed fields.

use eventbus::{
    ExpectedVersion, NewEvent, Position, Version,
    clock::{Clock as _, SharedClock},
    event::DecodeError,
    port::{AppendEvents as _, Direction, ReadFeed as _, ReadStream as _},
    prelude::*,
    testkit::{ManualClock, event_store::recorded_times_never_decrease},
};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use futures_util::TryStreamExt as _;
use time::{Duration, macros::datetime};

use crate::{
    append::{append, together},
    common::store::{config, open},
    fresh, key, order, tell,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Placed {
    number: u32,
}

async fn store_with_clock() -> (RedisEventStore, ManualClock) {
    let clock = ManualClock::new();
    let config = RedisEventStoreConfig { clock: SharedClock::new(clock.clone()), ..config() };
    (open(config).await, clock)
}

fn placed(number: u32) -> NewEvent {
    NewEvent::from_event(&Placed { number }).unwrap()
}

#[tokio::test]
async fn the_suite_holds_when_the_clock_is_set_back() {
    let (store, clock) = store_with_clock().await;
    recorded_times_never_decrease(store, async |time| clock.set(clock.now() - time)).await;
}

/// Fails if the script takes one time for all streams.
#[tokio::test]
async fn an_append_of_a_group_is_recorded_no_earlier_than_the_event_before_it() {
    let (store, clock) = store_with_clock().await;
    let first = store.append(&order("1"), ExpectedVersion::NoStream, vec![placed(1)]).await.unwrap();
    let earlier = first[0].metadata().recorded_at().unwrap() - Duration::HOUR;
    clock.set(earlier);
    let appends = ["1", "2"].map(|id| append(id, ExpectedVersion::Any, vec![placed(2)]));
    let appended = together(&store, appends).await.unwrap().into_records();
    let times: Vec<_> = appended.iter().map(|event| event.metadata().recorded_at()).collect();
    assert_eq!(times, [first[0].metadata().recorded_at(), Some(earlier)]);
    let stored: Vec<_> = store.read_all(Position::new(1)).try_collect().await.unwrap();
    assert_eq!(stored, appended);
}

/// Numbers of Lua do not hold these microseconds: as numbers both times are equal.
#[tokio::test]
async fn times_of_the_far_future_are_compared_exactly() {
    let (store, clock) = store_with_clock().await;
    let stream = order("1");
    let far = datetime!(9999-12-31 23:59:59.999_999 UTC);
    for (at, wanted) in [
        (far - Duration::microseconds(1), far - Duration::microseconds(1)),
        (far, far),
        (far - Duration::microseconds(1), far),
    ] {
        clock.set(at);
        let recorded = store.append(&stream, ExpectedVersion::Any, vec![placed(1)]).await.unwrap();
        assert_eq!(recorded[0].metadata().recorded_at(), Some(wanted), "at {at}");
    }
}

/// What the commands of a newer release would write: a mark beside an event with sealed fields.
#[tokio::test]
async fn an_event_with_sealed_fields_is_read_but_not_decoded() {
    let (store, mut connection) = fresh().await;
    store.append(&order("1"), ExpectedVersion::Any, vec![placed(1)]).await.unwrap();
    let stream = key(&store, "aggregate:Order:1");
    let entries: Vec<(String, Vec<String>)> = tell(&mut connection, &["XRANGE", &stream, "-", "+"]).await;
    let (id, fields) = &entries[0];
    tell::<i64>(&mut connection, &["DEL", &stream]).await;
    let mut words = vec!["XADD", &stream, id];
    words.extend(fields.iter().map(String::as_str));
    words.extend(["has_sealed_fields", "1"]);
    tell::<String>(&mut connection, &words).await;

    let by_stream: Vec<_> =
        store.read_stream(&order("1"), Version::FIRST, Direction::Forward).try_collect().await.unwrap();
    let by_feed: Vec<_> = store.read_all(Position::START).try_collect().await.unwrap();
    for event in [&by_stream[0], &by_feed[0]] {
        assert!(event.metadata().has_sealed_fields());
        let refused = event.decode::<Placed>();
        assert!(
            matches!(&refused, Err(DecodeError::SealedFields { event_type }) if event_type == "Placed"),
            "{refused:?}"
        );
    }
}
