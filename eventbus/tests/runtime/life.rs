//! Settling and shutting down: the work that an app waits for, and for how long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    InMemoryEventBus, InMemoryEventStore, Name, Never,
    port::EventBus,
    prelude::*,
    testkit::{Fault, FaultyBus},
};
use tokio::sync::Semaphore;

use crate::{
    gated::GatedStore,
    lines::Lines,
    orders::{Order, OrderCreated, OrderShipped, OrderStatistics, created},
    wait::until,
};

async fn save(app: &App) -> eventbus::Saved {
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 1.0));
    orders.save(&mut order).await.unwrap()
}

#[derive(Clone)]
struct Orders(AggregateRepository<Order>, FaultyBus);

#[handler(manual)]
async fn ship_at_once(
    _event: &OrderCreated,
    meta: &Metadata,
    State(orders): State<Orders>,
) -> Result<(), HandlerError> {
    ship(&orders, meta).await
}

#[handler(manual)]
async fn ship_the_rest(
    _event: &OrderShipped,
    meta: &Metadata,
    State(orders): State<Orders>,
) -> Result<(), HandlerError> {
    if meta.version() < 4.into() {
        ship(&orders, meta).await?;
    }
    Ok(())
}

/// Stores the next event, which the relay can publish only at its second attempt.
async fn ship(orders: &Orders, meta: &Metadata) -> Result<(), HandlerError> {
    orders.1.publishes.fail_next(Fault::Unavailable, 1);
    let part = OrderShipped { tracking_number: "T".into() };
    orders.0.update(meta.aggregate_id(), |_| Ok::<_, Never>(part.clone())).await?;
    Ok(())
}

/// As by a bug of a driver.
#[tokio::test(start_paused = true)]
async fn tasks_that_panic_begin_anew() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=error");
    let store = GatedStore::open().silent();
    let app = App::builder().store(store.clone()).bus(InMemoryEventBus::new()).projection(OrderStatistics::default());
    let app = app.start().await.unwrap();
    store.panics.store(4, Ordering::SeqCst);
    let position = save(&app).await.position.unwrap();
    app.published(position).await.unwrap();
    app.projected::<OrderStatistics>(position).await.map(drop).unwrap();
    assert_eq!(store.panics.load(Ordering::SeqCst), 0);
    let log = lines.text();
    for task in ["the relay", "a projection"] {
        assert!(log.contains(&format!("starting its replacement task=\"{task}\"")), "{log}");
    }
}

#[tokio::test]
async fn settled_waits_for_what_handlers_save() {
    let store = InMemoryEventStore::new();
    let bus = FaultyBus::new(InMemoryEventBus::new());
    let app = App::builder()
        .bus(bus.clone())
        .store(store.clone())
        .state(Orders(AggregateRepository::new(store), bus))
        .handler::<ship_at_once>()
        .handler::<ship_the_rest>()
        .start()
        .await
        .unwrap();
    save(&app).await;
    app.settled().await.unwrap();
    assert_eq!(app.bus().stats().events_processed_success, 4);
}

/// What two handlers wait for: one before it saves, the other before it ends.
#[derive(Clone)]
struct Gates {
    saves: Arc<Semaphore>,
    ends: Arc<Semaphore>,
}

#[handler(manual, name = "z_ships")]
async fn ships(
    _event: &OrderCreated,
    id: &AggregateId,
    orders: Repository<Order>,
    State(gates): State<Gates>,
) -> eventbus::Result<()> {
    gates.saves.acquire().await?.forget();
    orders.update(id, |_| Ok::<_, Never>(OrderShipped { tracking_number: "T".into() })).await?;
    Ok(())
}

#[handler(manual, name = "a_notes")]
async fn notes(_event: &OrderShipped, State(gates): State<Gates>) -> eventbus::Result<()> {
    gates.ends.acquire().await?.forget();
    Ok(())
}

