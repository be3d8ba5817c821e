//! What a relay does with each answer of a bus that keeps positions, and who relays.

use std::time::Duration;

use eventbus::{
    InMemoryEventStore, Name, Position, PublishedError, RelayError,
    port::{
        Adoption, Checkpoints, EventBus, Floor, Floors, HealthThresholds, Leases, PublishRange, Publisher, ReadFeed,
        RelayTarget, SeenFloor,
    },
    prelude::*,
    testkit::{Fault, LossyBus},
};
use futures_util::TryStreamExt;

use crate::{
    orders::{Order, created},
    wait::until,
};

const LEASE: Duration = Duration::from_secs(2);
static DESTINATION: Name = Name::from_static("memory");
static ROLE: Name = Name::from_static("relay:memory");
static AUDIT: Name = Name::from_static("audit");
static MAILS: Name = Name::from_static("mails");

#[handler(manual, group = "audit")]
async fn audit(_event: &RecordedEvent) {}

async fn append(store: &InMemoryEventStore, events: usize) -> Position {
    let orders = AggregateRepository::<Order>::new(store.clone());
    let mut order = orders.create(AggregateId::new());
    order.record(vec![created("ada", 1.0); events]);
    orders.save(&mut order).await.unwrap().position.unwrap()
}

fn builder(store: &InMemoryEventStore, bus: &LossyBus) -> eventbus::AppBuilder {
    App::builder().store(store.clone()).bus(bus.clone()).relay_lease(LEASE).wait_timeout(Duration::from_secs(20))
}

async fn app(store: &InMemoryEventStore, bus: &LossyBus) -> App {
    builder(store, bus).start().await.unwrap()
}

/// Publishes what a store holds after one position up to another, as a relay with this epoch would.
async fn publish(store: &InMemoryEventStore, bus: &LossyBus, epoch: u64, after: u64, through: u64) {
    let publisher = Publisher { store: store.store_id().await.unwrap(), epoch };
    let events: Vec<_> = store.read_all(after.into()).try_collect().await.unwrap();
    let events = &events[..usize::try_from(through - after).unwrap()];
    let range = PublishRange { after: after.into(), through: through.into(), events };
    let outcome = bus.publish_range(publisher, range).await.unwrap();
    assert!(matches!(outcome, eventbus::port::RangeOutcome::Published(_)), "{outcome:?}");
}

async fn adopt(store: &InMemoryEventStore, bus: &LossyBus, epoch: u64) {
    let publisher = Publisher { store: store.store_id().await.unwrap(), epoch };
    bus.adopt(publisher, Adoption { floor: Position::START, groups: &[], shared: true }).await.unwrap();
}

async fn position(store: &InMemoryEventStore, bus: &LossyBus) -> u64 {
    bus.position(store.store_id().await.unwrap()).map_or(0, Position::get)
}

async fn until_at(store: &InMemoryEventStore, bus: &LossyBus, wanted: u64) {
    until("the bus is at the position", async || position(store, bus).await == wanted).await;
}

async fn floor(store: &InMemoryEventStore, group: &Name) -> Option<u64> {
    let floors = store.floors(&DESTINATION).await.unwrap();
    floors.iter().find(|floor| floor.group == *group).map(|floor| floor.position.get())
}

async fn save_floor(store: &InMemoryEventStore, group: &Name, position: u64) {
    let floor = Floor { group: group.clone(), position: position.into() };
    store.save_floors(&DESTINATION, &[floor]).await.unwrap();
}

fn all(through: u64) -> Vec<u64> {
    (1..=through).collect()
}

fn positions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.position().unwrap().get()).collect()
}

#[tokio::test(start_paused = true)]
async fn everything_is_published_once_in_order_and_the_ids_are_known() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 600).await;
    let app = app(&store, &bus).await;
    let last = append(&store, 3).await;
    let published = app.published(last).await.unwrap();
    assert_eq!((published.position, published.message_id.unwrap().as_str()), (last, "603"));
    assert_eq!(bus.history(), all(603));
    let status = app.relay_status().await.unwrap();
    assert_eq!((status.position, status.head, status.is_owner), (last, Some(last), true));
    assert_eq!((status.lag_events(), status.trouble, status.stopped), (Some(0), None, None));
}

