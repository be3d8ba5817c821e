//! Rules of publishing and delivering.

use std::sync::Arc;

use parking_lot::Mutex;
use time::macros::datetime;
use uuid::Uuid;

use super::{
    Bus,
    fixtures::{
        CREATED, RecordingHandler, SHIPPED, consume, created, event, event_of, events, publish, shipped, sorted,
        wait_until_idle, wait_until_started,
    },
};
use crate::{
    domain::{
        attributes::Attributes,
        context::EventContext,
        event::EventFilter,
        metadata::Metadata,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{Position, StreamId, Version},
    },
    port::DeadLetterFilter,
};

/// `publish` of no events succeeds, returns no ids and has no effect.
pub async fn publishing_nothing_does_nothing(bus: Bus, _: Bus) {
    let ids = publish(&bus, &[]).await;
    assert!(ids.is_empty(), "ids of no events: {ids:?}");
    assert_eq!(bus.stats().events_published, 0, "events_published");
    assert_eq!(bus.stream_info().await.stream.length, 0, "stream length");
}

/// `publish` returns one id per event, in their order, each greater than all before; deliveries carry them.
pub async fn publish_returns_an_increasing_id_per_event(bus: Bus, _: Bus) {
    let mut ids = publish(&bus, &events(1..=5)).await;
    ids.extend(publish(&bus, &events(6..=6)).await);
    ids.extend(publish(&bus, &events(7..=9)).await);
    assert_eq!(ids.len(), 9, "one id per event: {ids:?}");
    let numbers = |id: &String| -> Vec<u128> { id.split('-').flat_map(str::parse).collect() };
    let increasing = ids.windows(2).all(|pair| numbers(&pair[0]) < numbers(&pair[1]));
    assert!(increasing, "ids do not increase: {ids:?}");

    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    wait_until_started(&handler, 9).await;
    let delivered: Vec<_> =
        handler.deliveries().iter().map(|delivery| delivery.message_id().map(ToString::to_string)).collect();
    let ids: Vec<_> = ids.into_iter().map(Some).collect();
    assert_eq!(delivered, ids, "message ids of the deliveries");
    consumer.stop().await;
}

/// Events published before consuming started and while it runs are delivered.
pub async fn events_published_before_and_after_the_start_are_delivered(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    publish(&bus, &events(1..=2)).await;
    let consumer = consume(&bus).await;
    wait_until_started(&handler, 2).await;
    publish(&bus, &events(3..=4)).await;
    wait_until_started(&handler, 4).await;
    wait_until_idle(&bus, bus.default_group()).await;
    consumer.stop().await;
    // in any order: a queue lists its files while events are published
    let mut started = handler.started();
    started.sort_unstable();
    assert_eq!(started, [1, 2, 3, 4], "each event once");
}

/// One consumer of a group gets the events in the order they were published, within and across calls.
pub async fn order_is_kept_within_a_group(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    for first in (1..=300).step_by(10) {
        publish(&bus, &events(first..=first + 9)).await;
    }
    wait_until_started(&handler, 300).await;
    consumer.stop().await;
    let expected: Vec<u64> = (1..=300).collect();
    assert_eq!(handler.started(), expected, "order of deliveries");
}

/// Returns an event with sealed fields, as a newer release publishes it.
fn event_with_sealed_fields(stream: StreamId) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static(CREATED), 1, r#"{"name":"sealed:1:key:c2VhbGVk"}"#);
    let event = event.recorded_as(stream, Version::new(3), Some(Position::new(2)));
    RecordedEvent::new(event.metadata().clone().with_sealed_fields(true), event.payload())
}

