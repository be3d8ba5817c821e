//! The log lines of an outage: one when it begins, and one when it ends.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{
    InMemoryEventBus, InMemoryEventStore, Never, Position,
    health::HealthThresholds,
    port::EventBus as _,
    prelude::*,
    relay::RelayError,
    testkit::{Fault, FaultyBus, FaultyStore, LossyBus, ManualClock, TableStore, Tables},
};
use futures_util::TryStreamExt as _;

use crate::{
    gated::GatedStore,
    lines::Lines,
    orders::{Order, OrderCreated, OrderStatistics, created},
    wait::until,
};

#[handler(manual)]
async fn handled(_event: &OrderCreated) {}

async fn save(app: &App) {
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    orders.save(&mut order).await.unwrap();
}

/// The log holds each of these lines once, the second with the duration.
fn assert_once(log: &str, began: &str, over: &str) {
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).map(Into::into).collect::<Vec<String>>();
    assert_eq!(lines(began).len(), 1, "`{began}` in\n{log}");
    assert_eq!(lines(over).len(), 1, "`{over}` in\n{log}");
    assert!(lines(over)[0].contains("lasted="), "{log}");
    assert!(log.find(began) < log.find(over), "{log}");
}

#[tokio::test(start_paused = true)]
async fn of_a_bus_that_is_away_the_relay_says_when_it_publishes_again() {
    for is_plain in [true, false] {
        let lines = Lines::default();
        let _here = lines.capture("eventbus=info");
        let builder = App::builder().store(InMemoryEventStore::new());
        let (lossy, plain) = (LossyBus::new(), FaultyBus::new(InMemoryEventBus::new()));
        let faults = if is_plain { plain.publishes.clone() } else { lossy.ranges.clone() };
        let app = if is_plain { builder.bus(plain) } else { builder.bus(lossy) }.handler::<handled>();
        let app = app.start().await.unwrap();
        save(&app).await;
        faults.fail_next(Fault::Unavailable, 5);
        save(&app).await;
        until("the outage is over", async || faults.remaining() == 0).await;
        until("it is told", async || lines.text().contains("relay publishes again")).await;
        save(&app).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_once(&lines.text(), "relay cannot publish, trying again", "relay publishes again");
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_store_that_is_away_projections_and_followers_say_when_they_go_on() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let store = GatedStore::open();
    let app = App::builder().store(store.clone()).projection(OrderStatistics::default()).start().await.unwrap();
    save(&app).await;
    let mut following = app.follow().start();
    following.try_next().await.unwrap();
    let following = tokio::spawn(async move { following.try_next().await.unwrap() });
    store.is_away.store(true, Ordering::SeqCst);
    until("all are told", async || lines.text().matches("trying again").count() >= 2).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    store.is_away.store(false, Ordering::SeqCst);
    save(&app).await;
    following.await.unwrap();
    app.settled().await.unwrap();
    let log = lines.text();
    assert_once(&log, "projection cannot use its store, trying again", "projection goes on");
    assert_once(&log, "store cannot be followed, trying again", "store is followed again");
}

#[tokio::test(start_paused = true)]
async fn of_checkpoints_that_cannot_be_saved_the_group_says_when_they_are() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let store = FaultyStore::new(InMemoryEventStore::new());
    let app = App::builder().store(store.clone()).handler::<handled>().start().await.unwrap();
    store.checkpoints.fail_next(Fault::Unavailable, 4);
    save(&app).await;
    until("it is told", async || lines.text().contains("progress is saved again")).await;
    assert_once(&lines.text(), "progress not saved, trying again", "progress is saved again");
}

#[handler(manual)]
async fn stores(_event: &OrderCreated, _tables: &mut Tables) {}

#[tokio::test(start_paused = true)]
async fn of_a_store_that_begins_no_transaction_the_handler_says_when_it_goes_on() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let store = TableStore::new();
    store.begins.fail_next(Fault::Unavailable, 20);
    let app = App::builder().store(store.clone()).handler::<stores>().wait_timeout(Duration::from_secs(600));
    let app = app.start().await.unwrap();
    save(&app).await;
    app.settled().await.unwrap();
    assert_once(&lines.text(), "store cannot begin a transaction, trying again", "handler goes on");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_stops_the_relay_and_is_told_once_until_it_is_skipped() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let store = GatedStore::open().silent();
    store.damaged_at.store(2, Ordering::SeqCst);
    let app = App::builder().store(store.clone()).bus(LossyBus::new()).start().await.unwrap();
    for _ in 0..3 {
        save(&app).await;
    }
    until("it stopped", async || app.relay_status().await.unwrap().stopped.is_some()).await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    let status = app.relay_status().await.unwrap();
    assert!(matches!(&status.stopped, Some(RelayError::Damaged { after, .. }) if after.get() == 1), "{status:?}");
    let alerts = app.health().await.alerts(&HealthThresholds::default()).join("\n");
    assert!(alerts.contains("cannot read the event after position 1") && alerts.contains("(since 2"), "{alerts}");
    assert!(!alerts.contains("ada"), "no stored value: {alerts}");
    assert!(app.skip_published_event(Position::new(2), "a torn page").await.unwrap());
    until("it goes on", async || app.relay_status().await.unwrap().position.get() == 3).await;
    let log = lines.text();
    assert_once(&log, "relay stopped", "relay publishes again");
    assert_eq!(log.matches("ERROR").count(), 1, "{log}");
    assert!(!app.health().await.alerts(&HealthThresholds::default()).join("").contains("cannot read"));
}

