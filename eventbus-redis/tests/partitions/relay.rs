//! Relays that publish to partitions.

use std::time::Duration;

use eventbus::{
    App, ExpectedVersion, InMemoryEventStore, Name, NewEvent, Position, RecordedEvent, StreamId,
    app::PublishedError,
    port::{AppendEvents, EventBus, ReadFeed, RelayTarget},
    relay::{
        GroupFloor, GroupFloors, PublishRange, PublishedPosition, Publisher, RangeOutcome, RelayError, ResyncOutcome,
        ResyncRequest,
    },
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use uuid::Uuid;

use crate::{
    common::{
        actor::{Actor, connect},
        config,
        seen::{command, start},
        until,
    },
    journal::Load,
    process::until_finished,
};

const PUBLISHER: Publisher = Publisher { store: Uuid::from_u128(7), epoch: 3 };

/// The events of a store, which begin at position 1.
fn store(count: usize) -> Vec<RecordedEvent> {
    let mut load = Load::over(20);
    let events = load.batch(count).into_iter();
    let place = |(event, position): (RecordedEvent, u64)| {
        let metadata = event.metadata().clone().with_position(Some(Position::new(position)));
        RecordedEvent::new(metadata, event.payload())
    };
    events.zip(1..).map(place).collect()
}

fn at(position: u64) -> Position {
    Position::new(position)
}

async fn publish(bus: &RedisEventBus, events: &[RecordedEvent], after: u64, through: u64) -> RangeOutcome {
    let events = &events[after as usize..through as usize];
    bus.publish_range(PUBLISHER, PublishRange { after: at(after), through: at(through), events }).await.unwrap()
}

async fn adopt(bus: &RedisEventBus, floor: u64) -> ResyncOutcome {
    let groups = [bus.default_group().clone()];
    bus.resync(PUBLISHER, ResyncRequest { floor: at(floor), groups: &groups, new_groups: &[], is_shared: false })
        .await
        .unwrap()
}

/// The positions in the stream, in the order in which the relay published them.
async fn positions(bus: &RedisEventBus) -> Vec<u64> {
    let (mut history, mut entries) = (bus.history(), Vec::new());
    loop {
        let page = history.page(10_000).await.unwrap();
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    entries.into_iter().filter_map(|entry| Some(entry.event.ok()?.position()?.get())).collect()
}

/// A bus whose relay has started.
async fn begun() -> RedisEventBus {
    let bus = connect(&RedisEventBusConfig { partitions: 4, ..config() }).await;
    assert!(matches!(publish(&bus, &store(0), 0, 0).await, RangeOutcome::Lost));
    assert_eq!(adopt(&bus, 0).await, ResyncOutcome::At(at(0)));
    bus
}

#[tokio::test]
async fn a_range_goes_to_all_partitions_once() {
    let (bus, events) = (begun().await, store(200));
    for after in [0, 50, 100, 150] {
        let RangeOutcome::Published(ids) = publish(&bus, &events, after, after + 50).await else { panic!() };
        assert_eq!(ids.len(), 50);
        // a repeat, as if the reply had been lost
        let again = publish(&bus, &events, after, after + 50).await;
        assert!(matches!(again, RangeOutcome::Moved(moved) if moved == at(after + 50)), "{again:?}");
    }
    let mut published = positions(&bus).await;
    published.sort_unstable();
    assert_eq!(published, (1..=200).collect::<Vec<_>>());
    let mark = PublishedPosition { position: at(200), event_id: Some(events[199].metadata().event_id()) };
    assert_eq!(bus.published_positions(PUBLISHER).await.unwrap(), [mark; 4], "wherever the event went");
    let stale = Publisher { epoch: 2, ..PUBLISHER };
    let range = PublishRange { after: at(200), through: at(200), events: &[] };
    assert!(matches!(bus.publish_range(stale, range).await.unwrap(), RangeOutcome::Fenced));
}

#[tokio::test]
async fn a_range_that_reached_some_partitions_only_is_completed() {
    let (bus, events) = (begun().await, store(60));
    publish(&bus, &events, 0, 20).await;
    // two partitions are ahead: one has the next range, the second one a part of it
    for (number, through) in [(0, 60), (2, 40)] {
        let stream = format!("{}:{number}", bus.config().stream_name());
        let is_its = |event: &&RecordedEvent| bus.config().stream_of(event.metadata().stream()) == stream;
        let own: Vec<_> = events[20..through].iter().filter(is_its).cloned().collect();
        let key = format!("{{{stream}}}:relay");
        let store = PUBLISHER.store.to_string();
        let record: String = command(&bus, "HGET", &[&key, &store]).await;
        bus.publish(&own).await.unwrap();
        let record = record.replacen(" 20 ", &format!(" {through} "), 1);
        let _: u64 = command(&bus, "HSET", &[&key, &store, &record]).await;
    }
    assert!(matches!(publish(&bus, &events, 20, 60).await, RangeOutcome::Published(_)));
    let mut published = positions(&bus).await;
    published.sort_unstable();
    assert_eq!(published, (1..=60).collect::<Vec<_>>());
    let moved = publish(&bus, &events, 20, 20).await;
    assert!(matches!(moved, RangeOutcome::Moved(moved) if moved == at(60)), "{moved:?}");
}

#[tokio::test]
async fn one_partition_that_is_lost_or_behind_holds_all() {
    let (bus, events) = (begun().await, store(60));
    publish(&bus, &events, 0, 40).await;
    let stream = bus.config().stream_of(&StreamId::parse("Order", "order-1").unwrap());
    let _: u64 = command(&bus, "DEL", &[&stream]).await;
    assert!(matches!(publish(&bus, &events, 40, 60).await, RangeOutcome::Lost));
    assert_eq!(adopt(&bus, 10).await, ResyncOutcome::At(at(10)));
    let behind = publish(&bus, &events, 60, 60).await;
    assert!(matches!(behind, RangeOutcome::Moved(moved) if moved == at(10)), "{behind:?}");
    assert!(matches!(publish(&bus, &events, 10, 60).await, RangeOutcome::Published(_)));
    let published = positions(&bus).await;
    let all: std::collections::BTreeSet<_> = published.iter().copied().collect();
    let its = |position: &u64| bus.config().stream_of(events[*position as usize - 1].metadata().stream()) == stream;
    let expected = (1..=60).filter(|position| !its(position) || *position > 10);
    assert_eq!(all, expected.collect());
    assert_eq!(published.len(), all.len(), "nothing is there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_as_far_as_it_is_in_the_partition_where_it_is_furthest_behind() {
    let (bus, events) = (begun().await, store(40));
    publish(&bus, &events, 0, 40).await;
    let group = bus.default_group().clone();
    let floor =
        async |bus: &RedisEventBus| match bus.group_floors(PUBLISHER, &[bus.default_group().clone()]).await.unwrap() {
            GroupFloors::Groups(groups) => groups.into_iter().find(|(name, _)| *name == group).map(|(_, floor)| floor),
            _ => None,
        };
    assert_eq!(floor(&bus).await, Some(GroupFloor::At(at(0))));
    Actor::willing().join(&bus);
    start(&bus).await;
    until_finished(&bus, Duration::from_secs(60)).await;
    assert_eq!(floor(&bus).await, Some(GroupFloor::At(at(40))));
    assert_eq!(bus.rewind(PUBLISHER, at(5)).await.unwrap(), ResyncOutcome::At(at(5)));
    assert!(matches!(publish(&bus, &events, 5, 40).await, RangeOutcome::Published(_)));
}

#[tokio::test]
async fn a_group_that_nobody_asked_for_has_finished_nothing_where_it_has_not_begun() {
    let (bus, events) = (begun().await, store(40));
    publish(&bus, &events, 0, 40).await;
    let seen = async || match bus.group_floors(PUBLISHER, &[]).await.unwrap() {
        GroupFloors::Groups(groups) => groups.into_iter().find(|(name, _)| &**name == "audit").map(|(_, floor)| floor),
        other => panic!("{other:?}"),
    };
    let partition = |number: u32| format!("{}:{number}", bus.config().stream_name());
    let make = async |number| command::<()>(&bus, "XGROUP", &["CREATE", &partition(number), "audit", "0"]).await;
    // a consumer of a second program has finished one partition; it has not started or does not know the remaining ones
    make(0).await;
    let read = ["GROUP", "audit", "reader", "NOACK", "COUNT", "100", "STREAMS", &partition(0), ">"];
    let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
    assert_eq!(seen().await, Some(GroupFloor::Missing));
    for number in 1..4 {
        make(number).await;
    }
    assert_eq!(seen().await, Some(GroupFloor::At(at(0))));
}

#[tokio::test]
async fn a_relay_goes_on_where_it_was_when_the_number_of_partitions_changes() {
    let (bus, events) = (begun().await, store(60));
    publish(&bus, &events, 0, 30).await;
    bus.retire_group(bus.default_group()).await.unwrap();
    bus.repartition(6, Duration::from_secs(5)).await.unwrap();
    let range = PublishRange { after: at(30), through: at(40), events: &events[30..40] };
    let refused = bus.publish_range(PUBLISHER, range).await;
    assert!(refused.is_err_and(|error| !error.is_retryable()), "by the former number");
    let bus = connect(&RedisEventBusConfig { partitions: 6, consumer_name: None, ..bus.config().clone() }).await;
    assert!(matches!(publish(&bus, &events, 30, 60).await, RangeOutcome::Published(ids) if ids.len() == 30));
    let mut published = positions(&bus).await;
    published.sort_unstable();
    assert_eq!(published, (1..=60).collect::<Vec<_>>());
}

/// Appends until a store holds `through` events, each of one of 20 aggregates; returns the appended events.
async fn append(store: &InMemoryEventStore, through: u64) -> Vec<RecordedEvent> {
    let mut appended = Vec::new();
    for number in store.head().await.unwrap().get()..through {
        let stream = StreamId::parse("Order", &format!("order-{}", number % 20)).unwrap();
        let event = NewEvent::new(Name::from_static("OrderNoted"), 1, "{}");
        appended.extend(store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap());
    }
    appended
}

/// Publishes as a relay that dies half way through a range: the last partition gets no part of it.
async fn publish_in_part(bus: &RedisEventBus, publisher: Publisher, range: PublishRange<'_>) {
    let relay = format!("{{{}:3}}:relay", bus.config().stream_name());
    let away = format!("{relay}:away");
    command::<()>(bus, "RENAME", &[&relay, &away]).await;
    command::<()>(bus, "SET", &[&relay, "something else"]).await;
    bus.publish_range(publisher, range).await.unwrap_err();
    command::<()>(bus, "RENAME", &[&away, &relay]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_went_back_is_known_by_the_partitions_that_are_ahead() {
    let (lost, of_four) = (store(80), RedisEventBusConfig { partitions: 4, ..config() });
    let is_last = |event: &RecordedEvent| of_four.stream_of(event.metadata().stream()).ends_with(":3");
    let one = 40 + lost[40..].iter().position(is_last).unwrap();
    // many events; one that only the unwritten partition was to get; the first ones of all
    for (copied, lost) in [(40, &lost[40..60]), (40, &lost[one..=one]), (0, &lost[..20])] {
        let bus = connect(&RedisEventBusConfig { partitions: 4, ..config() }).await;
        let store = InMemoryEventStore::new();
        let publisher = Publisher { store: store.store_id().await.unwrap(), epoch: 0 };
        let adoption = ResyncRequest { floor: at(0), groups: &[], new_groups: &[], is_shared: false };
        assert_eq!(bus.resync(publisher, adoption).await.unwrap(), ResyncOutcome::At(at(0)));
        let events = append(&store, copied).await;
        let range = PublishRange { after: at(0), through: at(copied), events: &events };
        bus.publish_range(publisher, range).await.unwrap();
        let through = lost[lost.len() - 1].position().unwrap();
        publish_in_part(&bus, publisher, PublishRange { after: at(copied), through, events: lost }).await;
        let before = positions(&bus).await;

        // the store was restored from a copy, and accepts appends again
        append(&store, 80).await;
        let app = App::builder().store(store.clone()).bus(bus.clone()).start().await.unwrap();
        let error = app.published(at(80)).await.unwrap_err();
        let PublishedError::Relay(RelayError::StoreBehindBus { published, .. }) = &error else { panic!("{error}") };
        assert_eq!(*published, through);
        assert_eq!(positions(&bus).await, before);

        assert_eq!(app.republish(at(copied)).await.unwrap(), at(copied));
        until("it goes on", async || app.relay_status().await.unwrap().stopped.is_none()).await;
        app.published(at(80)).await.unwrap();
        let mut after = positions(&bus).await;
        let mut expected: Vec<_> = before.into_iter().chain(copied + 1..=80).collect();
        after.sort_unstable();
        expected.sort_unstable();
        assert_eq!(after, expected);
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}
