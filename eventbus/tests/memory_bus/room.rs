//! Room: publishers that wait for it, publishers that are refused, and dropped entries.

use std::time::Duration;

use eventbus::{
    InMemoryEventBus, Name, NewEvent, Position, StreamId, Version,
    port::{EventBus, MessageId, PublishError},
};
use tokio::task::JoinHandle;

use crate::kit::{LATER, NEVER, Worker, event, event_of, events, pending, start, until};

#[tokio::test]
async fn publishing_waits_for_a_group_that_lags_and_is_refused_when_nobody_consumes() {
    let bus = InMemoryEventBus::with_capacity(3);
    let worker = Worker::held();
    worker.join(&bus, "slow");
    bus.publish(&events(1..=3)).await.unwrap();
    let refused = bus.publish(&[event(4)]).await;
    assert!(matches!(refused, Err(PublishError::Full { .. })), "{refused:?}");

    start(&bus).await;
    until("one is in hand, and one ready", async || pending(&bus, "slow").await == 2).await;
    bus.publish(&events(4..=5)).await.unwrap(); // there is room for two more
    let publisher = bus.clone();
    let waiting = tokio::spawn(async move { publisher.publish(&[event(6)]).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished(), "published though the group lags by 3");
    worker.let_one();
    waiting.await.unwrap().unwrap();

    let publisher = bus.clone();
    let waiting = tokio::spawn(async move { publisher.publish(&[event(7)]).await });
    let bus_to_stop = bus.clone();
    let stopping = tokio::spawn(async move { bus_to_stop.stop_consuming().await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    worker.let_one(); // the running delivery; the next one does not start
    stopping.await.unwrap();
    let refused = waiting.await.unwrap();
    assert!(matches!(refused, Err(PublishError::Full { .. })), "{refused:?}");
}

#[tokio::test]
async fn old_entries_go_when_every_group_is_done_with_them() {
    let bus = InMemoryEventBus::builder().capacity(4).retry(NEVER).build();
    let worker = Worker::new().failing(&[2]);
    worker.join(&bus, "a");
    start(&bus).await;
    for position in 1..=20 {
        bus.publish(&[event(position)]).await.unwrap();
    }
    until("all was tried", async || worker.got().len() == 20).await;
    until("only four are held", async || bus.stream_info().await.stream.length == 4).await;
    assert_eq!(bus.stream_info().await.dlq_messages, 1, "a dead letter is one of them");
}

/// Large events: the bus holds a few of them, though it may hold thousands.
#[tokio::test]
async fn publishing_waits_for_a_group_that_lags_by_many_bytes_and_what_is_held_has_few() {
    const BYTES: usize = 10_000;
    let large = |position: u64| {
        let stream = StreamId::parse("Order", &position.to_string()).unwrap();
        let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(BYTES));
        let event = NewEvent::new(Name::from_static("OrderCreated"), 1, payload);
        event.recorded_as(stream, Version::new(position), Some(Position::new(position)))
    };
    let bus = InMemoryEventBus::builder().capacity_bytes(3 * BYTES).max_in_flight(1).build();
    let worker = Worker::held();
    worker.join(&bus, "slow");
    start(&bus).await;
    bus.publish(&[large(1)]).await.unwrap();
    until("it is in hand", async || pending(&bus, "slow").await == 1).await;
    for position in 2..=4 {
        bus.publish(&[large(position)]).await.unwrap();
    }
    let waiting = waiting(&bus, 5).await;
    let group =
        async || bus.stream_info().await.consumer_groups.into_iter().find(|group| group.name == "slow").unwrap();
    assert_eq!(group().await.lag, Some(3));
    until("what is not read grows older", async || group().await.oldest_unread_age_ms > Some(0)).await;
    worker.let_one();
    ended(waiting).await.unwrap();
    (2..=20).for_each(|_| worker.let_one());
    for position in 6..=20 {
        bus.publish(&[large(position)]).await.unwrap();
    }
    until("all are handled", async || worker.got().len() == 20 && pending(&bus, "slow").await == 0).await;
    assert_eq!((group().await.lag, group().await.oldest_unread_age_ms), (Some(0), Some(0)));
    bus.publish(&[large(21)]).await.unwrap();
    assert_eq!(bus.stream_info().await.stream.length, 2, "the last events of so many bytes");
}

#[tokio::test]
async fn without_subscribers_the_newest_events_are_held_and_publishing_goes_on() {
    let bus = InMemoryEventBus::with_capacity(4);
    bus.publish(&events(1..=10)).await.unwrap();
    assert_eq!(bus.stream_info().await.stream.length, 4);
    let worker = Worker::new();
    worker.join(&bus, "late");
    start(&bus).await;
    until("what is held was delivered", async || worker.got() == [7, 8, 9, 10]).await;
}

/// Publishes one event more than there is room for, and waits for room.
async fn waiting(bus: &InMemoryEventBus, position: u64) -> JoinHandle<Result<Vec<MessageId>, PublishError>> {
    let publisher = bus.clone();
    let waiting = tokio::spawn(async move { publisher.publish(&[event(position)]).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished(), "there was room");
    waiting
}

async fn ended<T>(waiting: JoinHandle<T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it waits for ever").unwrap()
}

#[tokio::test]
async fn publishing_no_longer_waits_for_a_group_that_left() {
    let bus = InMemoryEventBus::with_capacity(1);
    let slow = Worker::held();
    let subscription = slow.join(&bus, "slow");
    start(&bus).await;
    bus.publish(&[event(1)]).await.unwrap();
    until("the first is in hand", async || pending(&bus, "slow").await == 1).await;
    bus.publish(&[event(2)]).await.unwrap();
    until("the second is ready", async || pending(&bus, "slow").await == 2).await;
    bus.publish(&[event(3)]).await.unwrap();
    let waiting = waiting(&bus, 4).await;
    subscription.cancel();
    ended(waiting).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_refuses_whoever_waits_for_room_at_once() {
    let bus = InMemoryEventBus::with_capacity(1);
    let worker = Worker::held();
    worker.join(&bus, "slow");
    start(&bus).await;
    bus.publish(&[event(1)]).await.unwrap();
    until("the first is in hand", async || pending(&bus, "slow").await == 1).await;
    bus.publish(&[event(2)]).await.unwrap();
    until("the second is ready", async || pending(&bus, "slow").await == 2).await;
    bus.publish(&[event(3)]).await.unwrap();
    let waiting = waiting(&bus, 4).await;
    assert!(bus.stream_info().await.connected);
    let stopping = bus.clone();
    let stopping = tokio::spawn(async move { stopping.shutdown(Duration::from_secs(60)).await });
    let refused = ended(waiting).await;
    assert!(matches!(refused, Err(PublishError::ShutDown { .. })), "{refused:?}");
    worker.let_one();
    ended(stopping).await.unwrap();
    assert!(!bus.stream_info().await.connected);
}

#[tokio::test]
async fn a_batch_larger_than_the_room_is_kept_for_a_group_that_has_not_begun() {
    let (bus, worker) = (InMemoryEventBus::with_capacity(4), Worker::new());
    worker.join(&bus, "new");
    bus.publish(&events(1..=10)).await.unwrap();
    start(&bus).await;
    until("all is handled", async || worker.got() == (1..=10).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn there_is_always_room_for_one() {
    let (bus, worker) = (InMemoryEventBus::with_capacity(0), Worker::new());
    worker.join(&bus, "a");
    bus.publish(&[event(1)]).await.unwrap();
    start(&bus).await;
    until("it is handled", async || worker.got() == [1]).await;
}

#[tokio::test]
async fn what_is_let_go_is_not_pending_for_a_group_that_left() {
    let bus = InMemoryEventBus::builder().capacity(2).retry(LATER).build();
    let (gone, other) = (Worker::new().failing(&[1]), Worker::new());
    let subscription = gone.join(&bus, "gone");
    other.join(&bus, "other");
    start(&bus).await;
    bus.publish(&[event(1)]).await.unwrap();
    until("it failed", async || bus.stats().events_processed_failed == 1).await;
    subscription.cancel();
    for position in 2..=6 {
        bus.publish(&[event(position)]).await.unwrap();
    }
    until("only two are held", async || bus.stream_info().await.stream.length == 2).await;
    assert_eq!(pending(&bus, "gone").await, 0);
    gone.join(&bus, "gone");
    until("it goes on", async || gone.got() == [1, 5, 6]).await;
}

#[tokio::test]
async fn dead_letters_of_a_group_that_left_are_kept() {
    let bus = InMemoryEventBus::builder().capacity(2).retry(NEVER).build();
    let (gone, other) = (Worker::new().failing(&[1]), Worker::new());
    let subscription = gone.join(&bus, "gone");
    other.join(&bus, "other");
    start(&bus).await;
    bus.publish(&[event(1)]).await.unwrap();
    until("it is a dead letter", async || bus.stream_info().await.dlq_messages == 1).await;
    subscription.cancel();
    for position in 2..=6 {
        bus.publish(&[event(position)]).await.unwrap();
    }
    until("the others are handled", async || other.got().len() == 6).await;
    let info = bus.stream_info().await;
    assert_eq!((info.dlq_messages, info.stream.length), (1, 2));
}

#[tokio::test]
async fn a_bus_may_give_each_handler_several_deliveries_at_once() {
    let (bus, worker) = (InMemoryEventBus::builder().concurrency(3).build(), Worker::held());
    worker.join(&bus, "a");
    bus.publish(&events(1..=9)).await.unwrap();
    start(&bus).await;
    until("three are running, and as many ready", async || pending(&bus, "a").await == 6).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(pending(&bus, "a").await, 6);
}

#[tokio::test]
async fn failed_deliveries_and_those_behind_them_are_held_up_to_a_limit() {
    let bus = InMemoryEventBus::builder().capacity(4).max_waiting(3).retry(LATER).build();
    let worker = Worker::new().failing(&[1]);
    worker.join(&bus, "a");
    start(&bus).await;
    bus.publish(&[event(1)]).await.unwrap();
    until("it failed", async || bus.stats().events_processed_failed == 1).await;
    bus.publish(&[event(2), event_of("1", 3), event(4), event_of("1", 5), event(6)]).await.unwrap();
    until("it is full", async || pending(&bus, "a").await == 3).await;
    bus.publish(&events(7..=9)).await.unwrap();
    let waiting = waiting(&bus, 10).await;
    assert_eq!(worker.got(), [1, 2, 4], "one that failed, and two behind it");
    bus.stop_consuming().await;
    ended(waiting).await.unwrap_err();
}