#[tokio::test]
async fn health_says_since_when_store_and_bus_are_away() {
    let store = GatedStore::open();
    let app = App::builder().store(store.clone()).projection(OrderStatistics::default()).start().await.unwrap();
    store.is_away.store(true, Ordering::SeqCst);
    let away = async || app.health().await.store.unwrap_or_default();
    let first = away().await;
    assert!(first.contains("(since 2"), "{first}");
    assert_eq!(away().await, first, "it is still the same outage");
    store.is_away.store(false, Ordering::SeqCst);
    assert_eq!(away().await, "");
}

#[tokio::test]
async fn an_outage_does_not_begin_with_an_earlier_stop_of_the_relay() {
    let clock = ManualClock::at(time::macros::datetime!(2026-05-05 10:00 UTC));
    let store = GatedStore::over(InMemoryEventStore::with_clock(clock.clone()));
    let orders = AggregateRepository::<Order>::new(store.clone());
    orders.create(&AggregateId::new(), |_| Ok::<_, Never>(created("ada", 1.0))).await.unwrap();
    store.damaged_at.store(1, Ordering::SeqCst);
    let bus = FaultyBus::new(InMemoryEventBus::new());
    let app = App::builder().clock(clock.clone()).store(store.clone()).bus(bus).start().await.unwrap();
    until("the relay stopped", async || app.relay_status().await.unwrap().stopped.is_some()).await;
    store.is_away.store(true, Ordering::SeqCst);
    clock.advance(Duration::from_secs(7_200));
    let problem = app.health().await.store.unwrap_or_default();
    assert!(problem.ends_with("(since 2026-05-05T12:00:00Z)"), "{problem}");
}

#[tokio::test]
async fn health_keeps_the_lags_that_it_has_read_in_time() {
    let clock = ManualClock::new();
    let (store, bus) = (GatedStore::over(InMemoryEventStore::with_clock(clock.clone())), LossyBus::new());
    let app = App::builder().clock(clock.clone()).bus(bus.clone()).store(store.clone());
    let app = app.projection(OrderStatistics::default()).start().await.unwrap();
    until("it relays", async || app.relay_status().await.unwrap().is_owner).await;
    bus.pause(true);
    save(&app).await;
    drop(app.projected::<OrderStatistics>(Position::new(1)).await.unwrap());
    clock.advance(Duration::from_secs(7_200));
    // for the relay, which is behind, and not for the projection
    store.times.store(1, Ordering::SeqCst);
    assert_eq!(app.health().await.lag_seconds.into_iter().collect::<Vec<_>>(), [("relay".into(), 7_200)]);
    bus.pause(false);
}

#[tokio::test]
async fn one_line_at_the_start_says_what_runs_here() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let app = App::builder().handler::<handled>().projection(OrderStatistics::default()).start().await.unwrap();
    let log = lines.text();
    let line: Vec<_> = log.lines().filter(|line| line.contains("app runs")).collect();
    assert_eq!(line.len(), 1, "{log}");
    for part in [
        "INFO",
        "store=InMemoryEventStore",
        "bus=none, handlers read the store",
        "groups=handled (1 handler)",
        "projections=order-statistics",
        "relay=off",
    ] {
        assert!(line[0].contains(part), "{part} in {}", line[0]);
    }
    assert!(line[0].find("app runs").unwrap() < 100, "{}", line[0]);
    drop(app);
    let app = App::builder().bus(InMemoryEventBus::new()).start().await.unwrap();
    let expected = "app runs store=none bus=InMemoryEventBus groups=none projections=none relay=off";
    assert!(lines.text().contains(expected), "{}", lines.text());
    drop(app);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_an_app_shuts_down_is_no_outage() {
    let (lines, bus) = (Lines::default(), InMemoryEventBus::new());
    let _here = lines.capture("eventbus=warn");
    let app = App::builder().store(InMemoryEventStore::new()).bus(bus.clone()).handler::<handled>();
    let app = app.start().await.unwrap();
    bus.shutdown(Duration::from_secs(1)).await.unwrap(); // as the app does, which then ends the relay
    save(&app).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    app.shutdown(Duration::from_secs(1)).await.unwrap();
    assert!(!lines.text().contains("relay cannot publish"), "{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_shut_down_under_an_app_is_an_outage() {
    let (lines, bus) = (Lines::default(), InMemoryEventBus::new());
    let _here = lines.capture("eventbus=warn");
    let app = App::builder().store(InMemoryEventStore::new()).bus(bus.clone()).handler::<handled>();
    let app = app.start().await.unwrap();
    bus.shutdown(Duration::from_secs(1)).await.unwrap();
    save(&app).await;
    until("it is told", async || lines.text().contains("relay cannot publish")).await;
    assert!(lines.text().contains("is shut down"), "{}", lines.text());
}
