//! State in memory beside a store that an older copy has replaced, while the process runs on.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{
    InMemoryEventStore, Never, Position, health::HealthThresholds, port::ReadFeed as _, prelude::*,
    projection::ProjectionError,
};

use crate::{
    gated::GatedStore,
    orders::{Order, OrderCreated, created},
    relay_kit::append,
    wait::until,
};

#[derive(Debug, Default)]
struct Customers(Vec<String>);

#[projection(name = "customers", manual)]
impl Customers {
    fn created(&mut self, event: &OrderCreated) {
        self.0.push(event.customer_id.clone());
    }
}

async fn save(app: &App, customer: &str) -> Position {
    let order = AggregateId::new();
    let saved = app.repository::<Order>().upsert(&order, |_| Ok::<_, Never>(created(customer, 1.0))).await;
    saved.unwrap().position.unwrap()
}

async fn customers(app: &App, position: Position) -> Vec<String> {
    app.projected::<Customers>(position).await.unwrap().0.clone()
}

#[tokio::test(start_paused = true)]
async fn state_in_memory_is_folded_anew_when_the_store_went_back_and_is_unready_meanwhile() {
    let (store, copy) = (GatedStore::open(), InMemoryEventStore::new());
    let app = App::builder().store(store.clone()).projection_with(Customers::default).start().await.unwrap();
    let mut last = Position::START;
    for _ in 0..10 {
        last = save(&app, "bob").await;
    }
    assert_eq!(customers(&app, last).await.len(), 10);
    let head = append(&copy, 12).await;
    store.events.forget_permits(store.events.available_permits());
    store.restored.set(copy.clone()).unwrap();
    store.appended().note_possible_restore();
    store.appended().notify();
    // the check reads the event at the position of the last one that the state includes
    store.events.add_permits(1);
    until("the state is folded anew", async || !app.health().await.is_ready()).await;
    let health = app.health().await;
    let alerts = health.alerts(&HealthThresholds::default()).join("; ");
    assert!(alerts.contains("`customers` has yet to include the events"), "{alerts}");
    let status = app.projections().await.unwrap().remove(0);
    assert!(matches!(status.stopped, Some(ProjectionError::WentBack { .. })), "{status:?}");
    store.events.add_permits(1_000);
    until("it is ready", async || app.health().await.is_ready()).await;
    assert_eq!(customers(&app, head).await, vec!["ada"; 12]);
    let next = append(&copy, 1).await;
    store.appended().notify();
    assert_eq!(customers(&app, next).await.len(), 13);
}

/// The store that took over lacks events of other types, and has ones of the state's at their positions.
#[tokio::test(start_paused = true)]
async fn state_in_memory_takes_new_events_at_positions_that_it_had_passed() {
    let store = GatedStore::open();
    let app = App::builder().store(store.clone()).projection_with(Customers::default).start().await.unwrap();
    let last = save(&app, "ada").await;
    store.gap.store(5, Ordering::SeqCst);
    store.appended().notify();
    assert_eq!(customers(&app, Position::new(last.get() + 5)).await, ["ada"]);
    store.gap.store(0, Ordering::SeqCst);
    store.appended().notify();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(app.health().await.is_ready());
    let next = save(&app, "bob").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(customers(&app, next).await, ["ada", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn state_in_memory_that_had_stopped_goes_on_after_an_outage_and_folds_no_event_twice() {
    let store = GatedStore::open();
    // without a factory it could not be folded anew
    let app = App::builder().store(store.clone()).projection(Customers::default()).start().await.unwrap();
    let first = save(&app, "ada").await;
    assert_eq!(customers(&app, first).await, ["ada"]);
    store.damaged_at.store(first.get() + 1, Ordering::SeqCst);
    let next = save(&app, "bob").await;
    until("it stops", async || app.projections().await.unwrap()[0].stopped.is_some()).await;
    store.failures.store(3, Ordering::SeqCst);
    store.appended().notify();
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.damaged_at.store(0, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(customers(&app, next).await, ["ada", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn a_rebuilt_state_folds_no_event_twice_after_an_outage() {
    let store = GatedStore::open();
    let app = App::builder().store(store.clone()).projection_with(Customers::default).start().await.unwrap();
    let first = save(&app, "ada").await;
    assert_eq!(customers(&app, first).await, ["ada"]);
    store.damaged_at.store(first.get() + 1, Ordering::SeqCst);
    let second = save(&app, "bob").await;
    until("it stops", async || app.projections().await.unwrap()[0].stopped.is_some()).await;
    store.damaged_at.store(0, Ordering::SeqCst);
    store.appended().note_possible_restore();
    // includes an event that the feed has not reached
    app.rebuild::<Customers>().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(customers(&app, second).await, ["ada", "bob"]);
    let third = save(&app, "eve").await;
    assert_eq!(customers(&app, third).await, ["ada", "bob", "eve"]);
}
