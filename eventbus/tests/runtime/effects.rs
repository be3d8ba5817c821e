//! Handlers that take the store's transaction: one effect for each event, however often it is delivered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use eventbus::{
    InMemoryEventBus, Version,
    app::StartMistake,
    handler::StateMap,
    port::{EventBus, MultiStreamAppends, Transactions},
    prelude::*,
    testkit::{Fault, TableStore, Tables},
};

use crate::{
    orders::{Order, OrderCreated, OrderShipped, created},
    wait::until,
};

/// The results of the next calls of a handler, after it wrote.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicU32>);

#[handler(group = "stock", manual)]
async fn reserve(event: &OrderCreated, tables: &mut Tables, State(calls): State<Calls>) {
    calls.0.fetch_add(1, Ordering::SeqCst);
    count(tables, &event.customer_id);
}

#[handler(group = "stock", manual)]
async fn unsure(event: &OrderCreated, tables: &mut Tables, State(calls): State<Calls>) -> Result<(), String> {
    count(tables, &event.customer_id);
    match calls.0.fetch_add(1, Ordering::SeqCst) {
        0 => Err("out of stock".into()),
        1 => panic!("boom"),
        _ => Ok(()),
    }
}

#[handler(group = "stock", manual, timeout_ms = 20)]
async fn slow(event: &OrderCreated, tables: &mut Tables, State(calls): State<Calls>) {
    count(tables, &event.customer_id);
    if calls.0.fetch_add(1, Ordering::SeqCst) == 0 {
        std::future::pending::<()>().await;
    }
}

fn count(tables: &mut Tables, customer: &str) {
    let row = tables.row("reservations", customer);
    let before: u64 = row.get("orders").map_or(0, |orders| orders.parse().unwrap());
    row.insert("orders".into(), (before + 1).to_string());
}

async fn reserved(store: &TableStore, customer: &str) -> Option<String> {
    let rows = store.tables().await.rows("reservations");
    rows.into_iter().find(|(key, _)| key == customer).and_then(|(_, mut row)| row.remove("orders"))
}

async fn app<H: eventbus::handler::Handler>(store: &TableStore, calls: &Calls) -> App {
    App::builder().store(store.clone()).state(calls.clone()).handler::<H>().start().await.unwrap()
}

async fn order(app: &App) {
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 9.0));
    orders.save(&mut order).await.unwrap();
}

#[tokio::test]
async fn an_event_that_is_delivered_again_takes_effect_once() {
    let (store, calls, bus) = (TableStore::new(), Calls::default(), InMemoryEventBus::new());
    let state = StateMap::new().with(calls.clone());
    bus.subscribe_handler::<reserve>((&state, &store)).unwrap();
    let event = RecordedEvent::from_event(&created("ada", 1.0), AggregateId::new(), Version::FIRST).unwrap();
    let consumer = bus.start_consuming_in_background();
    for events in 1..=3 {
        bus.publish(std::slice::from_ref(&event)).await.unwrap();
        until("the event is consumed", async || bus.stats().events_consumed >= events).await;
    }
    bus.stop_consuming().await;
    consumer.await.unwrap().unwrap();
    assert_eq!(reserved(&store, "ada").await.as_deref(), Some("1"));
    assert_eq!(calls.0.load(Ordering::SeqCst), 1, "the handler does not even run again");
    let stats = bus.stats();
    assert_eq!((stats.handler_errors, stats.messages_sent_to_dlq), (0, 0), "it counts as handled");
}

#[handler(name = "reserve", group = "warehouse", manual)]
async fn reserve_in_warehouse(event: &OrderCreated, tables: &mut Tables, state: State<Calls>) {
    reserve(event, tables, state).await;
}