#[tokio::test(start_paused = true)]
async fn a_range_whose_reply_was_lost_or_that_did_not_arrive_is_published_once() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    for fault in [Fault::LostReply, Fault::Unavailable, Fault::LostReply, Fault::LostReply] {
        bus.ranges.next(fault, 1);
        let last = append(&store, 300).await;
        app.published(last).await.unwrap();
    }
    until("all faults happened", async || bus.ranges.left() == 0).await;
    let last = append(&store, 1).await;
    app.published(last).await.unwrap();
    assert_eq!(bus.history(), all(1_201));
}

#[tokio::test(start_paused = true)]
async fn a_relay_goes_on_from_where_the_bus_is() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    adopt(&store, &bus, 0).await;
    publish(&store, &bus, 0, 0, 4).await;
    let _app = app(&store, &bus).await;
    until_at(&store, &bus, 10).await;
    let copy = bus.copy();
    append(&store, 5).await;
    until_at(&store, &bus, 15).await;
    bus.restore(&copy);
    until_at(&store, &bus, 15).await;
    assert_eq!(bus.positions(), all(15));
    assert_eq!(bus.history(), (1..=15).chain(11..=15).collect::<Vec<_>>(), "what was rolled back, again");
}

#[tokio::test(start_paused = true)]
async fn a_loss_at_rest_is_noticed_and_filled_from_the_lowest_floor() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    let _app = app(&store, &bus).await;
    until_at(&store, &bus, 10).await;
    assert_eq!(bus.take(&AUDIT, 7).len(), 7);
    assert_eq!(bus.take(&MAILS, 4).len(), 4);
    until("the floors are saved", async || {
        (floor(&store, &AUDIT).await, floor(&store, &MAILS).await) == (Some(7), Some(4))
    })
    .await;
    bus.flush();
    until_at(&store, &bus, 10).await;
    assert_eq!(bus.positions(), [5, 6, 7, 8, 9, 10]);
    assert_eq!(bus.take(&AUDIT, 100).len(), 6, "the group is there, and gets all that it had not finished");
    assert_eq!(bus.take(&MAILS, 100).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn floors_follow_the_bus_down_too_and_stay_where_it_cannot_tell() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    let _app = app(&store, &bus).await;
    until_at(&store, &bus, 10).await;
    bus.take(&AUDIT, 3);
    let copy = bus.copy();
    let is = async |wanted: u64| {
        until("the floor is saved", async || floor(&store, &AUDIT).await == Some(wanted)).await;
    };
    is(3).await;
    bus.take(&AUDIT, 100);
    is(10).await;
    bus.restore(&copy);
    is(3).await;

    bus.take(&AUDIT, 3);
    is(6).await;
    bus.tell_floors(Some(SeenFloor::Unknown));
    bus.take(&AUDIT, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(floor(&store, &AUDIT).await, Some(6));
    bus.tell_floors(None);
    is(7).await;
    bus.destroy_group(&AUDIT);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(floor(&store, &AUDIT).await, Some(7), "whoever consumes makes it again");
    assert_eq!(position(&store, &bus).await, 10);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_removed_before_a_group_had_it_is_published_again() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    let _app = app(&store, &bus).await;
    until_at(&store, &bus, 10).await;
    bus.take(&AUDIT, 3);
    bus.take(&MAILS, 10);
    until("the floors are saved", async || {
        (floor(&store, &AUDIT).await, floor(&store, &MAILS).await) == (Some(3), Some(10))
    })
    .await;
    bus.trim(8);
    until("it is filled", async || bus.history().len() > 10).await;
    until_at(&store, &bus, 10).await;
    let taken = positions(&bus.take(&AUDIT, 100));
    assert_eq!(taken, [9, 10, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(bus.history().len(), 17, "once");

    let fresh = Name::from_static("fresh");
    bus.create_group(&fresh);
    bus.trim(1);
    append(&store, 1).await;
    until_at(&store, &bus, 11).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bus.history().len(), 18, "a group that was never known is promised nothing");
    assert!(floor(&store, &fresh).await.is_some(), "but is known from now on");
}

#[tokio::test(start_paused = true)]
async fn groups_of_an_app_are_known_before_they_consume() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 5).await;
    let publisher = app(&store, &bus).await;
    until_at(&store, &bus, 5).await;
    publisher.shutdown(LEASE).await.unwrap();
    bus.take(&MAILS, 2);
    bus.connection().create_group(&AUDIT);
    bus.take(&AUDIT, 1);
    let mut consumer = builder(&store, &bus).without_relay().handler::<audit>().start().await.unwrap();
    assert_eq!(floor(&store, &AUDIT).await, Some(1), "as the bus says");
    bus.destroy_group(&AUDIT);
    store.forget_floor(&DESTINATION, &AUDIT).await.unwrap();
    consumer.shutdown(LEASE).await.unwrap();
    consumer = builder(&store, &bus.connection()).without_relay().handler::<audit>().start().await.unwrap();
    assert_eq!(floor(&store, &AUDIT).await, Some(0), "a group that begins at the beginning");
    drop(consumer);
}

