//! Events of types that no handler of a member takes, and of versions that none can read.

use std::time::Duration;

use eventbus::{
    HandlerError, Name, NewEvent, RecordedEvent, StreamId, Version,
    event::{DecodeError, EventDescriptor, EventFilter, Source},
    handler::HandlerOptions,
    health::HealthThresholds,
    port::EventBus,
    testkit::ManualClock,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

use crate::common::{
    actor::{
        Act, Actor, ONLY_CREATED, SHIPPED, connect, dead_letter_count, named, notes, pending, quick, until_finished,
    },
    log,
    seen::{event, start},
    until,
};

const fn shipped_of(version: u32) -> EventDescriptor {
    EventDescriptor::new(SHIPPED, "Order", version, SHIPPED, Source::new(file!(), line!(), module_path!()))
}

const SHIPPED_1: EventFilter = EventFilter::Only(&[shipped_of(1)]);
const SHIPPED_2: EventFilter = EventFilter::Only(&[shipped_of(2)]);

fn shipped(id: &str, schema_version: u32) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static(SHIPPED), schema_version, "{}");
    event.recorded_as(StreamId::parse("Order", id).unwrap(), Version::FIRST, None)
}

/// A handler that cannot read the version.
fn cannot_read() -> Actor {
    Actor::new(|_, _| {
        let name = Name::from_static(SHIPPED);
        Act::Fail(HandlerError::undecodable(DecodeError::NewerVersion { event_type: name, found: 2, known: 1 }))
    })
}

fn handles(actor: &Actor, bus: &RedisEventBus, events: EventFilter) {
    actor.join_as(bus, "act", events, HandlerOptions::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_type_that_no_handler_takes_is_acknowledged_counted_and_logged_once() {
    log::keep();
    let bus = connect(&quick()).await;
    let created = Actor::willing();
    handles(&created, &bus, ONLY_CREATED);
    start(&bus).await;
    // of this test alone: all tests of this program log in one place
    let lost = |id: &str| {
        let event = NewEvent::new(Name::from_static("OrderLost"), 1, "{}");
        event.recorded_as(StreamId::parse("Order", id).unwrap(), Version::FIRST, None)
    };
    bus.publish(&[lost("a"), event("b"), lost("c")]).await.unwrap();
    until_finished(&bus).await;
    until("both are counted", async || bus.stats().events_skipped == 2).await;
    assert_eq!(created.done(), ["b"]);
    assert_eq!(log::lines(&["no handler", "OrderLost"]).len(), 1);
    bus.stop_consuming().await;
}

/// Fails if the entry stays with the member that cannot read it, or if that member counts an attempt.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_version_that_one_member_cannot_read_is_handled_by_one_that_can() {
    let bus = connect(&RedisEventBusConfig { pending_idle_ms: 200, ..quick() }).await;
    let old = cannot_read();
    handles(&old, &bus, SHIPPED_1);
    start(&bus).await;
    bus.publish(&[shipped("a", 2), shipped("b", 2)]).await.unwrap();
    until("the member has tried both", async || notes(&bus).await.len() == 2).await;
    assert!(notes(&bus).await.values().all(|noted| noted.starts_with(r#"{"attempts":0,"#)), "{:?}", notes(&bus).await);
    assert_eq!((pending(&bus).await.len(), dead_letter_count(&bus).await), (2, 0));

    let newer = named(&bus, "newer").await;
    let new = Actor::willing();
    handles(&new, &newer, SHIPPED_2);
    start(&newer).await;
    until("the newer member has handled both", async || new.done().len() == 2).await;
    until_finished(&bus).await;
    assert_eq!(dead_letter_count(&bus).await, 0);
    bus.stop_consuming().await;
    newer.stop_consuming().await;
}

/// A consumer of a newer release under the same name begins with what the older one could not read.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_release_could_not_read_is_handled_by_the_next_release_of_that_name() {
    let bus = connect(&RedisEventBusConfig { pending_idle_ms: 60_000, ..quick() }).await;
    handles(&cannot_read(), &bus, SHIPPED_1);
    start(&bus).await;
    bus.publish(&[shipped("a", 2)]).await.unwrap();
    until("the member has tried it", async || notes(&bus).await.len() == 1).await;
    bus.shutdown(Duration::from_secs(10)).await.unwrap();

    let next = RedisEventBus::connect(bus.config().clone()).await.unwrap();
    let new = Actor::willing();
    handles(&new, &next, SHIPPED_2);
    start(&next).await;
    until("the next release has handled it", async || new.done() == ["a"]).await;
    next.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_member_can_read_for_five_minutes_is_an_alert() {
    let clock = ManualClock::new();
    let bus = connect(&RedisEventBusConfig { clock: clock.clone().into(), pending_idle_ms: 60_000, ..quick() }).await;
    handles(&cannot_read(), &bus, SHIPPED_1);
    start(&bus).await;
    bus.publish(&[shipped("a", 2)]).await.unwrap();
    until("the member has tried it", async || notes(&bus).await.len() == 1).await;
    let alerts = async || bus.health().await.alerts(&HealthThresholds::default());
    assert!(alerts().await.is_empty(), "{:?}", alerts().await);
    clock.advance(Duration::from_secs(301));
    let alerts = alerts().await;
    assert!(alerts.len() == 1 && alerts[0].contains(bus.default_group().as_str()), "{alerts:?}");
    bus.stop_consuming().await;
}