#[tokio::test]
async fn a_handler_in_another_group_repeats_no_effect() {
    let (store, calls, bus) = (TableStore::new(), Calls::default(), InMemoryEventBus::new());
    let state = StateMap::new().with(calls.clone());
    bus.subscribe_handler::<reserve>((&state, &store)).unwrap();
    bus.subscribe_handler::<reserve_in_warehouse>((&state, &store)).unwrap();
    let event = RecordedEvent::from_event(&created("ada", 1.0), AggregateId::new(), Version::FIRST).unwrap();
    let consumer = bus.start_consuming_in_background();
    bus.publish(&[event]).await.unwrap();
    until("both groups have handled it", async || bus.stats().events_processed_success == 2).await;
    bus.stop_consuming().await;
    consumer.await.unwrap().unwrap();
    assert_eq!(reserved(&store, "ada").await.as_deref(), Some("1"));
    assert_eq!(calls.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn another_group_or_handler_has_effects_of_its_own() {
    let (store, calls) = (TableStore::new(), Calls::default());
    let app = App::builder().store(store.clone()).state(calls).handler::<reserve>().handler::<also>().start();
    let app = app.await.unwrap();
    order(&app).await;
    app.settled().await.unwrap();
    assert_eq!(reserved(&store, "ada").await.as_deref(), Some("2"));
}

#[handler(group = "audit", manual)]
async fn also(event: &OrderCreated, tables: &mut Tables) {
    count(tables, &event.customer_id);
}

#[tokio::test(start_paused = true)]
async fn errors_and_panics_leave_nothing_and_are_tried_again() {
    let (store, calls) = (TableStore::new(), Calls::default());
    let app = app::<unsure>(&store, &calls).await;
    order(&app).await;
    app.settled().await.unwrap();
    assert_eq!(reserved(&store, "ada").await.as_deref(), Some("1"));
    assert_eq!(calls.0.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_handler_that_takes_too_long_leaves_nothing_and_is_tried_again() {
    let (store, calls) = (TableStore::new(), Calls::default());
    let app = app::<slow>(&store, &calls).await;
    order(&app).await;
    app.settled().await.unwrap();
    assert_eq!(reserved(&store, "ada").await.as_deref(), Some("1"));
    assert_eq!(calls.0.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_waited_for_and_uses_up_no_attempt() {
    let (store, calls) = (TableStore::new(), Calls::default());
    store.begins.fail_next(Fault::Unavailable, 20);
    let app = App::builder().store(store.clone()).state(calls.clone()).handler::<reserve>();
    let app = app.wait_timeout(Duration::from_secs(600)).start().await.unwrap();
    order(&app).await;
    app.settled().await.unwrap();
    assert_eq!(reserved(&store, "ada").await.as_deref(), Some("1"));
    assert_eq!(app.bus().stats().handler_errors, 0);
    assert_eq!(store.begins.remaining(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_outcome_is_unknown_takes_effect_once() {
    for (fault, runs) in [(Fault::LostReply, 1), (Fault::Unavailable, 2)] {
        let (store, calls) = (TableStore::new(), Calls::default());
        store.commits.fail_next(fault, 1);
        let app = app::<reserve>(&store, &calls).await;
        order(&app).await;
        app.settled().await.unwrap();
        assert_eq!(reserved(&store, "ada").await.as_deref(), Some("1"), "{fault:?}");
        assert_eq!(calls.0.load(Ordering::SeqCst), runs, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn deliveries_are_forgotten_after_a_while() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let (store, calls) = (TableStore::new(), Calls::default());
    let app = App::builder().store(store.clone()).state(calls.clone()).handler::<reserve>().inbox_retention(4 * HOUR);
    let app = app.start().await.unwrap();
    order(&app).await;
    app.settled().await.unwrap();
    tokio::time::sleep(3 * HOUR).await;
    order(&app).await;
    app.settled().await.unwrap();
    tokio::time::sleep(5 * HOUR / 2).await;
    assert_eq!(
        store.forget_deliveries(Duration::ZERO).await.unwrap(),
        1,
        "the first was forgotten, the second was not"
    );
}

#[tokio::test(start_paused = true)]
async fn processes_that_live_shorter_than_an_hour_forget_deliveries_too() {
    const MINUTE: Duration = Duration::from_secs(60);
    let (store, calls) = (TableStore::new(), Calls::default());
    for round in 0..4 {
        let app = App::builder().store(store.clone()).state(calls.clone()).handler::<reserve>();
        let app = app.inbox_retention(60 * MINUTE).start().await.unwrap();
        if round == 0 {
            order(&app).await;
            app.settled().await.unwrap();
        }
        tokio::time::sleep(30 * MINUTE).await;
        app.shutdown(MINUTE).await.unwrap();
    }
    assert_eq!(store.forget_deliveries(Duration::ZERO).await.unwrap(), 0);
}

#[tokio::test]
async fn a_transaction_of_no_store_or_another_store_is_a_mistake() {
    let state = StateMap::new().with(Calls::default());
    let bus = InMemoryEventBus::new();
    let without = bus.subscribe_handler::<reserve>(&state).unwrap_err();
    assert!(matches!(without.mistakes(), [StartMistake::TransactionMismatch { offered: None, .. }]), "{without}");
    let memory = eventbus::InMemoryEventStore::new();
    let without = bus.subscribe_handler::<reserve>((&state, &memory)).unwrap_err();
    assert!(matches!(without.mistakes(), [StartMistake::TransactionMismatch { offered: None, .. }]), "{without}");
}

#[handler(manual)]
async fn plain(_event: &OrderShipped, State(calls): State<Calls>) {
    calls.0.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test]
async fn handlers_that_take_no_transaction_run_outside_of_one() {
    let (store, calls, bus) = (TableStore::new(), Calls::default(), InMemoryEventBus::new());
    bus.subscribe_handler::<plain>((&StateMap::new().with(calls.clone()), &store)).unwrap();
    let shipped = OrderShipped { tracking_number: "T".into() };
    let event = RecordedEvent::from_event(&shipped, AggregateId::new(), Version::FIRST).unwrap();
    let _in_use = store.begin().await.unwrap();
    let consumer = bus.start_consuming_in_background();
    bus.publish(&[event]).await.unwrap();
    until("the event is handled", async || calls.0.load(Ordering::SeqCst) == 1).await;
    bus.stop_consuming().await;
    consumer.await.unwrap().unwrap();
}