/// Every field of the metadata and every byte of a compact payload reach the handler as they were published.
pub async fn all_metadata_and_the_payload_survive(bus: Bus, _: Bus) {
    let full = EventContext::default()
        .with_correlation(Uuid::from_u128(0x1234))
        .with_causation(Uuid::from_u128(0x5678))
        .with_tenant(Uuid::from_u128(0x9abc))
        .with_actor("Zoë \"root\" \\ 用户")
        .with_attributes(
            Attributes::parse(r#"{"channel":"web","nested":{"b":1,"a":[1.50,null]}}"#).expect("an object"),
        );
    let stream = |id| StreamId::parse("Sales Order", id).expect("a valid stream");
    let published: Vec<RecordedEvent> = vec![
        NewEvent::new(
            Name::from_static("order.created/v2"),
            7,
            r#"{"note":"grüße, 世界 \"\\\u0001\" 🎈","big":9007199254740993,"price":1234.5600,"tiny":5e-324,"list":[{"z":1,"a":-0.0}],"none":null,"metadata_":{},"é":true}"#,
        )
        .with_occurred_at(datetime!(2026-11-20 06:57:24.243_021 UTC))
        .with_context(full)
        .with_original_recorded_at(datetime!(2019-05-17 08:30:00.000_001 UTC))
        .recorded_as(stream("path/to ☂.rs"), Version::new(42), Some(Position::new(u64::MAX / 4)))
        .with_recorded_at(Some(datetime!(2026-11-20 06:57:25 UTC))),
        NewEvent::new(Name::from_static(CREATED), 1, "{}")
            .with_occurred_at(datetime!(2026-01-02 03:04:05 UTC))
            .recorded_as(stream("12345"), Version::FIRST, None),
        NewEvent::new(Name::from_static(CREATED), 1, r#"{"a":[]}"#)
            .with_occurred_at(datetime!(1969-12-31 23:59:59.000_120 UTC))
            .recorded_as(stream("12345"), Version::new(2), Some(Position::new(1)))
            .with_recorded_at(Some(datetime!(2026-11-20 06:57:25.000_120 UTC))),
        event_with_sealed_fields(stream("12345")),
    ];
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &published).await;
    wait_until_started(&handler, published.len()).await;
    consumer.stop().await;
    for (published, delivery) in published.iter().zip(handler.deliveries()) {
        assert_eq!(delivery.metadata(), published.metadata(), "metadata");
        assert_eq!(delivery.record().payload(), published.payload(), "payload");
        assert_eq!(delivery.group(), bus.default_group(), "group");
        assert_eq!(delivery.attempt(), 1, "attempt");
    }
}

/// An event id is unique within its stream only: events of different streams with the same id are all delivered, and
/// each becomes a dead letter, or is replayed, by itself.
pub async fn events_with_one_id_in_different_streams_are_all_delivered(bus: Bus, _: Bus) {
    let (first, tenant) = (event_of("1", CREATED, 1), Uuid::from_u128(7));
    let of_stream = |stream: StreamId, number| {
        let event = event(CREATED, number);
        let (metadata, at) = (first.metadata(), first.metadata().occurred_at());
        let event_type = metadata.event_type().clone();
        let metadata = Metadata::new(metadata.event_id(), event_type, stream, Version::FIRST, at);
        RecordedEvent::new(metadata, event.payload())
    };
    let stream = |aggregate_type, id| StreamId::parse(aggregate_type, id).expect("a valid stream");
    let published = [
        first.clone(),
        of_stream(stream("Order", "2"), 2),
        of_stream(stream("order", "1"), 3),
        of_stream(stream("Order", "1").with_tenant_id(Some(tenant)), 4),
    ];
    let handler = RecordingHandler::new().with_retries(1);
    handler.fail_on(&[2, 4]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &published).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(sorted(handler.started()), [1, 2, 2, 3, 4, 4], "first attempts and retries");
    assert_eq!(sorted(handler.completed()), [1, 3], "events that were handled");
    let dead_letters = bus.dead_letters().expect("the suite is for buses that offer dead letters");
    let page = dead_letters.list_dead_letters(&DeadLetterFilter::default(), None, 10).await;
    let letters = page.expect("dead letters are listed").letters;
    let mut dead: Vec<_> = letters.iter().filter_map(|dead_letter| dead_letter.record.clone()).collect();
    dead.sort_by_key(|record| record.payload().to_owned());
    assert_eq!(dead, [published[1].clone(), published[3].clone()], "dead letters");
    handler.fail_on(&[]);
    for dead_letter in &letters {
        assert!(dead_letters.replay(&dead_letter.id).await.expect("a dead letter is replayed"), "it was there");
    }
    wait_until_started(&handler, 8).await;
    wait_until_idle(&bus, group).await;
    consumer.stop().await;
    assert_eq!(sorted(handler.completed()), [1, 2, 3, 4], "each is handled once");
}

/// A subscriber receives only the types it subscribed to; a wildcard subscriber receives all.
pub async fn typed_subscribers_get_their_types_and_wildcards_everything(bus: Bus, _: Bus) {
    let (of_created, of_shipped, of_all) = (RecordingHandler::new(), RecordingHandler::new(), RecordingHandler::new());
    of_created.subscribe(&bus, bus.default_group(), created());
    of_shipped.subscribe(&bus, bus.default_group(), shipped());
    of_all.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    let all = [event(CREATED, 1), event(SHIPPED, 2), event("OrderLost", 3), event(CREATED, 4)];
    publish(&bus, &all).await;
    wait_until_started(&of_all, 4).await;
    wait_until_idle(&bus, bus.default_group()).await;
    consumer.stop().await;
    assert_eq!(sorted(of_created.started()), [1, 4], "the subscriber of one type");
    assert_eq!(of_shipped.started(), [2], "the subscriber of the other type");
    assert_eq!(sorted(of_all.started()), [1, 2, 3, 4], "the subscriber of all types");
}

/// At each delivery, subscribers of the type run first and wildcards after them, both in the order in which they
/// subscribed.
pub async fn typed_subscribers_run_before_wildcards(bus: Bus, _: Bus) {
    let notes = Arc::new(Mutex::default());
    let group = bus.default_group();
    RecordingHandler::logging("wildcard", &notes).subscribe(&bus, group, EventFilter::All);
    RecordingHandler::logging("first", &notes).subscribe(&bus, group, created());
    RecordingHandler::logging("second", &notes).subscribe(&bus, group, created());
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_idle(&bus, group).await;
    consumer.stop().await;
    assert_eq!(*notes.lock(), ["first", "second", "wildcard"], "order");
}

/// A thousand events are published in one call and delivered in order.
pub async fn one_publish_of_a_thousand_events_is_delivered(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let ids = publish(&bus, &events(1..=1_000)).await;
    assert_eq!(ids.len(), 1_000, "ids");
    let consumer = consume(&bus).await;
    wait_until_started(&handler, 1_000).await;
    wait_until_idle(&bus, bus.default_group()).await;
    consumer.stop().await;
    let expected: Vec<u64> = (1..=1_000).collect();
    assert_eq!(handler.started(), expected, "order of deliveries");
}

/// An event of a megabyte is delivered unchanged.
pub async fn a_large_payload_is_delivered(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    let payload = format!(r#"{{"text":"{}"}}"#, "0123456789abcde€".repeat(60_000));
    let stream = StreamId::parse("Order", "large").expect("a valid stream");
    let large = NewEvent::new(Name::from_static(CREATED), 1, payload.clone());
    publish(&bus, &[large.recorded_as(stream, Version::FIRST, None)]).await;
    wait_until_started(&handler, 1).await;
    consumer.stop().await;
    let whole = handler.deliveries()[0].record().payload() == payload;
    assert!(whole, "the large payload changed");
}

/// One process consumes the events that a second process publishes.
pub async fn publisher_and_consumer_may_be_apart(bus: Bus, other: Bus) {
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&other, &events(1..=3)).await;
    wait_until_started(&handler, 3).await;
    consumer.stop().await;
    assert_eq!(sorted(handler.started()), [1, 2, 3], "deliveries");
    assert_eq!(other.stats().events_published, 3, "events_published");
}
