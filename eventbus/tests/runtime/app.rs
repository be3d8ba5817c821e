//! The app: roles, settling, shutting down, resuming.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use eventbus::{
    InMemoryEventBus, InMemoryEventStore, LoadError, Position, Version,
    app::{SettleError, StartMistake},
    health::HealthThresholds,
    port::{DeadLetterError, DeadLetterFilter, EventBus, HandlerProgress as _, ReadError, ReadFeed as _},
    prelude::*,
    testkit::{LossyBus, event_bus::SHORT_DELAYS},
};
use futures_util::TryStreamExt as _;
use tokio::sync::Semaphore;

use crate::{
    gated::GatedStore,
    orders::{Order, OrderCreated, OrderEvent, OrderShipped, OrderStatistics, created},
    wait::until,
};

type Log = Arc<Mutex<Vec<String>>>;

#[handler(manual)]
async fn receipt(event: &OrderCreated, meta: &Metadata, State(log): State<Log>) {
    log.lock().unwrap().push(format!("receipt {} v{}", event.customer_id, meta.version()));
}

#[handler(manual, group = "audit")]
async fn audit(event: &RecordedEvent, State(log): State<Log>, attempt: Attempt) {
    log.lock().unwrap().push(format!("audit {} #{attempt}", event.event_type()));
}

#[handler(manual, retries = 1)]
async fn refuse(event: OrderEvent) -> Result<(), &'static str> {
    match event {
        OrderEvent::OrderCreated(_) => Ok(()),
        OrderEvent::OrderShipped(_) => Err("no lorry"),
    }
}

#[derive(Clone)]
struct Gate(Arc<Semaphore>);

#[handler(manual)]
async fn gated(_event: &OrderCreated, State(gate): State<Gate>, State(log): State<Log>) -> Result<(), HandlerError> {
    log.lock().unwrap().push("in hand".into());
    gate.0.acquire().await?.forget();
    log.lock().unwrap().push("handled".into());
    Ok(())
}

async fn save(app: &App) -> Position {
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    orders.save(&mut order).await.unwrap().position.unwrap()
}

#[tokio::test]
async fn runs_handlers_and_projections_in_memory() {
    let log = Log::default();
    let app = App::builder()
        .state(log.clone())
        .handler::<receipt>()
        .handler::<audit>()
        .projection_with(OrderStatistics::default)
        .start()
        .await
        .unwrap();
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 9.0));
    orders.save(&mut order).await.unwrap();
    orders.update(order.id(), |order| order.ship("T1")).await.unwrap();
    app.settled().await.unwrap();
    let mut lines = log.lock().unwrap().clone();
    lines.sort();
    assert_eq!(lines, ["audit OrderCreated #1", "audit OrderShipped #1", "receipt ada v1"]);
    assert_eq!(app.projection::<OrderStatistics>().unwrap().read().await.shipped, 1);
    assert!(app.bus().stats().events_processed_success == 3 && format!("{app:?}").contains("order-statistics"));
}

/// Returns the handlers that the store knows, with the checkpoints of their shards.
async fn checkpoints(store: &InMemoryEventStore) -> Vec<(String, u64)> {
    let listed = store.list_handlers().await.unwrap();
    listed.iter().map(|listed| (listed.noted.name.to_string(), listed.shards[0].checkpoint.get())).collect()
}

#[tokio::test]
async fn a_handler_resumes_at_its_checkpoint() {
    let (store, log) = (InMemoryEventStore::new(), Log::default());
    let start = async || {
        let app = App::builder().store(store.clone()).state(log.clone()).handler::<receipt>().handler::<audit>();
        app.start().await.unwrap()
    };
    let app = start().await;
    save(&app).await;
    app.settled().await.unwrap();
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(checkpoints(&store).await, [("audit".into(), 1), ("receipt".into(), 1)]);
    log.lock().unwrap().clear();

    // saved without a consumer, as if the process had died before its handlers ran
    let publisher = App::builder().store(store.clone()).without_relay().start().await.unwrap();
    save(&publisher).await;
    let app = start().await;
    app.settled().await.unwrap();
    let mut lines = log.lock().unwrap().clone();
    lines.sort();
    assert_eq!(lines, ["audit OrderCreated #1", "receipt ada v1"], "only the event after the checkpoint");
}

