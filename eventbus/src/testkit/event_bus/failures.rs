//! Rules of acknowledgements and failures.

use super::{
    Bus,
    fixtures::{
        CREATED, RecordingHandler, SHIPPED, consume, created, event, events, progress, publish, wait_until_idle,
        wait_until_started,
    },
};
use crate::domain::event::EventFilter;

/// A delivery is pending while a handler runs; the bus acknowledges it only after the last handler has succeeded.
pub async fn a_delivery_is_pending_until_every_handler_has_succeeded(bus: Bus, _: Bus) {
    let (quick, slow) = (RecordingHandler::new(), RecordingHandler::gated());
    let group = bus.default_group();
    quick.subscribe(&bus, group, EventFilter::All);
    slow.subscribe(&bus, group, EventFilter::All);
    publish(&bus, &events(1..=1)).await;
    let consumer = consume(&bus).await;
    wait_until_started(&slow, 1).await;
    assert_eq!(quick.completed(), [1], "the first handler has succeeded");
    let now = progress(&bus, group).await;
    assert_eq!(now.pending, 1, "acknowledged before the last handler");
    assert_eq!(now.exhausted, 0, "no delivery has failed: {now:?}");
    assert_eq!(bus.stream_info().await.pending_messages, 1, "stream info");
    slow.allow_one();
    wait_until_idle(&bus, group).await;
    assert_eq!(slow.completed(), [1], "acknowledged without the last handler");
    consumer.stop().await;
}

/// If one handler of a delivery fails, those before and after it still run.
pub async fn the_other_handlers_of_a_failed_delivery_still_run(bus: Bus, _: Bus) {
    let (before, failing, after) = (RecordingHandler::new(), RecordingHandler::new(), RecordingHandler::new());
    failing.fail_on(&[1]);
    let group = bus.default_group();
    for handler in [&before, &failing, &after] {
        handler.subscribe(&bus, group, created());
    }
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(before.completed(), [1], "the handler before");
    assert_eq!(after.completed(), [1], "the handler after");
    assert_eq!(bus.stats().handler_errors, 1, "one handler has failed");
    consumer.stop().await;
}

/// A panic fails only that attempt of its delivery: the consumer continues with the next delivery.
pub async fn a_panic_is_a_failure_of_that_delivery_only(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.panic_on(&[1]);
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=2)).await;
    wait_until_idle(&bus, bus.default_group()).await;
    assert_eq!(handler.completed(), [2], "the next delivery");
    assert!(bus.is_consuming(), "the bus goes on consuming");
    assert_eq!(bus.stats().handler_errors, 1, "handler errors");
    consumer.stop().await;
}

/// An event of a type that no handler of the group subscribes to is acknowledged, and counted as skipped.
pub async fn an_event_that_no_handler_wants_is_acknowledged(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), created());
    let consumer = consume(&bus).await;
    let unwanted = [event(SHIPPED, 1), event("NeverHeardOf", 2)];
    publish(&bus, &unwanted).await;
    publish(&bus, &[event(CREATED, 3)]).await;
    wait_until_idle(&bus, bus.default_group()).await;
    assert_eq!(handler.started(), [3], "deliveries");
    consumer.stop().await;
    let stats = bus.stats();
    assert_eq!((stats.events_processed_success, stats.events_skipped), (1, 2), "processed, and skipped");
}

/// A delivery in flight when the consumer is aborted stays unacknowledged, and is delivered again.
pub async fn an_aborted_delivery_comes_again(bus: Bus, _: Bus) {
    let handler = RecordingHandler::gated();
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    publish(&bus, &events(1..=3)).await;
    let consumer = consume(&bus).await;
    handler.allow_one();
    wait_until_started(&handler, 2).await;
    consumer.abort().await;
    let interrupted = handler.completed();
    for _ in 0..6 {
        handler.allow_one();
    }
    let consumer = consume(&bus).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(interrupted, [1], "the second delivery was not finished");
    // new entries may be handled before those that were in flight
    let mut done = handler.completed();
    done.sort_unstable();
    done.dedup();
    assert_eq!(done, [1, 2, 3], "all is handled");
    consumer.stop().await;
}
