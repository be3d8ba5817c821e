//! Rules of starting, stopping and shutting down.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use super::{
    Bus,
    fixtures::{RecordingHandler, consume, events, publish, wait_until, wait_until_idle, wait_until_started},
};
use crate::{
    domain::event::EventFilter,
    port::{ConsumeError, PublishError},
};

/// `stop_consuming` returns after the delivery in hand was finished, and begins no other.
pub async fn stop_waits_for_the_delivery_in_hand(bus: Bus, _: Bus) {
    let witness = RecordingHandler::gated();
    witness.subscribe(&bus, bus.default_group(), EventFilter::All);
    publish(&bus, &events(1..=3)).await;
    let consumer = consume(&bus).await;
    wait_until_started(&witness, 1).await;
    let mut stopping = pin!(bus.stop_consuming());
    let waits = poll_fn(|cx| Poll::Ready(stopping.as_mut().poll(cx).is_pending())).await;
    assert!(waits, "stop_consuming did not wait");
    witness.allow_one();
    stopping.await;
    assert_eq!(witness.completed(), [1], "the delivery in hand was finished");
    assert_eq!(witness.started(), [1], "no other delivery began");
    assert!(!bus.is_consuming(), "is_consuming after the stop");
    consumer.stop().await;
}

/// After a stop, consuming may start again and goes on where it was: nothing is lost, nothing repeated.
pub async fn start_goes_on_after_a_stop(bus: Bus, _: Bus) {
    let witness = RecordingHandler::gated();
    let group = bus.default_group();
    witness.subscribe(&bus, group, EventFilter::All);
    publish(&bus, &events(1..=5)).await;
    let consumer = consume(&bus).await;
    witness.allow_one();
    wait_until_started(&witness, 2).await;
    {
        let mut stopping = pin!(consumer.stop());
        let waits = poll_fn(|cx| Poll::Ready(stopping.as_mut().poll(cx).is_pending())).await;
        assert!(waits, "stop_consuming did not wait");
        witness.allow_one();
        stopping.await;
    }
    publish(&bus, &events(6..=7)).await;
    assert_eq!(witness.started(), [1, 2], "nothing is delivered meanwhile");
    for _ in 0..5 {
        witness.allow_one();
    }
    let consumer = consume(&bus).await;
    wait_until_idle(&bus, group).await;
    consumer.stop().await;
    assert_eq!(witness.started(), [1, 2, 3, 4, 5, 6, 7], "each event once");
}

/// Gives a call that is to be refused ten seconds to be so.
async fn within_ten_seconds<T>(call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(10), call).await.ok()
}

/// A second `start_consuming` of one bus is refused, and the first is not disturbed.
pub async fn starting_twice_is_refused(bus: Bus, _: Bus) {
    let witness = RecordingHandler::new();
    witness.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    let again = within_ten_seconds(bus.start_consuming()).await;
    assert!(matches!(again, Some(Err(ConsumeError::AlreadyConsuming { .. }))), "the second start_consuming: {again:?}");
    publish(&bus, &events(1..=1)).await;
    wait_until_started(&witness, 1).await;
    consumer.stop().await;
}

/// `is_consuming` is false before, true while, and false after consuming.
pub async fn is_consuming_tells_the_truth(bus: Bus, _: Bus) {
    assert!(!bus.is_consuming(), "before the start");
    bus.stop_consuming().await; // without a start it has nothing to do
    for _ in 0..3 {
        let consumer = consume(&bus).await;
        assert!(bus.is_consuming(), "while consuming");
        consumer.stop().await;
        assert!(!bus.is_consuming(), "after the stop");
    }
}

/// After `shutdown` consuming has ended, and neither publishing nor consuming begins any more.
pub async fn after_shutdown_nothing_begins(bus: Bus, _: Bus) {
    let witness = RecordingHandler::new();
    witness.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_started(&witness, 1).await;
    let ended = bus.shutdown(Duration::from_secs(20)).await;
    assert!(ended.is_ok(), "shutdown: {ended:?}");
    assert!(!bus.is_consuming(), "is_consuming after shutdown");
    consumer.stop().await;
    let published = bus.publish(&events(2..=2)).await;
    assert!(matches!(published, Err(PublishError::ShutDown { .. })), "publish after shutdown: {published:?}");
    let consumed = within_ten_seconds(bus.start_consuming()).await;
    assert!(
        matches!(consumed, Some(Err(ConsumeError::ShutDown { .. }))),
        "start_consuming after shutdown: {consumed:?}"
    );
    let again = bus.shutdown(Duration::from_secs(20)).await;
    assert!(again.is_ok(), "a second shutdown: {again:?}");
}

/// `shutdown` gives a delivery until its deadline, then gives it up and says so.
pub async fn shutdown_does_not_wait_beyond_its_deadline(bus: Bus, _: Bus) {
    let witness = RecordingHandler::gated();
    witness.subscribe(&bus, bus.default_group(), EventFilter::All);
    publish(&bus, &events(1..=1)).await;
    let consumer = consume(&bus).await;
    wait_until_started(&witness, 1).await;
    let deadline = Duration::from_millis(50);
    let error = bus.shutdown(deadline).await;
    let error = error.expect_err("the handler was not done");
    assert_eq!(error.timeout, deadline, "the deadline in the error");
    assert!(witness.completed().is_empty(), "the handler was not done");
    wait_until("the delivery was given up", async || !bus.is_consuming()).await;
    consumer.stop().await;
}
