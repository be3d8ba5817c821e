//! Rules of two releases in one group, one of which handles event types that the other does not.

use super::{
    Bus,
    fixtures::{ARCHIVED, CANCELLED, CREATED, SHIPPED},
    fixtures::{
        RecordingHandler, consume, created, event, event_of, events, newer_event_of, newer_shipped, of_newer_release,
        publish, shipped, wait_until, wait_until_idle, wait_until_started,
    },
};
use crate::{
    domain::{event::EventFilter, name::Name, record::RecordedEvent},
    port::{Announced, SkippedBefore, subscriber::HandlerStart},
};

const NEW_GROUP: Name = Name::from_static("new");

/// Makes the group skip two [`SHIPPED`] events, 1 and 2, by handling only [`CREATED`] event 3, which follows them.
async fn skip_two_events(bus: &Bus) {
    let old = RecordingHandler::new();
    old.subscribe(bus, bus.default_group(), created());
    let consumer = consume(bus).await;
    publish(bus, &[event(SHIPPED, 1), event(SHIPPED, 2), event(CREATED, 3)]).await;
    wait_until_started(&old, 1).await;
    wait_until("both other events are skipped", async || bus.stats().events_skipped == 2).await;
    wait_until_idle(bus, bus.default_group()).await;
    consumer.stop().await;
}

/// Returns the numbers of the events that a handler received, sorted: the events of different aggregates come in any
/// order.
fn sorted_started(handler: &RecordingHandler) -> Vec<u64> {
    let mut started = handler.started();
    started.sort_unstable();
    started
}

/// Skipped events of a type are delivered once, if a handler of the type joins soon after.
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

/// If a member of the group has announced a newer schema version, an event of that or a later version that fails at an
/// older release is left to the newer release at once: the handler of the older release does not use its retries.
pub async fn what_only_a_newer_release_can_decode_is_left_to_it(bus: Bus, other: Bus) {
    let newer = RecordingHandler::new();
    let subscription = newer.subscribe(&bus, bus.default_group(), newer_shipped());
    let consumer = consume(&bus).await;
    publish(&bus, &[newer_event_of("order", 1)]).await;
    wait_until_started(&newer, 1).await;
    wait_until_idle(&bus, bus.default_group()).await;
    consumer.stop().await;
    subscription.cancel();
    let older = RecordingHandler::new().with_retries(1_000).with_error(of_newer_release);
    older.fail_on(&[2]);
    let subscription = older.subscribe(&bus, bus.default_group(), shipped());
    let consumer = consume(&bus).await;
    publish(&bus, &[newer_event_of("order", 2), event_of("order", SHIPPED, 3)]).await;
    // a retry would block the next event of the aggregate
    wait_until("the next event is handled", async || older.completed() == [3]).await;
    consumer.stop().await;
    subscription.cancel();
    newer.subscribe(&other, other.default_group(), newer_shipped());
    let consumer = consume(&other).await;
    wait_until_started(&newer, 2).await;
    wait_until_idle(&other, other.default_group()).await;
    consumer.stop().await;
    assert_eq!((older.started(), newer.completed()), (vec![2, 3], vec![1, 2]), "older, and newer");
    assert_eq!(bus.stream_info().await.dlq_messages, 0, "dead letters");
}

/// A new group whose handlers all start now receives no event that was published before.
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

/// Events that were skipped too long ago are not delivered until the handler declares where it starts. For a bus that
/// treats all skipped events so.
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
    let older = other.announce(&undecided, None).await.expect("the bus accepts the announcement");
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
    let older = other.announce(&undecided, None).await.expect("the bus accepts the announcement");
    assert!(older.is_empty(), "the choice was recorded: {older:?}");
}

/// While one type is undecided, an announcement records nothing: no other type, in no group, and no choice about other
/// skipped events. For a bus that treats all skipped events as skipped long ago.
pub async fn an_announcement_with_an_undecided_type_records_nothing(bus: Bus, other: Bus) {
    let groups = [bus.default_group().clone(), NEW_GROUP];
    let handlers = [RecordingHandler::new(), RecordingHandler::new()];
    for (handler, group) in handlers.iter().zip(&groups) {
        handler.subscribe(&bus, group, created());
    }
    let handle_and_skip = async |events: &[RecordedEvent], started: usize, skipped: u64| {
        let consumer = consume(&bus).await;
        publish(&bus, events).await;
        for handler in &handlers {
            wait_until_started(handler, started).await;
        }
        wait_until("the other events are skipped", async || bus.stats().events_skipped == skipped).await;
        for group in &groups {
            wait_until_idle(&bus, group).await;
        }
        consumer.stop().await;
    };
    // each group handles one event and skips three
    let events = [event(SHIPPED, 1), event(SHIPPED, 2), event(CANCELLED, 3), event(CREATED, 4)];
    handle_and_skip(&events, 1, 6).await;
    let announced = |group: &Name, event_type: &'static str, start| Announced {
        group: group.clone(),
        event_type: Some(Name::from_static(event_type)),
        schema_version: 1,
        start,
    };
    let release = [
        announced(&NEW_GROUP, ARCHIVED, None),
        announced(&groups[0], ARCHIVED, None),
        announced(&groups[0], SHIPPED, None),
        announced(&groups[0], CANCELLED, Some(HandlerStart::Now)),
    ];
    let undecided = async |announced: &[Announced]| {
        let older = other.announce(announced, None).await.expect("the bus accepts the announcement");
        older.into_iter().map(|skipped| (skipped.event_type, skipped.count)).collect::<Vec<_>>()
    };
    // of one group, and of several
    for announced in [&release[1..], &release] {
        assert_eq!(undecided(announced).await, [(SHIPPED.to_owned(), 2)], "what is undecided");
    }
    let cancelled = [announced(&groups[0], CANCELLED, None)];
    assert_eq!(undecided(&cancelled).await, [(CANCELLED.to_owned(), 1)], "the choice was not recorded");
    // events of announced types would be left for a handler
    handle_and_skip(&[event(ARCHIVED, 5), event(CREATED, 6)], 2, 8).await;
}
