//! Rules of consumer groups and subscriptions.

use super::{
    Bus,
    fixtures::{RecordingHandler, consume, events, publish, sorted, wait_until, wait_until_idle, wait_until_started},
};
use crate::{
    domain::{event::EventFilter, name::Name},
    port::subscriber::HandlerStart,
};

const OTHER_GROUP: Name = Name::from_static("other");

/// Every group receives every event, independent of other groups.
pub async fn every_group_gets_every_event(bus: Bus, _: Bus) {
    let (mine, theirs) = (RecordingHandler::new(), RecordingHandler::new());
    mine.subscribe(&bus, bus.default_group(), EventFilter::All);
    theirs.subscribe(&bus, &OTHER_GROUP, EventFilter::All);
    publish(&bus, &events(1..=10)).await;
    let consumer = consume(&bus).await;
    publish(&bus, &events(11..=20)).await;
    wait_until_started(&mine, 20).await;
    wait_until_started(&theirs, 20).await;
    wait_until_idle(&bus, bus.default_group()).await;
    wait_until_idle(&bus, &OTHER_GROUP).await;
    consumer.stop().await;
    let expected: Vec<u64> = (1..=20).collect();
    assert_eq!(mine.started(), expected, "one group");
    assert_eq!(theirs.started(), expected, "the other group");
}

/// Two consumers of a group share its events: the bus delivers each event to exactly one of them.
pub async fn two_consumers_of_a_group_share_without_repeats(bus: Bus, other: Bus) {
    let (one, two) = (RecordingHandler::new(), RecordingHandler::new());
    one.subscribe(&bus, bus.default_group(), EventFilter::All);
    let first = consume(&bus).await;
    // if both are one object there is only one consumer
    let second = if other.is_consuming() {
        None
    } else {
        two.subscribe(&other, other.default_group(), EventFilter::All);
        Some(consume(&other).await)
    };
    for first in (1..=200).step_by(4) {
        publish(&bus, &events(first..=first + 3)).await;
    }
    let shared = || [one.started(), two.started()].concat();
    wait_until("both together have got 200 events", async || shared().len() >= 200).await;
    wait_until("no entry is pending", async || bus.stream_info().await.pending_messages == 0).await;
    first.stop().await;
    if let Some(second) = second {
        second.stop().await;
    }
    let mut shared = shared();
    shared.sort_unstable();
    let expected: Vec<u64> = (1..=200).collect();
    assert_eq!(shared, expected, "each event once");
}

/// A subscriber added to a group that is being consumed gets the events that are published from then on.
pub async fn a_subscriber_added_while_consuming_gets_later_events(bus: Bus, _: Bus) {
    let (early, late) = (RecordingHandler::new(), RecordingHandler::new());
    early.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=2)).await;
    wait_until_idle(&bus, bus.default_group()).await;
    late.subscribe(&bus, bus.default_group(), EventFilter::All);
    publish(&bus, &events(3..=4)).await;
    wait_until_started(&late, 2).await;
    wait_until_idle(&bus, bus.default_group()).await;
    consumer.stop().await;
    assert_eq!(sorted(early.started()), [1, 2, 3, 4], "the early subscriber");
    assert_eq!(sorted(late.started()), [3, 4], "the late subscriber");
}

/// A group that gets its first subscriber while the bus consumes starts at the oldest event still held.
pub async fn a_group_added_while_consuming_gets_what_is_held(bus: Bus, _: Bus) {
    let (early, late) = (RecordingHandler::new(), RecordingHandler::new());
    early.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=5)).await;
    wait_until_idle(&bus, bus.default_group()).await;
    late.subscribe(&bus, &OTHER_GROUP, EventFilter::All);
    wait_until_started(&late, 5).await;
    publish(&bus, &events(6..=6)).await;
    wait_until_started(&late, 6).await;
    wait_until_idle(&bus, &OTHER_GROUP).await;
    consumer.stop().await;
    assert_eq!(late.started(), [1, 2, 3, 4, 5, 6], "the late group");
}

/// After `cancel` the subscriber receives no further delivery; other subscribers of the group still receive theirs.
pub async fn a_cancelled_subscription_gets_nothing_more(bus: Bus, _: Bus) {
    let (leaves, stays) = (RecordingHandler::new(), RecordingHandler::new());
    let leaving = leaves.subscribe(&bus, bus.default_group(), EventFilter::All);
    stays.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=2)).await;
    wait_until_idle(&bus, bus.default_group()).await;
    assert!(leaving.cancel(), "the subscription was there");
    assert!(!leaving.cancel(), "it was there only once");
    publish(&bus, &events(3..=4)).await;
    wait_until_idle(&bus, bus.default_group()).await;
    consumer.stop().await;
    assert_eq!(sorted(leaves.started()), [1, 2], "the cancelled subscriber");
    assert_eq!(sorted(stays.started()), [1, 2, 3, 4], "the other subscriber");
}

/// A new group whose handlers all start now receives no event that was published before.
pub async fn a_new_group_whose_handlers_start_now_gets_what_comes(bus: Bus, _: Bus) {
    let (early, late) = (RecordingHandler::new(), RecordingHandler::new().with_start(HandlerStart::Now));
    early.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=2)).await;
    wait_until_idle(&bus, bus.default_group()).await;
    late.subscribe(&bus, &OTHER_GROUP, EventFilter::All);
    let mut last = 2;
    wait_until("the late group gets what comes", async || {
        last += 1;
        publish(&bus, &events(last..=last)).await;
        wait_until_idle(&bus, bus.default_group()).await;
        !late.started().is_empty()
    })
    .await;
    wait_until_idle(&bus, &OTHER_GROUP).await;
    consumer.stop().await;
    let first = *late.started().iter().min().expect("it got events");
    assert!(first > 2, "the late group began with {first}");
    assert_eq!(sorted(late.started()), (first..=last).collect::<Vec<_>>(), "what came from then on");
}