#[tokio::test(start_paused = true)]
async fn what_a_release_without_floors_published_is_not_published_again() {
    for (checkpoint, groups_begin_at, first) in [(3, 3, 4), (9, 5, 6)] {
        let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
        append(&store, 5).await;
        store.save_checkpoint(&ROLE, checkpoint.into()).await.unwrap();
        let app = builder(&store, &bus).handler::<audit>().start().await.unwrap();
        assert_eq!(floor(&store, &AUDIT).await, Some(groups_begin_at));
        let last = append(&store, 1).await;
        app.published(last).await.unwrap();
        until_at(&store, &bus, 6).await;
        assert_eq!(bus.history(), (first..=6).collect::<Vec<_>>(), "a checkpoint may stand in a gap at the end");
    }
}

#[tokio::test(start_paused = true)]
async fn another_process_takes_over_at_once_after_a_shutdown_and_later_after_a_crash() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let first = app(&store, &bus).await;
    until("it relays", async || first.relay_status().await.unwrap().is_owner).await;
    let second = app(&store, &bus.connection()).await;
    let last = append(&store, 3).await;
    first.published(last).await.unwrap();
    let published = second.published(last).await.unwrap();
    assert_eq!((published.position, published.message_id), (last, None), "another process published it");
    let status = second.relay_status().await.unwrap();
    assert_eq!((status.position, status.is_owner), (last, false));

    first.shutdown(LEASE).await.unwrap();
    let last = append(&store, 3).await;
    let began = tokio::time::Instant::now();
    assert!(second.published(last).await.unwrap().message_id.is_some());
    assert!(began.elapsed() < LEASE, "took {:?}", began.elapsed());
    second.shutdown(LEASE).await.unwrap();

    let dead = store.acquire_lease(&ROLE, &AUDIT, Duration::from_secs(10)).await.unwrap().unwrap();
    let third = app(&store, &bus.connection()).await;
    let last = append(&store, 3).await;
    let began = tokio::time::Instant::now();
    third.published(last).await.unwrap();
    assert!((9..12).contains(&began.elapsed().as_secs()), "took {:?}", began.elapsed());
    assert!(!store.renew_lease(&dead, LEASE).await.unwrap());
    assert_eq!(bus.history(), all(9));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_was_paused_beyond_its_lease_steps_down_and_stands_by() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let first = app(&store, &bus).await;
    let last = append(&store, 1).await;
    first.published(last).await.unwrap();
    bus.pause(true);
    append(&store, 1).await;
    // what a pause of the whole process comes to: its lease has passed on when it goes on
    let other = Name::from_static("other");
    let lease = store.seize_lease(&ROLE, &other, Duration::from_secs(30)).await.unwrap();
    publish(&store, &bus.connection(), lease.epoch, 1, 2).await;
    bus.pause(false);
    until("it has stepped down", async || !first.relay_status().await.unwrap().is_owner).await;
    append(&store, 1).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(position(&store, &bus).await, 2, "the other one has the lease");
    store.release_lease(&lease).await.unwrap();
    until_at(&store, &bus, 3).await;
    assert_eq!(bus.history(), all(3));
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_is_saved_about_once_a_second_and_at_the_end() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(Position::START), "nobody else may publish any more");
    let last = append(&store, 5).await;
    app.published(last).await.unwrap();
    let saved = async || store.load_checkpoint(&ROLE).await.unwrap() == Some(last);
    tokio::time::timeout(Duration::from_millis(1_100), until("it is saved", saved)).await.unwrap();
    let last = append(&store, 5).await;
    app.published(last).await.unwrap();
    app.shutdown(LEASE).await.unwrap();
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(last));
    let other = Name::from_static("other");
    assert!(store.acquire_lease(&ROLE, &other, LEASE).await.unwrap().is_some(), "the lease is given back");
}

