//! Waiting for a projection or the relay in vain: the wait ends with an error that names the reason.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{InMemoryEventBus, InMemoryEventStore, Position, port::EventStore, prelude::*};

use crate::{
    gated::GatedStore,
    orders::{Order, OrderStatistics, created},
    wait::until,
};

async fn save(store: &(impl EventStore + Clone), customers: &[&str]) -> Position {
    let orders = AggregateRepository::<Order>::new(store.clone());
    let mut order = orders.create_new(AggregateId::new());
    order.record(customers.iter().map(|customer| created(customer, 1.0)).collect::<Vec<_>>());
    orders.save(&mut order).await.unwrap().position.unwrap()
}

#[tokio::test(start_paused = true)]
async fn reading_while_a_guard_is_held_ends() {
    let store = InMemoryEventStore::new();
    let app = App::builder()
        .store(store.clone())
        .projection_with(OrderStatistics::default)
        .wait_timeout(Duration::from_millis(100))
        .start()
        .await
        .unwrap();
    let guard = app.projected::<OrderStatistics>(None).await.unwrap();
    save(&store, &["a"]).await;
    // the runner queues for the lock, and a second reader behind it
    let error = loop {
        match tokio::time::timeout(Duration::from_secs(5), app.projected::<OrderStatistics>(None)).await {
            Ok(Ok(second)) => drop(second),
            Ok(Err(error)) => break error,
            Err(_) => panic!("the second reader waits for ever"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        error.to_string(),
        "projection `order-statistics` could not be read within 100ms: an event is being handled, or a guard is held"
    );
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn waiting_in_vain_while_a_guard_is_held_says_so() {
    let store = InMemoryEventStore::new();
    let app = App::builder()
        .store(store.clone())
        .projection_with(OrderStatistics::default)
        .wait_timeout(Duration::from_millis(100))
        .start()
        .await
        .unwrap();
    let guard = app.projected::<OrderStatistics>(None).await.unwrap();
    let rebuilt = tokio::time::timeout(Duration::from_secs(5), app.rebuild::<OrderStatistics>().into_future()).await;
    let error = rebuilt.expect("the rebuild waits for the guard for ever").unwrap_err();
    assert_eq!(
        error.to_string(),
        "projection `order-statistics` could not be replaced within 100ms: an event is being handled, or a guard is held"
    );
    let last = save(&store, &["a"]).await;
    let error = app.projected::<OrderStatistics>(last).await.map(drop);
    assert_eq!(
        error.unwrap_err().to_string(),
        "projection `order-statistics` is at position 0, 1 was not reached within 100ms: an event is being handled, or a guard is held"
    );
    drop(guard);
    app.rebuild::<OrderStatistics>().await.unwrap();
    app.projected::<OrderStatistics>(last).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn waiting_in_vain_says_what_keeps_the_projection() {
    let store = GatedStore::open();
    let app = App::builder()
        .store(store.clone())
        .projection_with(OrderStatistics::default)
        .without_relay()
        .wait_timeout(Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    store.is_away.store(true, Ordering::SeqCst);
    let position = save(&store, &["a"]).await;
    let error = app.projected::<OrderStatistics>(position).await;
    let Err(error) = error.map(drop) else { panic!("reached") };
    let error = error.to_string();
    let expected =
        "projection `order-statistics` is at position 0, 1 was not reached within 200ms: event store unavailable";
    assert!(error.starts_with(expected) && error.ends_with("away"), "{error}");

    store.is_away.store(false, Ordering::SeqCst);
    // the delay grows with every failure, and may be longer than one wait
    until("it goes on", async || app.projected::<OrderStatistics>(position).await.is_ok()).await;
    let beyond = app.projected::<OrderStatistics>(Position::new(9)).await;
    let error = beyond.map(drop).unwrap_err().to_string();
    assert!(error.ends_with("200ms: the store ends at position 1"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn trouble_that_is_over_is_not_named() {
    let store = GatedStore::open();
    let app = App::builder()
        .store(store.clone())
        .bus(InMemoryEventBus::new())
        .projection_with(OrderStatistics::default)
        .wait_timeout(Duration::from_millis(20))
        .start()
        .await
        .unwrap();
    let beyond = Position::new(9);
    let say = async || {
        let projection = app.projected::<OrderStatistics>(beyond).await.map(drop).unwrap_err().to_string();
        [projection, app.published(beyond).await.unwrap_err().to_string()]
    };
    let both = async |text: &str| say().await.iter().all(|error| error.contains(text));
    store.is_away.store(true, Ordering::SeqCst);
    until("both are in trouble", async || both("away").await).await;
    store.is_away.store(false, Ordering::SeqCst);
    until("neither is", async || both("the store ends at position 0").await).await;
}
