//! Stops of a relay that an operator has to resolve, and the operator's calls.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{
    EventId, ExpectedVersion, InMemoryEventBus, InMemoryEventStore, Name, NewEvent, Position, StreamId,
    app::{PublishedError, StartMistake},
    health::HealthThresholds,
    port::{AppendEvents as _, Checkpoints, EventBus, Leases, ReadFeed, RelayTarget},
    prelude::*,
    relay::{PublishRange, PublishedPosition, RelayError},
    testkit::{Fault, FaultyBus, LossyBus},
};
use futures_util::TryStreamExt;

use crate::{
    gated::GatedStore,
    orders::{Order, created},
    relay_kit::*,
    wait::until,
};

/// A store that holds three events of the ten that were published.
async fn restored() -> (InMemoryEventStore, LossyBus) {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 3).await;
    begin(&store, &bus).await;
    publish(&store, &bus, 3).await;
    set_record(&store, &bus, PublishedPosition { position: 10.into(), event_id: None }).await;
    (store, bus)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_back_stops_the_relay_until_somebody_says_from_where() {
    let (store, bus) = restored().await;
    let first = app(&store, &bus).await;
    let error = first.published(Position::new(4)).await.unwrap_err();
    let PublishedError::Relay(stopped @ RelayError::StoreBehindBus { published, fork, .. }) = &error else {
        panic!("{error}");
    };
    assert_eq!((published.get(), fork.get()), (10, 3));
    assert!(
        error.to_string().contains("the store has these events up to 3 only; run `eventbus relay republish`"),
        "{error}"
    );
    assert_eq!(first.relay_status().await.unwrap().stopped.as_ref(), Some(stopped));
    let health = first.health().await;
    assert!(!health.is_healthy());
    let alerts = health.alerts(&HealthThresholds::default()).join("; ");
    assert!(alerts.contains("the relay does not publish: the store was restored from an older copy: `memory` was published up to position 10"), "{alerts}");

    append(&store, 20).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(bus.history(), all(3), "what it appends is not taken for published, nor the rest for all");
    first.shutdown(LEASE).await.unwrap();
    let second = app(&store, &bus).await;
    let error = second.published(Position::new(23)).await.unwrap_err();
    assert!(
        matches!(error, PublishedError::Relay(RelayError::StoreBehindBus { .. })),
        "a restart forgets nothing: {error}"
    );

    assert_eq!(second.republish(Position::new(3)).await.unwrap(), 3);
    second.shutdown(LEASE).await.unwrap();
    let third = app(&store, &bus).await;
    third.published(Position::new(23)).await.unwrap();
    assert_eq!(bus.history(), all(23));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_relay_goes_on_by_itself_once_somebody_has_said_from_where() {
    let (store, bus) = restored().await;
    let app = app(&store, &bus).await;
    app.published(Position::new(4)).await.unwrap_err();
    append(&store, 20).await;
    assert_eq!(app.republish(Position::new(1)).await.unwrap(), 1);
    until_at(&store, &bus, 23).await;
    assert_eq!(bus.history(), [1, 2, 3].into_iter().chain(2..=23).collect::<Vec<_>>());
    assert_eq!(app.relay_status().await.unwrap().stopped, None);
    app.published(Position::new(23)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_back_while_the_relay_runs_stops_it() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 3).await;
    let app = app(&store, &bus).await;
    until_at(&store, &bus, 3).await;
    set_record(&store, &bus, PublishedPosition { position: 10.into(), event_id: None }).await;
    let error = app.published(Position::new(11)).await.unwrap_err();
    assert!(matches!(error, PublishedError::Relay(RelayError::StoreBehindBus { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_back_is_known_by_its_events_however_far_it_has_come_since() {
    let (newer, store, bus) = (InMemoryEventStore::new(), InMemoryEventStore::new(), LossyBus::new());
    append(&newer, 10).await;
    append(&store, 20).await;
    begin(&store, &bus).await;
    let own = store.store_id().await.unwrap();
    let events: Vec<_> = newer.read_all(Position::START).try_collect().await.unwrap();
    let range = PublishRange { after: PublishedPosition::default(), through: 10.into(), events: &events };
    bus.publish_range(own, range).await.unwrap();

    let app = app(&store, &bus).await;
    let error = app.published(Position::new(20)).await.unwrap_err();
    assert!(matches!(error, PublishedError::Relay(RelayError::StoreBehindBus { .. })), "{error}");
    assert_eq!(bus.history(), all(10));
    app.republish(Position::new(7)).await.unwrap();
    until_at(&store, &bus, 20).await;
    assert_eq!(bus.history(), (1..=10).chain(8..=20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_relay_goes_on_from_the_last_event_that_the_restored_store_and_the_bus_share() {
    let (newer, store, bus) = (InMemoryEventStore::new(), InMemoryEventStore::new(), LossyBus::new());
    append(&newer, 10).await;
    append(&store, 6).await;
    begin(&store, &bus).await;
    publish(&store, &bus, 6).await;
    let own = store.store_id().await.unwrap();
    let after = bus.published_position(own).await.unwrap().unwrap();
    let events: Vec<_> = newer.read_all(6.into()).try_collect().await.unwrap();
    bus.publish_range(own, PublishRange { after, through: 10.into(), events: &events }).await.unwrap();
    // positions that the newer copy had published, before the relay notices
    append(&store, 8).await;

    let app = app(&store, &bus).await;
    let error = app.published(Position::new(14)).await.unwrap_err();
    let PublishedError::Relay(RelayError::StoreBehindBus { published, fork, .. }) = error else { panic!("{error}") };
    assert_eq!((published.get(), fork.get()), (10, 6));
    assert_eq!(app.republish(None).await.unwrap(), 6);
    until_at(&store, &bus, 14).await;
    assert_eq!(bus.history(), (1..=10).chain(7..=14).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_relay_beside_a_restored_store_stops_while_the_bus_is_away() {
    let (store, bus) = restored().await;
    let first = app(&store, &bus).await;
    first.published(Position::new(4)).await.unwrap_err();
    first.shutdown(LEASE).await.unwrap();
    store.save_checkpoint(&ROLE, 2.into()).await.unwrap();
    bus.ranges.fail_next(Fault::Unavailable, 1_000);
    let second = app(&store, &bus).await;
    let error = second.published(Position::new(4)).await.unwrap_err();
    let PublishedError::Relay(RelayError::StoreBehindBus { fork, .. }) = error else { panic!("{error}") };
    assert_eq!(fork, 2, "the position that the relay noted in the store");
}

#[tokio::test(start_paused = true)]
async fn beside_a_bus_that_keeps_no_events_a_relay_goes_on_from_what_it_noted_in_the_restored_store() {
    let (store, copy, bus) = (GatedStore::open(), InMemoryEventStore::new(), InMemoryEventBus::new());
    let app = App::builder().store(store.clone()).bus(bus).lease(LEASE).start().await.unwrap();
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(vec![created("ada", 1.0); 10]);
    let last = orders.save(&mut order).await.unwrap().position.unwrap();
    app.published(last).await.unwrap();
    until("it is noted", async || store.load_checkpoint(&ROLE).await.unwrap() == Some(last)).await;
    store.store.save_checkpoint(&ROLE, 4.into()).await.unwrap();
    append(&copy, 14).await;
    store.restored.set(copy).unwrap();
    store.appended().note_possible_restore();
    let error = app.published(Position::new(14)).await.unwrap_err();
    let PublishedError::Relay(RelayError::StoreBehindBus { fork, .. }) = error else { panic!("{error}") };
    assert_eq!(fork, 4);
    app.shutdown(LEASE).await.unwrap();
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(4.into()), "the stop saves no position");
}

/// By what the relay notices that an older copy replaced the store.
#[derive(Debug, Clone, Copy)]
enum NoticedBy {
    Outage,
    FailedPoll,
    LowerHead,
    NewConnection,
}

impl NoticedBy {
    const ALL: [Self; 4] = [Self::Outage, Self::FailedPoll, Self::LowerHead, Self::NewConnection];

    /// Publishes ten events. Then an operator restores the store of the running app from an older copy, and events are
    /// appended to it before the relay reaches it again. Returns why the relay stopped.
    async fn stop_of_relay_to(self, bus: impl EventBus) -> Option<RelayError> {
        let (store, copy) = (GatedStore::open(), InMemoryEventStore::new());
        let app = App::builder().store(store.clone()).bus(bus).lease(LEASE).start().await.unwrap();
        let orders = app.repository::<Order>();
        let mut order = orders.create_new(AggregateId::new());
        order.record(vec![created("ada", 1.0); 10]);
        let last = orders.save(&mut order).await.unwrap().position.unwrap();
        app.published(last).await.unwrap();
        append(&copy, if matches!(self, Self::LowerHead) { 5 } else { 20 }).await;
        if matches!(self, Self::Outage) {
            store.is_away.store(true, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        store.failures.store(usize::from(matches!(self, Self::FailedPoll)), Ordering::SeqCst);
        store.restored.set(copy.clone()).unwrap();
        store.is_away.store(false, Ordering::SeqCst);
        if matches!(self, Self::NewConnection) {
            store.appended().note_possible_restore();
        }
        // the next poll
        tokio::time::sleep(Duration::from_millis(300)).await;
        append(&copy, 15).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        app.relay_status().await.unwrap().stopped
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_back_and_comes_further_while_the_relay_runs_stops_it() {
    for noticed_by in NoticedBy::ALL {
        let bus = LossyBus::new();
        let stopped = noticed_by.stop_of_relay_to(bus.clone()).await;
        assert_eq!(bus.history(), all(10));
        assert!(matches!(stopped, Some(RelayError::StoreBehindBus { .. })), "{noticed_by:?} {stopped:?}");
    }
}

fn noted(count: usize) -> Vec<NewEvent> {
    (0..count).map(|_| NewEvent::new(Name::from_static("Noted"), 1, "{}")).collect()
}

async fn add(store: &impl eventbus::port::AppendEvents, events: Vec<NewEvent>) {
    let stream = StreamId::parse("Order", "1").unwrap();
    store.append(&stream, ExpectedVersion::Any, events).await.unwrap();
}

/// A store with these events, which the relay reads from the feed, and which an older copy replaces when one of them is
/// read; and an app that relays them.
async fn replaced_at(position: u64, events: Vec<NewEvent>, copy: &InMemoryEventStore) -> (GatedStore, LossyBus, App) {
    let (store, bus) = (GatedStore::open().silent(), LossyBus::new());
    *store.restored_at.lock().unwrap() = Some((position.into(), copy.clone()));
    add(&store, events).await;
    let app = App::builder().store(store.clone()).bus(bus.clone()).lease(LEASE).start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    (store, bus, app)
}

fn published_ids(bus: &LossyBus) -> Vec<EventId> {
    bus.take(&AUDIT, 1_000).iter().map(|event| event.metadata().event_id()).collect()
}

async fn ids(store: &InMemoryEventStore) -> Vec<EventId> {
    let stored: Vec<_> = store.read_all(Position::START).try_collect().await.unwrap();
    stored.iter().map(|event| event.metadata().event_id()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_the_store_went_back_is_not_published() {
    let copy = InMemoryEventStore::new();
    append(&copy, 20).await;
    let (_store, bus, app) = replaced_at(5, noted(10), &copy).await;
    assert_eq!(published_ids(&bus), ids(&copy).await);
    assert_eq!(app.relay_status().await.unwrap().stopped, None);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_ahead_before_the_store_went_back_is_not_published() {
    // the first range has 256 events; the relay reads the next one while it publishes that
    for position in [257, 512] {
        let (copy, shared) = (InMemoryEventStore::new(), noted(300));
        add(&copy, shared.clone()).await;
        add(&copy, noted(300)).await;
        let (_store, bus, app) = replaced_at(position, [shared, noted(300)].concat(), &copy).await;
        assert_eq!(published_ids(&bus), ids(&copy).await);
        assert_eq!(app.relay_status().await.unwrap().stopped, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_another_store_is_refused_unless_it_is_shared() {
    let (former, store, bus) = (InMemoryEventStore::new(), InMemoryEventStore::new(), LossyBus::new());
    append(&former, 2).await;
    begin(&former, &bus).await;
    publish(&former, &bus, 2).await;
    let last = append(&store, 3).await;
    let error = builder(&store, &bus).start().await.unwrap_err();
    let [StartMistake::OtherStore(RelayError::OtherStore { own, other, .. })] = error.mistakes() else {
        panic!("{error}")
    };
    assert_eq!((*own, *other), (store.store_id().await.unwrap(), former.store_id().await.unwrap()));
    assert!(error.to_string().contains("`.share_stream()`"), "{error}");

    let sharing = builder(&store, &bus).share_stream().start().await.unwrap();
    sharing.published(last).await.unwrap();
    assert_eq!(bus.positions(), [1, 2, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn republishing_begins_where_it_is_told_and_never_ahead() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 5).await;
    let app = app(&store, &bus).await;
    until_at(&store, &bus, 5).await;
    assert_eq!(app.republish(Position::new(2)).await.unwrap(), 2);
    until("it is published again", async || bus.history() == [1, 2, 3, 4, 5, 3, 4, 5]).await;
    assert_eq!(app.republish(Position::new(99)).await.unwrap(), 5);
    let last = append(&store, 1).await;
    app.published(last).await.unwrap();
    assert_eq!(bus.history(), [1, 2, 3, 4, 5, 3, 4, 5, 6]);

    let in_process = App::builder().start().await.unwrap();
    let error = in_process.republish(Position::START).await.unwrap_err();
    assert_eq!(error.to_string(), "`store` keeps no position that could be set back");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_bus_refuses_stops_the_relay_before_it_until_the_bus_takes_it() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    bus.refused.set(Some(Position::new(3)));
    let last = append(&store, 5).await;
    let app = app(&store, &bus).await;
    let error = app.published(last).await.unwrap_err();
    let PublishedError::Relay(stopped @ RelayError::EventRefused { position, event_type, event_id, .. }) = &error
    else {
        panic!("{error}");
    };
    let refused: Vec<_> = store.read_all(Position::new(2)).try_collect().await.unwrap();
    assert_eq!((position.get(), &**event_type, *event_id), (3, "OrderCreated", refused[0].metadata().event_id()));
    assert!(error.to_string().ends_with("at position 3: fault made by the test"), "{error}");
    assert_eq!(app.published(Position::new(2)).await.unwrap().position, 2, "what comes before it is published");

    let stopped = Some(stopped);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(app.relay_status().await.unwrap().stopped.as_ref(), stopped);
    }
    let health = app.health().await;
    assert!(!health.is_healthy());
    let alerts = health.alerts(&HealthThresholds::default()).join("; ");
    assert!(alerts.contains("the relay does not publish: `memory` refuses event"), "{alerts}");
    assert_eq!(bus.history(), all(2));
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(Position::new(2)), "others see how far it came");

    bus.refused.set(None);
    until_at(&store, &bus, 5).await;
    assert_eq!(bus.history(), all(5));
    app.published(last).await.unwrap();
    assert_eq!(app.relay_status().await.unwrap().stopped, None);
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_is_over_is_not_shown_beside_the_event_that_stops_the_relay() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    app.published(append(&store, 1).await).await.unwrap();
    bus.refused.set(Some(Position::new(2)));
    bus.ranges.fail_next(Fault::Unavailable, 1);
    append(&store, 1).await;
    until("the relay stops", async || app.relay_status().await.unwrap().stopped.is_some()).await;
    assert_eq!(bus.ranges.remaining(), 0, "the outage was met");
    assert_eq!(app.relay_status().await.unwrap().trouble, None);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_takes_nothing_stops_the_relay() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    bus.refused.set(Some(Position::START));
    let app = app(&store, &bus).await;
    append(&store, 1).await;
    let stopped = async || app.relay_status().await.unwrap().stopped;
    until("it is told", async || stopped().await.is_some()).await;
    assert_eq!(stopped().await.unwrap().to_string(), "`memory` refuses all events: fault made by the test");
    bus.refused.set(None);
    until("it is over", async || stopped().await.is_none()).await;
    let last = append(&store, 1).await;
    app.published(last).await.unwrap();
}

/// An id is unique within its stream only: the relay stops at the position that the bus refuses, not at the first event
/// with that id.
#[tokio::test(start_paused = true)]
async fn a_refused_event_is_told_from_those_of_other_streams_with_its_id() {
    let bus = FaultyBus::new(InMemoryEventBus::new());
    let store = InMemoryEventStore::new();
    bus.refused.set(Some(Position::new(3)));
    let app = App::builder().store(store.clone()).bus(bus.clone()).start().await.unwrap();
    let event = NewEvent::new(Name::from_static("OrderCreated"), 1, "{}");
    for id in 1..=5 {
        let stream = StreamId::parse("Order", &id.to_string()).unwrap();
        store.append(&stream, ExpectedVersion::NoStream, vec![event.clone()]).await.unwrap();
    }
    let error = app.published(Position::new(5)).await.unwrap_err();
    let is_refused = |position: &Position| position.get() == 3;
    assert!(
        matches!(&error, PublishedError::Relay(RelayError::EventRefused { position, .. }) if is_refused(position)),
        "{error}"
    );
    assert_eq!(bus.stats().events_published, 2);
    bus.refused.set(None);
    until("it goes on", async || app.relay_status().await.unwrap().stopped.is_none()).await;
    app.published(Position::new(5)).await.unwrap();
    assert_eq!(bus.stats().events_published, 5);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_relay_takes_the_lease_rarely_and_another_process_that_may_go_on_has_its_turn() {
    let epoch = async |store: &InMemoryEventStore| {
        let lease = store.seize_lease(&ROLE, &AUDIT, LEASE).await.unwrap();
        store.release_lease(&lease).await.unwrap();
        lease.epoch
    };
    let (store, bus) = restored().await;
    let halted = app(&store, &bus).await;
    halted.published(Position::new(4)).await.unwrap_err();
    let before = epoch(&store).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(epoch(&store).await, before + 1, "the store itself says that nobody has decided");
    halted.shutdown(LEASE).await.unwrap();

    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    bus.refused.set(Some(Position::new(2)));
    let last = append(&store, 3).await;
    let refused = [app(&store, &bus).await, app(&store, &bus).await];
    for app in &refused {
        app.published(last).await.unwrap_err();
    }
    let before = epoch(&store).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let grown = epoch(&store).await - before;
    assert!((60..200).contains(&grown), "by {grown} in an hour");
    let began = tokio::time::Instant::now();
    let other = app(&store, &bus.connection()).await;
    other.published(last).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
    for app in &refused {
        until("others see it", async || app.relay_status().await.unwrap().stopped.is_none()).await;
        app.published(last).await.unwrap();
    }
    assert_eq!(bus.history(), all(3));
}

#[tokio::test(start_paused = true)]
async fn an_app_settles_when_what_is_published_again_is_published() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 5).await;
    let [app, other] = [app(&store, &bus).await, app(&store, &bus.connection()).await];
    app.settled().await.unwrap();
    app.republish(Position::new(2)).await.unwrap();
    other.settled().await.unwrap();
    assert_eq!(bus.history(), [1, 2, 3, 4, 5, 3, 4, 5]);
    app.republish(Position::new(4)).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(bus.history(), [1, 2, 3, 4, 5, 3, 4, 5, 5]);
}
