//! Rules of starting, stopping and shutting down.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use super::{
    Bus,
    fixtures::{RecordingHandler, consume, events, publish, sorted, wait_until, wait_until_idle, wait_until_started},
};
use crate::{
    domain::event::EventFilter,
    port::{ConsumeError, PublishError},
};

/// `stop_consuming` returns after the delivery in flight has finished, and starts no further one.
pub async fn stop_waits_for_the_delivery_in_hand(bus: Bus, _: Bus) {
    let handler = RecordingHandler::gated();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    publish(&bus, &events(1..=3)).await;
    let consumer = consume(&bus).await;
    wait_until_started(&handler, 1).await;
    let mut stopping = pin!(bus.stop_consuming());
    let waits = poll_fn(|cx| Poll::Ready(stopping.as_mut().poll(cx).is_pending())).await;
    assert!(waits, "stop_consuming did not wait");
    handler.allow_one();
    stopping.await;
    assert_eq!(handler.completed(), [1], "the delivery in flight was finished");
    assert_eq!(handler.started(), [1], "no other delivery began");
    assert!(!bus.is_consuming(), "is_consuming after the stop");
    consumer.stop().await;
}

/// Consuming can start again after a stop, and continues where it stopped: no event is lost or repeated.
pub async fn start_goes_on_after_a_stop(bus: Bus, _: Bus) {
    let handler = RecordingHandler::gated();
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    publish(&bus, &events(1..=5)).await;
    let consumer = consume(&bus).await;
    handler.allow_one();
    wait_until_started(&handler, 2).await;
    {
        let mut stopping = pin!(consumer.stop());
        let waits = poll_fn(|cx| Poll::Ready(stopping.as_mut().poll(cx).is_pending())).await;
        assert!(waits, "stop_consuming did not wait");
        handler.allow_one();
        stopping.await;
    }
    publish(&bus, &events(6..=7)).await;
    assert_eq!(sorted(handler.started()), [1, 2], "no delivery while stopped");
    for _ in 0..5 {
        handler.allow_one();
    }
    let consumer = consume(&bus).await;
    wait_until_idle(&bus, group).await;
    consumer.stop().await;
    assert_eq!(sorted(handler.started()), [1, 2, 3, 4, 5, 6, 7], "each event once");
}

/// Waits up to ten seconds for a call that the bus must refuse.
async fn within_ten_seconds<T>(call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(10), call).await.ok()
}

/// A second `start_consuming` of one bus is refused, and the first continues.
pub async fn starting_twice_is_refused(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    let again = within_ten_seconds(bus.start_consuming()).await;
    assert!(matches!(again, Some(Err(ConsumeError::AlreadyConsuming { .. }))), "the second start_consuming: {again:?}");
    publish(&bus, &events(1..=1)).await;
    wait_until_started(&handler, 1).await;
    consumer.stop().await;
}

/// `is_consuming` is false before, true while, and false after consuming.
pub async fn is_consuming_tells_the_truth(bus: Bus, _: Bus) {
    assert!(!bus.is_consuming(), "before the start");
    bus.stop_consuming().await; // returns at once: consuming has not started
    for _ in 0..3 {
        let consumer = consume(&bus).await;
        assert!(bus.is_consuming(), "while consuming");
        consumer.stop().await;
        assert!(!bus.is_consuming(), "after the stop");
    }
}

/// After `shutdown`, consuming has ended, and the bus refuses to publish and to consume.
pub async fn after_shutdown_nothing_begins(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_started(&handler, 1).await;
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

/// `shutdown` waits for a delivery until its deadline, then abandons it and returns an error.
pub async fn shutdown_does_not_wait_beyond_its_deadline(bus: Bus, _: Bus) {
    let handler = RecordingHandler::gated();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    publish(&bus, &events(1..=1)).await;
    let consumer = consume(&bus).await;
    wait_until_started(&handler, 1).await;
    let deadline = Duration::from_millis(50);
    let error = bus.shutdown(deadline).await;
    let error = error.expect_err("the handler had not finished");
    assert_eq!(error.timeout, deadline, "the deadline in the error");
    assert!(handler.completed().is_empty(), "the handler had not finished");
    wait_until("the delivery was given up", async || !bus.is_consuming()).await;
    consumer.stop().await;
}
