//! Rules of events that every bus refuses to publish, because a reader could not decode them unambiguously.

use std::sync::Arc;

use time::{OffsetDateTime, macros::datetime};

use super::{
    Bus,
    fixtures::{CREATED, RecordingHandler, consume, event, publish, wait_until_idle, wait_until_started},
};
use crate::{
    EventContext, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    domain::{attributes::Attributes, event::EventFilter, validity::RESERVED_FIELDS},
    port::PublishError,
};

fn recorded(event: NewEvent) -> RecordedEvent {
    event.recorded_as(StreamId::parse("Order", "given").expect("a valid stream"), Version::FIRST, None)
}

fn with_payload(payload: impl Into<Arc<str>>) -> NewEvent {
    NewEvent::new(Name::from_static(CREATED), 1, payload)
}

fn event_of_an_import(original_recorded_at: OffsetDateTime) -> NewEvent {
    with_payload("{}").with_original_recorded_at(original_recorded_at)
}

/// Publishes an event between two valid ones: none of them may be published.
async fn assert_refused(bus: &Bus, what: &str, bad: &RecordedEvent) {
    let events = [event(CREATED, 1), bad.clone(), event(CREATED, 2)];
    match bus.publish(&events).await {
        Err(PublishError::Refused { event_id, .. }) => {
            assert_eq!(event_id, Some(bad.metadata().event_id()), "{what}: the refusal names another event");
        }
        other => panic!("{what}: it is not refused: {other:?}"),
    }
}

/// Publishes and delivers one valid event, and checks that it is the only one on the bus.
async fn assert_nothing_published(bus: &Bus) {
    let handler = RecordingHandler::new();
    handler.subscribe(bus, bus.default_group(), EventFilter::All);
    publish(bus, &[event(CREATED, 7)]).await;
    let consumer = consume(bus).await;
    wait_until_started(&handler, 1).await;
    wait_until_idle(bus, bus.default_group()).await;
    consumer.stop().await;
    assert_eq!(handler.started(), [7], "deliveries");
}

/// An event with payload fields named like fields of the envelope is refused: it cannot pass for an event of a
/// different type, aggregate, tenant or actor.
pub async fn a_payload_takes_over_no_identity(bus: Bus, _: Bus) {
    for field in RESERVED_FIELDS {
        let escaped = format!("\\u{:04x}{}", u32::from(field.as_bytes()[0]), &field[1..]);
        for payload in [format!(r#"{{"{field}":"Vault"}}"#), format!(r#"{{"a":1, "{escaped}":null}}"#)] {
            assert_refused(&bus, &payload, &recorded(with_payload(&*payload))).await;
        }
    }
    let takeover = r#"{"aggregate_type":"Vault","aggregate_id":"admin","tenant_id":null,"actor_id":"root"}"#;
    assert_refused(&bus, takeover, &recorded(with_payload(takeover))).await;
    assert_nothing_published(&bus).await;
}

/// An event that some bus or store cannot carry is refused by every bus, before any event of the call is published.
pub async fn what_not_every_bus_can_carry_is_refused(bus: Bus, _: Bus) {
    let stream = || StreamId::parse("Order", "given").expect("a valid stream");
    let deep = format!("{}1{}", r#"{"a":"#.repeat(128), "}".repeat(128));
    for (what, bad) in [
        ("no object", recorded(with_payload("[1]"))),
        ("no JSON", recorded(with_payload(r#"{"a":1"#))),
        ("two objects", recorded(with_payload("{}{}"))),
        ("no value", recorded(with_payload(r#"{"a"}"#))),
        ("surrogate alone", recorded(with_payload(r#"{"a":"\udc00"}"#))),
        ("too deep", recorded(with_payload(deep))),
        (
            "null character in the actor",
            recorded(with_payload("{}").with_context(EventContext::default().with_actor("\0"))),
        ),
        ("schema version 0", recorded(NewEvent::new(Name::from_static(CREATED), 0, "{}"))),
        ("schema version 2^31", recorded(NewEvent::new(Name::from_static(CREATED), 1 << 31, "{}"))),
        ("year 0", recorded(with_payload("{}").with_occurred_at(datetime!(0000-06-01 00:00 UTC)))),
        ("year 10000 in UTC", recorded(with_payload("{}").with_occurred_at(datetime!(9999-12-31 23:30 -01:00)))),
        ("year 0 of an import", recorded(event_of_an_import(datetime!(0000-06-01 00:00 UTC)))),
        ("year 10000 of an import", recorded(event_of_an_import(datetime!(9999-12-31 23:30 -01:00)))),
        ("recorded in year 0", recorded(with_payload("{}")).with_recorded_at(Some(datetime!(0000-06-01 00:00 UTC)))),
        ("version 0", with_payload("{}").recorded_as(stream(), Version::NONE, Some(Position::new(1)))),
        ("version 2^63", with_payload("{}").recorded_as(stream(), Version::new(1 << 63), None)),
    ] {
        assert_refused(&bus, what, &bad).await;
    }
    assert_nothing_published(&bus).await;
}

/// Events just within those bounds are delivered as they were published, also with null characters as Python writes
/// them.
pub async fn what_every_bus_can_carry_is_delivered(bus: Bus, _: Bus) {
    let deep = format!("{}1{}", r#"{"a":"#.repeat(127), "}".repeat(127));
    let null = Attributes::from(serde_json::Map::from_iter([("a".to_owned(), "\0".into())]));
    let stream = || StreamId::parse("Order", "given").expect("a valid stream");
    let published = [
        recorded(with_payload(deep)),
        recorded(with_payload(r#"{"a":"\u0000\u0001\\u0000\ud83e\udd80","of":{"event_id":1}}"#)),
        recorded(with_payload("{}").with_context(EventContext::default().with_attributes(null))),
        recorded(NewEvent::new(Name::from_static(CREATED), (1 << 31) - 1, "{}")),
        recorded(with_payload("{}").with_occurred_at(datetime!(0001-01-01 00:00 UTC))),
        recorded(with_payload("{}").with_occurred_at(datetime!(9999-12-31 23:59:59.999_999 UTC))),
        recorded(event_of_an_import(datetime!(9999-12-31 23:59:59.999_999 UTC)))
            .with_recorded_at(Some(datetime!(0001-01-01 00:00 UTC))),
        with_payload("{}").recorded_as(stream(), Version::MAX, None),
    ];
    let handler = RecordingHandler::new();
    handler.subscribe(&bus, bus.default_group(), EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &published).await;
    wait_until_started(&handler, published.len()).await;
    wait_until_idle(&bus, bus.default_group()).await;
    consumer.stop().await;
    let delivered: Vec<_> = handler.deliveries().iter().map(|delivery| delivery.record().clone()).collect();
    assert_eq!(delivered, published, "events as they were published");
}
