//! Stored events are published: once if no process dies, in order, despite failures.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{
    InMemoryEventBus, InMemoryEventStore, Name, Position,
    health::HealthThresholds,
    port::{Checkpoints, EventBus},
    prelude::*,
    repository::Publication,
    testkit::{Fault, FaultyBus, FaultyStore, LossyBus, ManualClock},
};

use crate::{
    orders::{Order, OrderShipped, created},
    wait::until,
};

async fn save(app: &App, shipments: usize) -> Position {
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0)).record(vec![OrderShipped { tracking_number: "T".into() }; shipments]);
    let saved = orders.save(&mut order).await.unwrap();
    assert!(matches!(saved.publication, Publication::ByRelay));
    saved.position.unwrap()
}

/// The positions of all events that the bus delivers.
fn positions_of(bus: &impl EventBus) -> Arc<Mutex<Vec<u64>>> {
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let log = Arc::clone(&seen);
    bus.subscribe_to_all(move |event: RecordedEvent| {
        log.lock().unwrap().push(event.position().unwrap().get());
        async {}
    });
    seen
}

#[tokio::test]
async fn publishes_what_is_stored_in_order_and_remembers_the_ids() {
    let bus = InMemoryEventBus::new();
    let seen = positions_of(&bus);
    let app = App::builder().bus(bus.clone()).store(InMemoryEventStore::new()).start().await.unwrap();
    let consumer = bus.start_consuming_in_background();
    for _ in 0..10 {
        save(&app, 3).await;
    }
    let last = save(&app, 0).await;
    let published = app.published(last).await.unwrap();
    assert_eq!(published.position, last);
    assert_eq!(
        bus.stream_info().await.stream.last_entry_id.as_deref(),
        published.message_id.as_ref().map(|id| id.as_str())
    );
    until("all are delivered", async || seen.lock().unwrap().len() == 41).await;
    assert_eq!(*seen.lock().unwrap(), (1..=41).collect::<Vec<_>>());
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    consumer.await.unwrap().unwrap();
}

/// A range is full at 256 events.
#[tokio::test(start_paused = true)]
async fn an_event_stored_while_a_full_range_is_published_is_published_next() {
    let bus = LossyBus::new();
    let app = App::builder().bus(bus.clone()).store(InMemoryEventStore::new()).start().await.unwrap();
    until("it relays", async || app.relay_status().await.unwrap().is_owner).await;
    bus.pause(true);
    save(&app, 255).await;
    until("the range is on its way", async || bus.is_range_paused()).await;
    let last = save(&app, 0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    bus.pause(false);
    assert_eq!(app.published(last).await.unwrap().position, 257);
}

#[tokio::test]
async fn an_outage_of_the_bus_fails_no_save_and_loses_nothing() {
    let bus = FaultyBus::new(InMemoryEventBus::new());
    let seen = positions_of(&bus);
    bus.publishes.fail_next(Fault::Unavailable, 3);
    let app = App::builder().bus(bus.clone()).store(InMemoryEventStore::new()).start().await.unwrap();
    let last = save(&app, 300).await; // more than one range
    app.published(last).await.unwrap();
    assert_eq!(bus.publishes.remaining(), 0);
    let consumer = bus.start_consuming_in_background();
    until("all are delivered", async || seen.lock().unwrap().len() == 301).await;
    assert_eq!(*seen.lock().unwrap(), (1..=301).collect::<Vec<_>>());
    bus.stop_consuming().await;
    consumer.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_lag_is_that_of_the_oldest_unpublished_event_in_every_process() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let clock = ManualClock::new();
    let (store, bus) = (InMemoryEventStore::with_clock(clock.clone()), LossyBus::new());
    let start = async || {
        let app = App::builder().clock(clock.clone()).bus(bus.clone()).store(store.clone());
        app.start().await.unwrap()
    };
    let (owner, standby) = (start().await, start().await);
    until("one relays", async || owner.relay_status().await.unwrap().is_owner).await;
    let lags = async || [owner.relay_status().await.unwrap().lag, standby.relay_status().await.unwrap().lag];
    assert_eq!(lags().await, [Some(Duration::ZERO); 2], "there is nothing to publish");
    bus.pause(true);
    save(&owner, 0).await;
    clock.advance(HOUR);
    save(&owner, 0).await;
    clock.advance(HOUR);
    assert_eq!(lags().await, [Some(2 * HOUR); 2], "the bus does not answer");
    let alerts = owner.health().await.alerts(&HealthThresholds::default());
    assert!(
        alerts.contains(&"relay lags: its next event has waited for 7200 s, longer than 60 s".into()),
        "{alerts:?}"
    );
    bus.pause(false);
    until("both know that all is published", async || {
        clock.advance(Duration::from_secs(1));
        lags().await == [Some(Duration::ZERO); 2]
    })
    .await;
}

#[tokio::test]
async fn resumes_after_its_stored_position() {
    let store = InMemoryEventStore::new();
    let bus = || FaultyBus::new(InMemoryEventBus::new());
    let app = App::builder().bus(bus()).store(store.clone()).start().await.unwrap();
    let first = save(&app, 1).await;
    app.published(first).await.unwrap();
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    let name = Name::prefixed("relay:", app.bus().destination());
    assert_eq!(store.load_checkpoint(&name).await.unwrap(), Some(first));

    let app = App::builder().bus(bus()).store(store).start().await.unwrap();
    let second = save(&app, 0).await;
    app.published(second).await.unwrap();
    let published = app.bus().stream_info().await.stream.length;
    assert_eq!(published, 1, "the first two are not published again");
}

#[tokio::test(start_paused = true)]
async fn a_save_of_the_same_process_is_published_at_once() {
    let app = App::builder().store(InMemoryEventStore::new()).bus(InMemoryEventBus::new()).start().await.unwrap();
    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(7)).await;
        let saved = tokio::time::Instant::now();
        let last = save(&app, 0).await;
        app.published(last).await.unwrap();
        assert_eq!(saved.elapsed(), Duration::ZERO, "not by polling");
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_cannot_be_saved_is_saved_later_and_nothing_is_published_again() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let bus = FaultyBus::new(InMemoryEventBus::new());
    let app = App::builder().bus(bus.clone()).store(store.clone()).start().await.unwrap();
    store.checkpoints.fail_next(Fault::Unavailable, 2);
    let last = save(&app, 0).await;
    app.published(last).await.unwrap();
    until("it was tried again", async || store.checkpoints.remaining() == 0).await;
    assert_eq!(bus.stream_info().await.stream.length, 1);
}

#[tokio::test]
async fn waiting_for_what_is_not_published_says_what_keeps_it() {
    let bus = FaultyBus::new(InMemoryEventBus::new());
    bus.publishes.fail_next(Fault::Unavailable, 1_000);
    let app = App::builder()
        .bus(bus)
        .store(InMemoryEventStore::new())
        .wait_timeout(Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    let position = save(&app, 0).await;
    let error = app.published(position).await.unwrap_err().to_string();
    assert!(error.contains("the relay is at position 0, 1 was not reached within 200ms"), "{error}");
    assert!(error.contains("event bus `memory` unavailable"), "{error}");
}

#[tokio::test]
async fn without_relay_nothing_is_published() {
    let app = App::builder().store(InMemoryEventStore::new()).without_relay().start().await.unwrap();
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    let saved = orders.save(&mut order).await.unwrap();
    assert!(matches!(saved.publication, Publication::None));
    assert!(app.published(saved.position).await.unwrap_err().to_string().contains("no relay"));
}
