//! Rules of releases of one group, of which one handles event types that the other does not.

use super::{
    Bus,
    fixtures::{CREATED, SHIPPED},
    fixtures::{
        RecordingHandler, consume, created, event, events, publish, shipped, wait_until, wait_until_idle,
        wait_until_started,
    },
};
use crate::{
    domain::{event::EventFilter, name::Name},
    port::{Announced, HandlerStart, SkippedBefore},
};

const NEW_GROUP: Name = Name::from_static("new");

/// Has the group handle [`CREATED`] events only, with [`SHIPPED`] events 1 and 2 before the last, 3.
async fn skip_two_events(bus: &Bus) {
    let old = RecordingHandler::new();
    old.subscribe(bus, bus.default_group(), created());
    let consumer = consume(bus).await;
    publish(bus, &[event(SHIPPED, 1), event(SHIPPED, 2), event(CREATED, 3)]).await;
    wait_until_started(&old, 1).await;
    wait_until("the others are skipped", async || bus.stats().events_skipped == 2).await;
    wait_until_idle(bus, bus.default_group()).await;
    consumer.stop().await;
}

/// The events that a witness got; they are of aggregates of their own, which have no order among each other.
fn sorted_started(witness: &RecordingHandler) -> Vec<u64> {
    let mut begun = witness.started();
    begun.sort_unstable();
    begun
}

/// What a group skipped of a type is delivered, once, when a handler of the type comes soon after.
pub async fn what_was_skipped_is_delivered_when_its_type_is_first_announced(bus: Bus, other: Bus) {
    skip_two_events(&bus).await;
    let new = RecordingHandler::new();
    new.subscribe(&other, other.default_group(), shipped());
    let consumer = consume(&other).await;
    wait_until_started(&new, 2).await;
    publish(&other, &[event(SHIPPED, 4)]).await;
    wait_until_started(&new, 3).await;
    wait_until_idle(&other, other.default_group()).await;
    consumer.stop().await;
    assert_eq!(sorted_started(&new), [1, 2, 4], "each once");
}

/// Events of a type that the group announced before are not skipped: they wait for a handler of the type.
pub async fn what_was_announced_before_waits_for_a_handler(bus: Bus, other: Bus) {
    let (old, new) = (RecordingHandler::new(), RecordingHandler::new());
    let subscription = old.subscribe(&bus, bus.default_group(), shipped());
    let consumer = consume(&bus).await;
    publish(&bus, &[event(SHIPPED, 1)]).await;
    wait_until_started(&old, 1).await;
    wait_until_idle(&bus, bus.default_group()).await;
    consumer.stop().await;
    subscription.cancel();
    let less = RecordingHandler::new();
    less.subscribe(&bus, bus.default_group(), created());
    let consumer = consume(&bus).await;
    publish(&bus, &[event(SHIPPED, 2), event(CREATED, 3)]).await;
    wait_until_started(&less, 1).await;
    consumer.stop().await;
    new.subscribe(&other, other.default_group(), shipped());
    let consumer = consume(&other).await;
    wait_until_started(&new, 1).await;
    wait_until_idle(&other, other.default_group()).await;
    consumer.stop().await;
    assert_eq!((new.started(), bus.stats().events_skipped), (vec![2], 0), "what waited, and what was skipped");
}

/// A new group whose handlers all start now gets nothing that was published before.
pub async fn a_new_group_whose_handlers_start_now_gets_what_comes(bus: Bus, _: Bus) {
    let (early, late) = (RecordingHandler::new(), RecordingHandler::new().with_start(HandlerStart::Now));
    early.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=2)).await;
    wait_until_idle(&bus, bus.default_group()).await;
    late.subscribe(&bus, &NEW_GROUP, EventFilter::All);
    let mut last = 2;
    wait_until("the late group gets what comes", async || {
        last += 1;
        publish(&bus, &events(last..=last)).await;
        wait_until_idle(&bus, bus.default_group()).await;
        !late.started().is_empty()
    })
    .await;
    wait_until_idle(&bus, &NEW_GROUP).await;
    consumer.stop().await;
    let first = *late.started().iter().min().expect("it got events");
    assert!(first > 2, "the late group began with {first}");
    assert_eq!(sorted_started(&late), (first..=last).collect::<Vec<_>>(), "what came from then on");
}

/// What was skipped longer ago than it is delivered by itself is undecided, until the handler says where it starts: for a
/// bus that takes everything for that.
pub async fn what_was_skipped_long_ago_is_to_be_decided_once(bus: Bus, other: Bus) {
    skip_two_events(&bus).await;
    let new = RecordingHandler::new().with_start(HandlerStart::Oldest);
    let undecided = {
        let undecided = RecordingHandler::new();
        let subscription = undecided.subscribe(&other, other.default_group(), shipped());
        let announced = Announced::by_subscribers(other.default_group(), &other.subscribers());
        subscription.cancel();
        announced
    };
    let older = other.announce(&undecided, None).await.expect("the bus can be asked");
    let [SkippedBefore { event_type, count, .. }] = &older[..] else {
        panic!("one type is undecided: {older:?}");
    };
    assert_eq!((event_type.as_str(), *count), (SHIPPED, 2), "what is undecided");
    new.subscribe(&other, other.default_group(), shipped());
    let consumer = consume(&other).await;
    wait_until_started(&new, 2).await;
    wait_until_idle(&other, other.default_group()).await;
    consumer.stop().await;
    assert_eq!(sorted_started(&new), [1, 2], "what was skipped");
    let older = other.announce(&undecided, None).await.expect("the bus can be asked");
    assert!(older.is_empty(), "the choice was recorded: {older:?}");
}