#[tokio::test]
async fn settled_waits_for_a_handler_of_what_another_one_saves_in_an_app_with_a_store_alone() {
    let gates = Gates { saves: Arc::new(Semaphore::new(0)), ends: Arc::new(Semaphore::new(0)) };
    let app = App::builder().store(InMemoryEventStore::new()).state(gates.clone());
    let app = app.handler::<ships>().handler::<notes>().start().await.unwrap();
    save(&app).await;
    let mut settled = Box::pin(app.settled());
    // the group that comes first is settled before the other one saves
    let first = Name::from_static("a_notes");
    let is_settled =
        until("the first group is settled", async || app.bus().progress(&first).await.unwrap().is_settled());
    tokio::select! {
        biased;
        early = &mut settled => panic!("settled before the first run ended: {early:?}"),
        () = is_settled => {}
    }
    let early = tokio::time::timeout(Duration::from_millis(200), &mut settled).await;
    assert!(early.is_err(), "settled before the first run ended");
    gates.saves.add_permits(1);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut settled).await;
    assert!(early.is_err(), "settled before the second run ended");
    gates.ends.add_permits(1);
    settled.await.unwrap();
}

#[derive(Default)]
struct Endless;

#[projection(name = "endless")]
impl Endless {
    async fn created(&mut self, _event: &OrderCreated) {
        std::future::pending().await
    }
}

#[tokio::test]
async fn settled_waits_for_projections() {
    let app = || App::builder().projection(Endless).wait_timeout(Duration::from_millis(100));
    for builder in [app(), app().without_relay()] {
        let app = builder.start().await.unwrap();
        save(&app).await;
        let error = app.settled().await.unwrap_err().to_string();
        assert!(error.contains("projection `endless`"), "{error}");
    }
}

#[tokio::test]
async fn settling_in_vain_says_what_keeps_the_relay() {
    let bus = FaultyBus::new(InMemoryEventBus::new());
    bus.publishes.fail_next(Fault::Unavailable, 1_000);
    let app = App::builder()
        .bus(bus)
        .wait_timeout(Duration::from_millis(200))
        .store(InMemoryEventStore::new())
        .start()
        .await
        .unwrap();
    save(&app).await;
    let error = app.settled().await.unwrap_err().to_string();
    assert!(error.contains("event bus `memory` unavailable"), "{error}");
}

#[handler(manual)]
async fn end(_event: &OrderCreated) {}

#[handler(manual)]
async fn never_end(_event: &OrderCreated) {
    std::future::pending().await
}

#[tokio::test]
async fn settling_in_vain_names_the_handler_that_does_not_end() {
    let builder = App::builder().wait_timeout(Duration::from_millis(200));
    let app = builder.handler::<end>().handler::<never_end>().start().await.unwrap();
    let saved = save(&app).await;
    let stream = saved.events[0].metadata().stream();
    assert_eq!(
        app.settled().await.unwrap_err().to_string(),
        format!(
            "still waiting for group `never_end` (1 pending) (busy: `never_end` with `OrderCreated` of `{stream}`) \
             after 200ms"
        )
    );
}

#[handler(manual)]
async fn come_back_later(_event: &OrderCreated) -> Result<(), HandlerError> {
    Err(HandlerError::retry_after(Duration::from_secs(3_600), "closed"))
}

#[tokio::test]
async fn settling_waits_for_retries_and_says_what_failed() {
    let app = App::builder().wait_timeout(Duration::from_millis(200));
    let app = app.handler::<end>().handler::<come_back_later>().start().await.unwrap();
    let saved = save(&app).await;
    let stream = saved.events[0].metadata().stream();
    assert_eq!(
        app.settled().await.unwrap_err().to_string(),
        format!(
            "still waiting for group `come_back_later` (1 pending) (failed: `come_back_later` with `OrderCreated` of `{stream}`: \
             closed) after 200ms"
        )
    );
}

#[derive(Clone)]
struct Once(Arc<AtomicBool>);

