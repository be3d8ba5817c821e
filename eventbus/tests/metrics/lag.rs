//! Lag in events and in seconds.

use std::time::Duration;

use eventbus::{
    AggregateId, App, InMemoryEventBus, InMemoryEventStore, RecordedEvent, Version,
    bus::EventBus as _,
    prelude::*,
    testkit::{Fault, FaultyBus, FaultyStore, ManualClock, TestApp},
};
use tokio::sync::Semaphore;

use crate::shop::{Order, Paid};

#[derive(Debug, Default)]
struct Sales {
    cents: u64,
}

#[projection(name = "sales")]
impl Sales {
    fn paid(&mut self, paid: &Paid) -> Result<(), HandlerError> {
        if paid.cents == 13 {
            return Err(HandlerError::permanent("unlucky"));
        }
        self.cents += paid.cents;
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Payments {
    number: u64,
}

#[projection(name = "payments")]
impl Payments {
    fn paid(&mut self, _paid: &Paid) {
        self.number += 1;
    }
}

/// Rows that the projection keeps itself.
#[derive(Debug)]
struct Ledger;

#[projection(name = "ledger", manual)]
impl Ledger {
    fn paid(&self, _paid: &Paid) {}
}

async fn numbers(app: &App, projection: &str) -> [f64; 4] {
    let metrics = app.metrics().await;
    ["lag_events", "lag_seconds", "stopped", "owner"]
        .map(|name| metrics.number(&format!("eventbus_projection_{name}"), &[("projection", projection)]).unwrap())
}

#[tokio::test]
async fn the_lag_of_a_stopped_projection_grows_by_a_second_each_second() {
    let app = TestApp::start(|| App::builder().projection(Sales::default()).projection(Payments::default())).await;
    app.save("o-1", Paid { cents: 1 }).await;
    app.advance(Duration::from_secs(60)).await;
    assert_eq!(numbers(&app, "sales").await, [0.0, 0.0, 0.0, 1.0]);
    app.save("o-1", Paid { cents: 13 }).await;
    app.advance(Duration::from_secs(5)).await;
    assert_eq!(numbers(&app, "sales").await, [1.0, 5.0, 1.0, 0.0]);
    for second in 1..=100_u32 {
        app.advance(Duration::from_secs(1)).await;
        assert_eq!(numbers(&app, "sales").await[1], 5.0 + f64::from(second));
    }
    // later events do not make the oldest one younger
    app.save("o-2", [Paid { cents: 2 }, Paid { cents: 3 }]).await;
    app.advance(Duration::from_millis(500)).await;
    assert_eq!(numbers(&app, "sales").await, [3.0, 105.5, 1.0, 0.0]);
    assert_eq!(numbers(&app, "payments").await, [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(app.projection::<Payments>().unwrap().read().await.number, 4);
    assert_eq!(app.projection::<Sales>().unwrap().read().await.cents, 1);
}

#[tokio::test]
async fn a_projection_whose_store_is_away_is_failing_and_not_stopped() {
    let clock = ManualClock::new();
    let store = FaultyStore::new(InMemoryEventStore::with_clock(clock.clone()));
    let builder = App::builder().store(store.clone()).projection(Ledger).clock(clock.clone());
    let app = builder.start().await.unwrap();
    let states = async || {
        let metrics = app.metrics().await;
        ["failing", "stopped"]
            .map(|name| metrics.number(&format!("eventbus_projection_{name}"), &[("projection", "ledger")]).unwrap())
    };
    store.checkpoints.fail_next(Fault::Unavailable, 1_000);
    pay(&app, "o-1").await;
    let waiting = async {
        while states().await != [1.0, 0.0] {
            tokio::task::yield_now().await;
        }
        store.checkpoints.clear();
        while states().await != [0.0, 0.0] {
            clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it fails, and goes on");
}

#[tokio::test]
async fn the_lag_of_a_relay_that_cannot_publish_grows_by_a_second_each_second() {
    let clock = ManualClock::new();
    let bus = FaultyBus::new(InMemoryEventBus::builder().clock(clock.clone()).build());
    bus.publishes.fail_next(Fault::Unavailable, 1_000);
    let builder = App::builder().store(InMemoryEventStore::with_clock(clock.clone())).bus(bus.clone());
    let app = builder.clock(clock.clone()).start().await.unwrap();
    pay(&app, "o-1").await;
    let relay = async || {
        let metrics = app.metrics().await;
        ["leader", "failing", "stopped", "lag_events", "lag_seconds"]
            .map(|name| metrics.number(&format!("eventbus_relay_{name}"), &[]).unwrap())
    };
    let told = async {
        while relay().await != [1.0, 1.0, 0.0, 1.0, 0.0] {
            tokio::task::yield_now().await;
        }
        for second in [1.0, 2.0, 3.0] {
            clock.advance(Duration::from_secs(1));
            assert_eq!(relay().await[3..], [1.0, second]);
        }
        bus.publishes.clear();
        while relay().await != [1.0, 0.0, 0.0, 0.0, 0.0] {
            clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
        assert_eq!(app.metrics().await.number("eventbus_relay_published_total", &[]), Some(1.0));
        bus.refused.set(Some(eventbus::Position::START));
        pay(&app, "o-2").await;
        while relay().await != [0.0, 0.0, 1.0, 1.0, 0.0] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("the metrics follow the relay");
}

static GATE: Semaphore = Semaphore::const_new(0);

#[handler(group = "slow", manual)]
async fn wait_for_the_gate(_paid: &Paid) -> Result<(), HandlerError> {
    GATE.acquire().await?.forget();
    Ok(())
}

#[tokio::test]
async fn what_a_group_has_not_read_is_counted_and_grows_older_by_a_second_each_second() {
    let clock = ManualClock::new();
    let bus = InMemoryEventBus::builder().max_in_flight(1).clock(clock.clone()).build();
    let app =
        App::builder().bus(bus.clone()).clock(clock.clone()).handler::<wait_for_the_gate>().start().await.unwrap();
    let unread = async || {
        let metrics = app.metrics().await;
        ["pending", "unread", "unread_seconds", "pending_seconds"]
            .map(|name| metrics.number(&format!("eventbus_group_{name}"), &[("group", "slow")]).unwrap())
    };
    let paid = |cents| RecordedEvent::from_event(&Paid { cents }, AggregateId::new(), Version::FIRST).unwrap();
    bus.publish(&[1, 2, 3].map(paid)).await.unwrap();
    while unread().await != [1.0, 2.0, 0.0, 0.0] {
        tokio::task::yield_now().await;
    }
    for second in [1.5, 3.0, 4.5] {
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(unread().await, [1.0, 2.0, second, second]);
    }
    GATE.add_permits(3);
    while unread().await != [0.0; 4] {
        tokio::task::yield_now().await;
    }
}

async fn pay(app: &App, id: &str) {
    let id = id.parse().unwrap();
    app.repository::<Order>().upsert(&id, |_| Ok::<_, eventbus::Never>(Paid { cents: 1 })).await.unwrap();
}
