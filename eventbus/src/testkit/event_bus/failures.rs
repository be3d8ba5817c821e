//! Rules of acknowledging and failing.

use super::{
    Bus,
    fixtures::{
        CREATED, RecordingHandler, SHIPPED, consume, created, event, events, progress, publish, wait_until_idle,
        wait_until_started,
    },
};
use crate::domain::event::EventFilter;

/// While a handler works the delivery is pending; it is acknowledged only after the last handler succeeded.
pub async fn a_delivery_is_pending_until_every_handler_has_succeeded(bus: Bus, _: Bus) {
    let (quick, slow) = (RecordingHandler::new(), RecordingHandler::gated());
    let group = bus.default_group();
    quick.subscribe(&bus, group, EventFilter::All);
    slow.subscribe(&bus, group, EventFilter::All);
    publish(&bus, &events(1..=1)).await;
    let consumer = consume(&bus).await;
    wait_until_started(&slow, 1).await;
    assert_eq!(quick.completed(), [1], "the first handler is done");
    let now = progress(&bus, group).await;
    assert_eq!(now.pending, 1, "acknowledged before the last handler");
    assert_eq!(now.exhausted, 0, "nothing has failed: {now:?}");
    assert_eq!(bus.stream_info().await.pending_messages, 1, "stream info");
    slow.allow_one();
    wait_until_idle(&bus, group).await;
    assert_eq!(slow.completed(), [1], "acknowledged without the last handler");
    consumer.stop().await;
}

/// The other handlers of a delivery run though one has failed, whichever came first.
pub async fn the_other_handlers_of_a_failed_delivery_still_run(bus: Bus, _: Bus) {
    let (before, failing, after) = (RecordingHandler::new(), RecordingHandler::new(), RecordingHandler::new());
    failing.fail_on(&[1]);
    let group = bus.default_group();
    for witness in [&before, &failing, &after] {
        witness.subscribe(&bus, group, created());
    }
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(before.completed(), [1], "the handler before");
    assert_eq!(after.completed(), [1], "the handler after");
    assert_eq!(bus.stats().handler_errors, 1, "one handler has failed");
    consumer.stop().await;
}

/// A handler that panics fails this try, and neither the consumer nor the next delivery.
pub async fn a_panic_is_a_failure_of_that_delivery_only(bus: Bus, _: Bus) {
    let witness = RecordingHandler::new();
    witness.panic_on(&[1]);
    witness.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=2)).await;
    wait_until_idle(&bus, bus.default_group()).await;
    assert_eq!(witness.completed(), [2], "the next delivery");
    assert!(bus.is_consuming(), "the bus goes on consuming");
    assert_eq!(bus.stats().handler_errors, 1, "handler errors");
    consumer.stop().await;
}

/// An event of a type that no handler of the group wants is acknowledged, and counted as skipped.
pub async fn an_event_that_no_handler_wants_is_acknowledged(bus: Bus, _: Bus) {
    let witness = RecordingHandler::new();
    witness.subscribe(&bus, bus.default_group(), created());
    let consumer = consume(&bus).await;
    let unwanted = [event(SHIPPED, 1), event("NeverHeardOf", 2)];
    publish(&bus, &unwanted).await;
    publish(&bus, &[event(CREATED, 3)]).await;
    wait_until_idle(&bus, bus.default_group()).await;
    assert_eq!(witness.started(), [3], "deliveries");
    consumer.stop().await;
    let stats = bus.stats();
    assert_eq!((stats.events_processed_success, stats.events_skipped), (1, 2), "processed, and skipped");
}

/// A delivery that was in hand when the consumer was aborted was not acknowledged, and comes again.
pub async fn an_aborted_delivery_comes_again(bus: Bus, _: Bus) {
    let witness = RecordingHandler::gated();
    let group = bus.default_group();
    witness.subscribe(&bus, group, EventFilter::All);
    publish(&bus, &events(1..=3)).await;
    let consumer = consume(&bus).await;
    witness.allow_one();
    wait_until_started(&witness, 2).await;
    consumer.abort().await;
    let interrupted = witness.completed();
    for _ in 0..6 {
        witness.allow_one();
    }
    let consumer = consume(&bus).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(interrupted, [1], "the second delivery was not finished");
    // what was not in flight may be handled before what was
    let mut done = witness.completed();
    done.sort_unstable();
    done.dedup();
    assert_eq!(done, [1, 2, 3], "all is handled");
    consumer.stop().await;
}
