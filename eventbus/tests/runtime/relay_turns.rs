//! The leader among relays, and its status in the remaining processes.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{
    App, InMemoryEventBus, InMemoryEventStore, Name, Position, RecordedEvent, handler,
    port::{Checkpoints, Leases, ReadFeed},
    testkit::{Fault, LossyBus},
};

use crate::{gated::GatedStore, relay_kit::*, wait::until};

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
async fn the_lease_is_kept_as_long_as_the_relay_works() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let relaying = app(&store, &bus).await;
    until("it relays", async || relaying.relay_status().await.unwrap().is_owner).await;
    let lease = store.lease_of(&ROLE).await.unwrap();
    let standing_by = app(&store, &bus.connection()).await;
    tokio::time::sleep(10 * LEASE).await;
    assert!(lease.is_some() && store.lease_of(&ROLE).await.unwrap() == lease, "the same, with its epoch");
    assert!(!standing_by.relay_status().await.unwrap().is_owner);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_was_paused_beyond_its_lease_steps_down_and_stands_by() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let first = app(&store, &bus).await;
    let last = append(&store, 1).await;
    first.published(last).await.unwrap();
    bus.pause(true);
    append(&store, 1).await;
    // as if the whole process were paused: its lease has a new owner when it continues
    let other = Name::from_static("other");
    let lease = store.seize_lease(&ROLE, &other, Duration::from_secs(30)).await.unwrap();
    publish(&store, &bus.connection(), 2).await;
    bus.pause(false);
    until("it has stepped down", async || !first.relay_status().await.unwrap().is_owner).await;
    append(&store, 1).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(position(&store, &bus).await, 2, "the other one has the lease");
    store.release_lease(&lease).await.unwrap();
    until_at(&store, &bus, 3).await;
    assert_eq!(bus.history(), all(3));
}

/// The leader goes back to publish again, as after a loss of the bus: what this process had published counts no longer.
#[tokio::test(start_paused = true)]
async fn a_standby_follows_a_leader_that_publishes_again() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    let last = append(&store, 5).await;
    app.published(last).await.unwrap();
    bus.ranges.fail_next(Fault::Unavailable, 1_000);
    append(&store, 1).await;
    until("the bus is away", async || app.relay_status().await.unwrap().trouble.is_some()).await;
    let leader = Name::from_static("other");
    store.seize_lease(&ROLE, &leader, Duration::from_secs(3_600)).await.unwrap();
    until("it stands by without an error", async || {
        let status = app.relay_status().await.unwrap();
        !status.is_owner && status.trouble.is_none() && status.since.is_none()
    })
    .await;

    for position in [2, 3, 6].map(Position::new) {
        store.save_checkpoint(&ROLE, position).await.unwrap();
        assert_eq!(app.relay_status().await.unwrap().position, position);
        assert_eq!(app.published(position).await.unwrap().position, position);
    }
    store.save_checkpoint(&ROLE, Position::new(2)).await.unwrap();
    let error = app.published(last).await.unwrap_err().to_string();
    assert!(error.contains("the relay is at position 2, 5 was not reached"), "{error}");
}

/// As by a bug of a driver, while a different process takes the lease.
#[tokio::test(start_paused = true)]
async fn a_relay_that_panicked_and_stands_by_is_not_the_owner() {
    let feed = InMemoryEventStore::new();
    let store = GatedStore::over(feed.clone()).silent();
    let app = App::builder().store(store.clone()).bus(LossyBus::new()).lease(LEASE).start().await.unwrap();
    until("it relays", async || app.relay_status().await.unwrap().is_owner).await;
    store.panics.store(1, Ordering::SeqCst);
    append(&feed, 1).await;
    until("it panicked", async || store.panics.load(Ordering::SeqCst) == 0).await;
    store.seize_lease(&ROLE, &Name::from_static("other"), Duration::from_secs(3_600)).await.unwrap();
    until("it stands by", async || !app.relay_status().await.unwrap().is_owner).await;
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
async fn a_former_owner_that_ends_does_not_set_the_checkpoint_back() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let former = app(&store, &bus).await;
    let last = append(&store, 3).await;
    former.published(last).await.unwrap();
    // the former leader has not noticed yet
    let other = Name::from_static("other");
    store.seize_lease(&ROLE, &other, Duration::from_secs(30)).await.unwrap();
    store.save_checkpoint(&ROLE, Position::new(7)).await.unwrap();
    former.shutdown(LEASE).await.unwrap();
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(Position::new(7)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_paused_beyond_its_lease_does_not_set_the_checkpoint_back() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let former = app(&store, &bus).await;
    let last = append(&store, 3).await;
    former.published(last).await.unwrap();
    let other = Name::from_static("other");
    store.seize_lease(&ROLE, &other, Duration::from_secs(60)).await.unwrap();
    store.save_checkpoint(&ROLE, Position::new(7)).await.unwrap();
    // no timer fires meanwhile, as in a paused process
    tokio::time::advance(2 * LEASE).await;
    tokio::time::sleep(2 * LEASE).await;
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(Position::new(7)));
    former.shutdown(LEASE).await.unwrap();
}

/// The position of a process that stood by is as old as its start.
#[tokio::test(start_paused = true)]
async fn a_new_leader_saves_no_position_before_the_bus_has_told_it() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 5).await;
    let former = store.acquire_lease(&ROLE, &AUDIT, Duration::from_secs(60)).await.unwrap().unwrap();
    store.save_checkpoint(&ROLE, Position::new(1)).await.unwrap();
    let app = app(&store, &bus).await;
    store.save_checkpoint(&ROLE, Position::new(5)).await.unwrap();
    bus.pause(true);
    store.release_lease(&former).await.unwrap();
    until("it relays", async || app.relay_status().await.unwrap().is_owner).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(app.relay_status().await.unwrap().position, 5);
    app.shutdown(LEASE).await.unwrap_err(); // the bus does not answer
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(Position::new(5)));
}

#[handler(manual, stream = "orders")]
async fn handle_order(_event: &RecordedEvent) {}

#[tokio::test(start_paused = true)]
async fn without_a_relay_of_its_own_an_app_waits_for_that_of_another() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let saving = builder(&store, &bus.connection()).consume("orders", InMemoryEventBus::new()).without_relay();
    let saving = saving.handler::<handle_order>().start().await.unwrap();
    let last = append(&store, 5).await;
    let error = saving.published(last).await.unwrap_err().to_string();
    assert!(error.contains("another process relays, or is to relay"), "{error}");
    let _relaying = app(&store, &bus).await;
    assert_eq!(saving.published(last).await.unwrap().position, last);
    assert!(!saving.relay_status().await.unwrap().is_owner);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_after_the_range_in_hand() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    until("it relays", async || app.relay_status().await.unwrap().is_owner).await;
    until("it has asked", async || bus.position(store.store_id().await.unwrap()).is_some()).await;
    bus.pause(true);
    append(&store, 300).await;
    until("a range is in hand", async || bus.is_range_paused()).await;
    let mut stopping = Box::pin(app.shutdown(Duration::from_secs(10)));
    assert!(futures_util::poll!(&mut stopping).is_pending());
    bus.pause(false);
    stopping.await.unwrap();
    assert_eq!(bus.history(), all(256));
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(Position::new(256)));
}