#[handler(manual, retries = 1)]
async fn succeed_at_last(_event: &OrderCreated, State(failed): State<Once>) -> Result<(), HandlerError> {
    if failed.0.swap(true, Ordering::SeqCst) { Ok(()) } else { Err("not yet".into()) }
}

#[handler(manual, retries = 0)]
async fn never_succeed(_event: &OrderCreated) -> Result<(), HandlerError> {
    Err("no".into())
}

#[tokio::test]
async fn settling_names_none_that_succeeded_at_last() {
    for failed_before in [false, true] {
        let app =
            App::builder().bus(InMemoryEventBus::new()).store(InMemoryEventStore::new()).state(Once(Arc::default()));
        let app = app.handler::<succeed_at_last>().handler::<never_succeed>().start().await.unwrap();
        let saved = save(&app).await;
        let stream = saved.events[0].metadata().stream();
        let error = app.settled().await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!("1 delivery was given up: `never_succeed` with `OrderCreated` of `{stream}`: no"),
            "failed before: {failed_before}"
        );
        app.settled().await.expect("it is said once");
        drop(app);
    }
}

#[handler(manual, group = "a")]
async fn end_in_first_group(_event: &OrderCreated) {}

#[handler(manual, group = "z")]
async fn end_in_last_group(_event: &OrderCreated) {}

#[derive(Default)]
struct Before;

#[projection(name = "before endless")]
impl Before {
    fn created(&mut self, _event: &OrderCreated) {}
}

#[tokio::test]
async fn settled_waits_for_each_group_and_projection() {
    let app = || App::builder().wait_timeout(Duration::from_millis(200));
    let groups = app().handler::<end_in_first_group>().handler::<never_end>().handler::<end_in_last_group>();
    let projections = app().projection(Before).projection(Endless);
    for (builder, name) in [(groups, "group `never_end`"), (projections, "projection `endless`")] {
        let app = builder.start().await.unwrap();
        save(&app).await;
        let error = app.settled().await.unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_shutdown_is_for_everything_together() {
    let builder = App::builder().handler::<never_end>().projection(Endless);
    let app = builder.wait_timeout(Duration::from_millis(50)).start().await.unwrap();
    save(&app).await;
    app.settled().await.unwrap_err();
    let began = tokio::time::Instant::now();
    app.shutdown(Duration::from_secs(1)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(1_100), "took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_second_shutdown_succeeds_at_once_as_the_first_one_did() {
    let timeout = Duration::from_secs(5);
    let app = App::builder().start().await.unwrap();
    save(&app).await;
    app.settled().await.unwrap();
    let (one, other) = tokio::join!(app.shutdown(timeout), app.shutdown(timeout));
    one.and(other).unwrap();
    let began = tokio::time::Instant::now();
    app.clone().shutdown(timeout).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_shutdown_may_take_for_ever() {
    let app = App::builder().start().await.unwrap();
    app.shutdown(Duration::MAX).await.unwrap();
}

#[tokio::test]
async fn after_a_shutdown_nothing_waits_for_the_relay() {
    let app = App::builder().store(InMemoryEventStore::new()).bus(InMemoryEventBus::new()).start().await.unwrap();
    let first = save(&app).await.position;
    app.published(first).await.unwrap();
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    let error = app.published(save(&app).await.position).await.unwrap_err();
    assert_eq!(error.to_string(), "the relay stopped at position 1, before 2: its app was shut down");
    assert_eq!(app.published(first).await.unwrap().position, first.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_until_consuming_would_be_tried_again() {
    let bus = InMemoryEventBus::new();
    let _other = bus.start_consuming_in_background();
    until("another one consumes", async || bus.is_consuming()).await;
    let app = App::builder().bus(bus).store(InMemoryEventStore::new()).handler::<never_end>().start().await.unwrap();
    // long enough that the next attempt is a while away
    tokio::time::sleep(Duration::from_secs(60)).await;
    let began = tokio::time::Instant::now();
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}
