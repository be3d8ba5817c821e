//! Members of one group.

use std::time::Duration;

use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version, event::EventFilter, handler::HandlerOptions, port::EventBus,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

use crate::common::{
    actor::{Actor, CREATED, ONLY_CREATED, SHIPPED, connect, named, numbered, publish_all, quick, until_finished},
    seen::start,
    until,
};

fn of_type(event_type: &'static str, id: &str) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static(event_type), 1, "{}");
    event.recorded_as(StreamId::parse("Order", id).unwrap(), Version::FIRST, None)
}

/// Publishes events of alternating types; returns the ids of the aggregates by type.
async fn publish_mixed(bus: &RedisEventBus, count: usize) -> (Vec<String>, Vec<String>) {
    let ids = numbered(count);
    let events: Vec<_> =
        ids.iter().enumerate().map(|(n, id)| of_type(if n % 2 == 0 { CREATED } else { SHIPPED }, id)).collect();
    bus.publish(&events).await.unwrap();
    let of = |rest| ids.iter().enumerate().filter(move |(n, _)| n % 2 == rest).map(|(_, id)| id.clone()).collect();
    (of(0), of(1))
}

fn handles(actor: &Actor, bus: &RedisEventBus, events: EventFilter) -> eventbus::port::Subscription {
    actor.join_as(bus, "act", events, HandlerOptions::default())
}

/// Two members of one group; `pending_idle_ms` is long, so that no member reclaims entries by their idle time.
async fn two(pending_idle_ms: u64) -> (RedisEventBus, RedisEventBus) {
    let config = RedisEventBusConfig { pending_idle_ms, batch_size: 10, ..quick() };
    let bus = connect(&config).await;
    let other = named(&bus, "other").await;
    (bus, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_nobody_handles_is_acknowledged_and_counted() {
    let (bus, other) = two(60_000).await;
    let (mine, theirs) = (Actor::willing(), Actor::willing());
    handles(&mine, &bus, ONLY_CREATED);
    handles(&theirs, &other, ONLY_CREATED);
    publish_mixed(&bus, 40).await;
    start(&bus).await;
    start(&other).await;
    until_finished(&bus).await;
    bus.stop_consuming().await;
    other.stop_consuming().await;
    assert_eq!(bus.stats().events_skipped + other.stats().events_skipped, 20);
    assert_eq!(mine.done().len() + theirs.done().len(), 20);
}

/// Claims are long here: the other member would wait for them if the process had died.
#[tokio::test(flavor = "multi_thread")]
async fn another_consumer_receives_at_once_what_a_shutdown_aborts() {
    let config = RedisEventBusConfig { pending_idle_ms: 300_000, concurrency: 2, consumer_name: None, ..quick() };
    let (bus, other) = (connect(&config).await, connect(&config).await);
    let (waiting, willing) = (Actor::waiting(), Actor::willing());
    waiting.join(&bus);
    willing.join(&other);
    start(&bus).await;
    publish_all(&bus, &["a", "b"]).await;
    until("both are being handled", async || waiting.begun().len() == 2).await;
    bus.shutdown(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!((waiting.cancelled(), waiting.done()), (2, Vec::new()));
    start(&other).await;
    until("the other member has handled both", async || willing.done().len() == 2).await;
    until_finished(&other).await;
    other.stop_consuming().await;
}
