//! Projections whose methods take more parameters than the event.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    InMemoryEventStore, Name, Never,
    port::{Checkpoints, Leases},
    prelude::*,
    projection::RebuildError,
};

use crate::{
    orders::{Order, OrderCreated, created},
    wait::until,
};

#[derive(Clone)]
struct Currency(&'static str);

#[derive(Default)]
struct Invoices(Vec<String>);

#[projection(name = "invoices")]
impl Invoices {
    fn created(&mut self, event: &OrderCreated, State(currency): State<Currency>) {
        self.0.push(format!("{} {}", event.total_amount, currency.0));
    }
}

#[derive(Clone, Default)]
struct Strict(Arc<AtomicBool>);

#[projection(name = "strict")]
impl Strict {
    fn created(&self, _event: &OrderCreated) -> Result<(), HandlerError> {
        if self.0.load(Ordering::SeqCst) { Ok(()) } else { Err(HandlerError::permanent("no such customer")) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_frees_a_stopped_projection_with_rows_of_its_own() {
    let strict = Strict::default();
    let app = App::builder().store(InMemoryEventStore::new()).projection(strict.clone()).start().await.unwrap();
    let began = tokio::time::Instant::now();
    let position = save(&app).await;
    app.projected::<Strict>(position).await.map(drop).unwrap_err();
    assert_eq!(began.elapsed(), Duration::ZERO, "what fails for good is not tried again");
    strict.0.store(true, Ordering::SeqCst);
    let rebuild = tokio::time::timeout(Duration::from_secs(10), app.rebuild::<Strict>().into_future());
    rebuild.await.unwrap().unwrap();
    app.projected::<Strict>(position).await.map(drop).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_is_refused_when_another_process_gets_the_role_before_it_begins() {
    const ROLE: Name = Name::from_static("projection:strict");
    let (store, other) = (InMemoryEventStore::new(), Name::from_static("other"));
    let ttl = Duration::from_secs(3_600);
    let lease = store.acquire_lease(&ROLE, &other, ttl).await.unwrap().unwrap();
    let app = App::builder().store(store.clone()).projection(Strict::default()).start().await.unwrap();
    let position = save(&app).await;
    store.save_checkpoint(&ROLE, position).await.unwrap();
    drop(app.projected::<Strict>(position).await.unwrap());

    store.release_lease(&lease).await.unwrap();
    let mut rebuild = app.rebuild::<Strict>().into_future();
    assert!(futures_util::poll!(&mut rebuild).is_pending(), "nobody has the role");
    store.acquire_lease(&ROLE, &other, ttl).await.unwrap().unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(10), rebuild).await.unwrap().unwrap_err();
    assert!(matches!(refused, RebuildError::Elsewhere { name: "strict", .. }), "{refused}");
    assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), Some(position));
    drop(app.projected::<Strict>(position).await.unwrap());
}

#[derive(Clone, Default)]
struct Closed(Arc<Mutex<Vec<u32>>>);

#[projection(name = "closed")]
impl Closed {
    fn created(&self, _event: &OrderCreated, Attempt(attempt): Attempt) -> Result<(), HandlerError> {
        self.0.lock().unwrap().push(attempt);
        Err(HandlerError::retry_after(Duration::from_secs(3_600), "closed"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_the_next_try() {
    let closed = Closed::default();
    let app = App::builder().store(InMemoryEventStore::new()).projection(closed.clone()).start().await.unwrap();
    save(&app).await;
    until("it was tried", async || !closed.0.lock().unwrap().is_empty()).await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(*closed.0.lock().unwrap(), [1]);
}

#[derive(Clone, Default)]
struct Tries(Arc<Mutex<Vec<u32>>>);

#[projection(name = "tries")]
impl Tries {
    fn created(&self, _event: &OrderCreated, Attempt(attempt): Attempt) -> Result<(), HandlerError> {
        self.0.lock().unwrap().push(attempt);
        Err("busy".into())
    }
}

async fn save(app: &App) -> eventbus::Position {
    let orders = app.repository::<Order>();
    let mut order = orders.create_new(AggregateId::new());
    order.record(created("ada", 9.0));
    orders.save(&mut order).await.unwrap().position.unwrap()
}

#[tokio::test]
async fn a_rebuild_has_the_state_of_the_app() {
    let app = App::builder().state(Currency("EUR")).projection_with(Invoices::default).start().await.unwrap();
    let position = save(&app).await;
    assert_eq!(app.projected::<Invoices>(position).await.unwrap().0, ["9 EUR"]);
    app.rebuild::<Invoices>().await.unwrap();
    assert_eq!(app.projected::<Invoices>(position).await.unwrap().0, ["9 EUR"]);
}

#[tokio::test]
async fn a_rebuild_without_a_running_app_has_the_state_of_its_builder() {
    let store = InMemoryEventStore::new();
    let orders = AggregateRepository::<Order>::new(store.clone());
    orders.create(&AggregateId::new(), |_| Ok::<_, Never>(created("ada", 9.0))).await.unwrap();
    let builder = App::builder().store(store).state(Currency("EUR")).projection_with(Invoices::default);
    assert_eq!(builder.rebuild("invoices", drop).await.unwrap().events, 1);
}

#[tokio::test(start_paused = true)]
async fn each_try_has_its_number_and_the_last_one_stops_the_projection() {
    let tries = Tries::default();
    let app = App::builder().store(InMemoryEventStore::new()).projection(tries.clone()).start().await.unwrap();
    let position = save(&app).await;
    app.projected::<Tries>(position).await.map(drop).unwrap_err();
    assert_eq!(*tries.0.lock().unwrap(), [1, 2, 3, 4]);
}