#[tokio::test(start_paused = true)]
async fn without_a_relay_of_its_own_an_app_waits_for_that_of_another() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let saving = builder(&store, &bus.connection()).without_relay().start().await.unwrap();
    let last = append(&store, 5).await;
    let error = saving.published(last).await.unwrap_err().to_string();
    assert!(error.contains("another process relays, or is to relay"), "{error}");
    let _relaying = app(&store, &bus).await;
    assert_eq!(saving.published(last).await.unwrap().position, last);
    assert!(!saving.relay_status().await.unwrap().is_owner);
}

/// A store that holds three events of the ten that were published.
async fn restored() -> (InMemoryEventStore, LossyBus) {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 3).await;
    adopt(&store, &bus, 0).await;
    publish(&store, &bus, 0, 0, 3).await;
    let publisher = Publisher { store: store.store_id().await.unwrap(), epoch: 0 };
    let range = PublishRange { after: 3.into(), through: 10.into(), events: &[] };
    bus.publish_range(publisher, range).await.unwrap();
    (store, bus)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_back_stops_the_relay_until_somebody_says_from_where() {
    let (store, bus) = restored().await;
    let first = app(&store, &bus).await;
    let error = first.published(Position::new(4)).await.unwrap_err();
    let PublishedError::Relay(stopped @ RelayError::StoreWentBack { published, newest, .. }) = &error else {
        panic!("{error}");
    };
    assert_eq!((published.get(), newest.get()), (10, 3));
    assert!(error.to_string().contains("`app.republish(position)`"), "{error}");
    assert_eq!(first.relay_status().await.unwrap().stopped.as_ref(), Some(stopped));
    let health = first.health().await;
    assert!(!health.is_healthy());
    let alerts = health.alerts(&HealthThresholds::default()).join("; ");
    assert!(alerts.contains("the relay does not publish: `memory` was published up to position 10"), "{alerts}");

    append(&store, 20).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(bus.history(), all(3), "what it appends is not taken for published, nor the rest for all");
    first.shutdown(LEASE).await.unwrap();
    let second = app(&store, &bus).await;
    let error = second.published(Position::new(23)).await.unwrap_err();
    assert!(
        matches!(error, PublishedError::Relay(RelayError::StoreWentBack { .. })),
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
    let publisher = Publisher { store: store.store_id().await.unwrap(), epoch: 1 };
    let range = PublishRange { after: 3.into(), through: 10.into(), events: &[] };
    bus.publish_range(publisher, range).await.unwrap();
    let error = app.published(Position::new(11)).await.unwrap_err();
    assert!(matches!(error, PublishedError::Relay(RelayError::StoreWentBack { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_back_is_known_by_its_events_however_far_it_has_come_since() {
    let (newer, store, bus) = (InMemoryEventStore::new(), InMemoryEventStore::new(), LossyBus::new());
    append(&newer, 10).await;
    append(&store, 20).await;
    adopt(&store, &bus, 0).await;
    let publisher = Publisher { store: store.store_id().await.unwrap(), epoch: 0 };
    let events: Vec<_> = newer.read_all(Position::START).try_collect().await.unwrap();
    let range = PublishRange { after: 0.into(), through: 10.into(), events: &events };
    bus.publish_range(publisher, range).await.unwrap();

    let app = app(&store, &bus).await;
    let error = app.published(Position::new(20)).await.unwrap_err();
    assert!(matches!(error, PublishedError::Relay(RelayError::StoreWentBack { .. })), "{error}");
    assert_eq!(bus.history(), all(10));
    app.republish(Position::new(7)).await.unwrap();
    until_at(&store, &bus, 20).await;
    assert_eq!(bus.history(), (1..=10).chain(8..=20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_relay_makes_up_for_owners_that_its_store_has_forgotten() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    adopt(&store, &bus, 40).await;
    publish(&store, &bus, 40, 0, 5).await;
    let app = app(&store, &bus).await;
    app.published(Position::new(10)).await.unwrap();
    assert_eq!(bus.history(), all(10));
    assert_eq!(app.republish(Position::new(5)).await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_another_store_is_refused_unless_it_is_shared() {
    let (former, store, bus) = (InMemoryEventStore::new(), InMemoryEventStore::new(), LossyBus::new());
    append(&former, 2).await;
    adopt(&former, &bus, 0).await;
    publish(&former, &bus, 0, 0, 2).await;
    let last = append(&store, 3).await;
    let refused = app(&store, &bus).await;
    let error = refused.published(last).await.unwrap_err();
    let PublishedError::Relay(RelayError::OtherStore { own, other, .. }) = &error else { panic!("{error}") };
    assert_eq!((*own, *other), (store.store_id().await.unwrap(), former.store_id().await.unwrap()));
    assert!(error.to_string().contains("`.share_stream()`"), "{error}");
    assert!(!refused.health().await.is_healthy());
    refused.shutdown(LEASE).await.unwrap();

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
    assert_eq!(error.to_string(), "`memory` keeps no position that could be set back");
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_forgotten_holds_nothing_any_more() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 5).await;
    save_floor(&store, &AUDIT, 0).await;
    let app = app(&store, &bus).await;
    until_at(&store, &bus, 5).await;
    bus.take(&MAILS, 4);
    until("the other is known", async || floor(&store, &MAILS).await == Some(4)).await;
    bus.destroy_group(&AUDIT);
    app.forget_group(&AUDIT).await.unwrap();
    bus.flush();
    until_at(&store, &bus, 5).await;
    assert_eq!(bus.positions(), [5]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_bus_is_told_while_it_lasts() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    until("it relays", async || app.relay_status().await.unwrap().is_owner).await;
    bus.ranges.next(Fault::Unavailable, 12);
    let trouble = async || app.relay_status().await.unwrap().trouble;
    until("it is noticed at rest", async || trouble().await.is_some()).await;
    let health = app.health().await.alerts(&HealthThresholds::default()).join("; ");
    assert!(health.contains("the relay does not publish: event bus `memory` unavailable"), "{health}");
    while bus.ranges.left() > 0 {
        assert!(trouble().await.is_some());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("it is over", async || trouble().await.is_none()).await;
    assert!(app.bus().relay_target().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_after_the_range_in_hand() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    until("it relays", async || app.relay_status().await.unwrap().is_owner).await;
    until("it has asked", async || bus.position(store.store_id().await.unwrap()).is_some()).await;
    bus.pause(true);
    append(&store, 300).await;
    until("a range is in hand", async || !app.relay_status().await.unwrap().lag.is_zero()).await;
    let mut stopping = Box::pin(app.shutdown(Duration::from_secs(10)));
    assert!(futures_util::poll!(&mut stopping).is_pending());
    bus.pause(false);
    stopping.await.unwrap();
    assert_eq!(bus.history(), all(256));
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(Position::new(256)));
}