#[tokio::test]
async fn failed_events_are_named_by_settled_and_stay_dead_letters_over_a_restart() {
    let store = InMemoryEventStore::new();
    let start = async || App::builder().store(store.clone()).handler::<refuse>().start().await.unwrap();
    let given_up = async |app: &App| {
        let error = app.settled().await.unwrap_err();
        assert!(matches!(&error, SettleError::DeadLetters { dead: 1, .. }), "{error}");
        assert_eq!(error.to_string(), "1 delivery was given up: `refuse` with `OrderShipped` of `Order/1`: no lorry");
        assert_eq!(app.bus().stats().events_processed_failed, 2, "it was tried again");
        app.settled().await.expect("it is said once");
    };
    let app = start().await;
    let mut order = app.repository::<Order>().create_new("1".parse().unwrap());
    order.record((created("ada", 1.0), OrderShipped { tracking_number: "T".into() }, created("bob", 1.0)));
    app.repository::<Order>().save(&mut order).await.unwrap();
    given_up(&app).await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(checkpoints(&store).await, [("refuse".into(), 3)], "it has passed the event that failed");

    let app = start().await;
    app.settled().await.expect("nothing is delivered again");
    assert_eq!(app.bus().stats().events_consumed, 0);
    let letters = app
        .bus()
        .dead_letters()
        .unwrap()
        .list_dead_letters(&DeadLetterFilter::default(), None, 10)
        .await
        .unwrap()
        .letters;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    assert!(app.bus().dead_letters().unwrap().replay(&letters[0].id).await.unwrap());
    given_up(&app).await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_bus_that_offers_no_dead_letters_is_named_by_the_error() {
    let app = App::builder().bus(LossyBus::new()).handler::<refuse>().start().await.unwrap();
    let shipped = OrderShipped { tracking_number: "T".into() };
    let event = RecordedEvent::from_event(&shipped, "1".parse().unwrap(), Version::FIRST).unwrap();
    app.bus().publish(&[event]).await.unwrap();
    let error = app.settled().await.unwrap_err();
    assert!(matches!(&error, SettleError::DeadLetters { dead: 1, .. }), "{error}");
    assert_eq!(error.to_string(), "1 delivery was given up: `refuse` with `OrderShipped` of `Order/1`: no lorry");
    let Err(error) = app.bus().require_dead_letters() else { panic!("the bus offers dead letters") };
    assert!(matches!(&error, DeadLetterError::Unsupported { destination } if destination == app.bus().destination()));
    assert_eq!(error.to_string(), format!("event bus `{}` offers no dead letters", app.bus().destination()));
    assert!(!error.is_retryable());
    app.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn shutdown_waits_for_the_delivery_in_hand() {
    let (gate, log) = (Gate(Arc::new(Semaphore::new(0))), Log::default());
    let app = App::builder().state(gate.clone()).state(log.clone()).handler::<gated>().start().await.unwrap();
    save(&app).await;
    until("the handler runs", async || !log.lock().unwrap().is_empty()).await;
    let stopping = tokio::spawn({
        let app = app.clone();
        async move { app.shutdown(Duration::from_secs(10)).await }
    });
    until("the app is stopping", async || format!("{app:?}").contains("stopped: true")).await;
    assert!(!stopping.is_finished());
    gate.0.add_permits(1);
    stopping.await.unwrap().unwrap();
    assert_eq!(*log.lock().unwrap(), ["in hand", "handled"]);
}

#[tokio::test]
async fn shutdown_ends_at_its_deadline_and_what_was_in_hand_is_delivered_again() {
    let (store, gate, log) = (InMemoryEventStore::new(), Gate(Arc::new(Semaphore::new(0))), Log::default());
    let start = async || {
        let app = App::builder().store(store.clone()).state(gate.clone()).state(log.clone()).handler::<gated>();
        app.start().await.unwrap()
    };
    let app = start().await;
    save(&app).await;
    until("the handler runs", async || log.lock().unwrap().len() == 1).await;
    let error = app.shutdown(Duration::from_millis(50)).await.unwrap_err();
    assert!(error.to_string().contains("was still busy after 50ms"), "{error}");
    drop(app);
    let app = start().await;
    until("the handler runs again", async || log.lock().unwrap().len() == 2).await;
    gate.0.add_permits(2);
    app.settled().await.unwrap();
}

#[tokio::test]
async fn an_app_with_a_bus_and_no_store_only_consumes() {
    let (bus, log) = (InMemoryEventBus::new(), Log::default());
    let app = App::builder().bus(bus.clone()).state(log.clone()).handler::<receipt>().start().await.unwrap();
    let record = RecordedEvent::from_event(&created("ada", 1.0), AggregateId::new(), Version::FIRST).unwrap();
    bus.publish(&[record]).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["receipt ada v1"]);

    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    let error = format!("{:?}", eventbus::Error::from(orders.save(&mut order).await.unwrap_err()));
    let no_store = "this app only consumes: its builder has a bus and no `.store(..)`; in a test, add \
                    `.store(InMemoryEventStore::new())`";
    assert_eq!(error, no_store);
    let error = orders.load(order.id()).await.unwrap_err();
    assert!(matches!(error, LoadError::Read(ReadError::NoStore)), "{error:?}");
    assert_eq!(error.to_string(), no_store);
    assert!(orders.exists(order.id()).await.is_err());
    let feed = app.store();
    assert!(feed.head().await.is_err());
    assert!(feed.read_all(Position::START).try_next().await.is_err());

    let with_projection =
        App::builder().bus(InMemoryEventBus::new()).projection(OrderStatistics::default()).start().await;
    let error = with_projection.unwrap_err();
    assert!(matches!(error.mistakes(), [StartMistake::ProjectionWithoutStore { name: "order-statistics", .. }]));
}

#[tokio::test]
async fn an_app_that_is_started_consumes() {
    let app = App::builder().handler::<refuse>().start().await.unwrap();
    assert!(app.bus().health().await.is_healthy());
}

#[tokio::test]
async fn an_app_without_handlers_is_healthy_though_it_consumes_nothing() {
    let app = App::builder().start().await.unwrap();
    let health = app.health().await;
    assert!(health.is_healthy() && !health.consuming);
    assert!(health.alerts(&HealthThresholds::default()).is_empty());
    assert!(!app.bus().health().await.is_healthy(), "of handlers only the app knows");
}

#[tokio::test]
async fn an_app_whose_store_is_away_is_not_healthy() {
    let store = GatedStore::open();
    let app = App::builder().store(store.clone()).start().await.unwrap();
    store.is_away.store(true, Ordering::SeqCst);
    let health = app.health().await;
    assert!(!health.is_healthy());
    let alerts = health.alerts(&HealthThresholds::default());
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert!(alerts[0].starts_with("the store cannot be read: event store unavailable (since "), "{alerts:?}");
    store.is_away.store(false, Ordering::SeqCst);
    assert!(app.health().await.is_healthy());
}

#[tokio::test]
async fn dropping_the_last_clone_stops_everything() {
    let bus = InMemoryEventBus::new();
    let app = App::builder().bus(bus.clone()).handler::<refuse>().start();
    let app = app.await.unwrap();
    drop(app.clone());
    assert!(bus.is_consuming());
    drop(app);
    until("it stopped", async || !bus.is_consuming()).await;
}

#[tokio::test]
async fn a_bus_can_be_given_to_the_next_app() {
    let (bus, log) = (InMemoryEventBus::new(), Log::default());
    for _ in 0..2 {
        let app = App::builder().bus(bus.clone()).state(log.clone()).handler::<receipt>();
        let app = app.start().await.unwrap();
        assert_eq!(bus.subscriber_count(), 1);
        drop(app);
    }
    until("the handlers are unsubscribed", async || bus.subscriber_count() == 0).await;
}

/// Fails at the first attempt, once it may. Handlers of one event run in the order of their names: after `receipt`.
#[handler(manual)]
async fn refuse_first(
    _event: &OrderCreated,
    State(gate): State<Gate>,
    State(log): State<Log>,
    attempt: Attempt,
) -> Result<(), HandlerError> {
    log.lock().unwrap().push(format!("attempt {attempt}"));
    gate.0.acquire().await?.forget();
    match attempt.0 {
        1 => Err("not yet".into()),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn the_next_app_goes_on_under_the_names_of_the_former_one() {
    let bus = InMemoryEventBus::builder().retry(SHORT_DELAYS).build();
    let (log, gate) = (Log::default(), Gate(Arc::new(Semaphore::new(0))));
    let start = async || {
        let app = App::builder().bus(bus.clone()).state(log.clone()).state(gate.clone());
        app.handler::<receipt>().handler::<refuse_first>().start().await.unwrap()
    };
    let former = start().await;
    let event = RecordedEvent::from_event(&created("ada", 1.0), AggregateId::new(), 1.into()).unwrap();
    bus.publish(&[event]).await.unwrap();
    until("the event is in flight", async || log.lock().unwrap().len() == 2).await;
    drop(former);
    let next = start().await;
    let names = || bus.subscribers().iter().map(|other| other.subscriber().name().to_string()).collect::<Vec<_>>();
    assert_eq!(names(), ["receipt", "refuse_first"]);
    gate.0.add_permits(2);
    until("the next app retries", async || log.lock().unwrap().len() >= 3).await;
    next.settled().await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["receipt ada v1", "attempt 1", "attempt 2"], "who succeeded does not run again");
    assert_eq!(names(), ["receipt", "refuse_first"]);
}
