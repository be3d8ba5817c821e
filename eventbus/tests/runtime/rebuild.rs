//! Rebuilding and stopping a projection during concurrent changes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eventbus::{
    ExpectedVersion, InMemoryEventStore, Name, NewEvent, Position, ProjectionHandle, StreamId,
    port::{AppendEvents, Checkpoints, EventStore},
    prelude::*,
    projection::{ProjectionError, RebuildError},
    testkit::{Fault, FaultyStore},
};
use tokio::sync::Semaphore;

use crate::{
    gated::GatedStore,
    orders::{OrderCreated, created},
    wait::until,
};

const CHECKPOINT: Name = Name::from_static("projection:ledger");

async fn save(store: &impl AppendEvents, customers: &[&str]) -> Position {
    let stream = StreamId::new(Name::from_static("Order"), AggregateId::new());
    let events = customers.iter().map(|customer| NewEvent::from_event(&created(customer, 1.0)).unwrap()).collect();
    let records = store.append(&stream, ExpectedVersion::NoStream, events).await.unwrap();
    records.last().unwrap().position().unwrap()
}

/// Keeps its rows itself; its first `bad` event fails for good once `gate` opens, `slow` ones wait for the gate.
#[derive(Clone)]
struct Ledger {
    rows: Arc<Mutex<Vec<String>>>,
    begun: Arc<AtomicU64>,
    gate: Arc<Semaphore>,
    /// The checkpoint in this store while an event is handled.
    store: Arc<dyn EventStore>,
    checkpoints: Arc<Mutex<Vec<Option<Position>>>>,
}

impl Ledger {
    fn new(store: &(impl EventStore + Clone)) -> Self {
        Self {
            rows: Arc::default(),
            begun: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            store: Arc::new(store.clone()),
            checkpoints: Arc::default(),
        }
    }

    fn rows(&self) -> Vec<String> {
        self.rows.lock().unwrap().clone()
    }

    async fn until_begun(&self, events: u64) {
        until("the event is in hand", async || self.begun.load(Ordering::SeqCst) == events).await;
    }
}

#[projection(name = "ledger")]
impl Ledger {
    async fn created(&self, event: &OrderCreated) -> Result<(), HandlerError> {
        let checkpoint = self.store.load_checkpoint(&CHECKPOINT).await?;
        self.checkpoints.lock().unwrap().push(checkpoint);
        let begun = self.begun.fetch_add(1, Ordering::SeqCst);
        match event.customer_id.as_str() {
            "bad" if begun == 0 => {
                self.gate.acquire().await?.forget();
                return Err(HandlerError::permanent("no such customer"));
            }
            "slow" => self.gate.acquire().await?.forget(),
            "never" => return Err(HandlerError::permanent("no such customer")),
            "busy" => return Err("locked".into()),
            "later" => return Err(HandlerError::retry_after(Duration::from_secs(3_600), "closed until tomorrow")),
            _ => {}
        }
        self.rows.lock().unwrap().push(event.customer_id.clone());
        Ok(())
    }
}

async fn app(store: impl EventStore, ledger: &Ledger) -> App {
    App::builder().store(store).projection(ledger.clone()).start().await.unwrap()
}

#[tokio::test]
async fn an_event_that_fails_while_a_rebuild_begins_does_not_stop_the_rebuild() {
    let store = InMemoryEventStore::new();
    let ledger = Ledger::new(&store);
    let app = app(store.clone(), &ledger).await;
    save(&store, &["bad"]).await;
    ledger.until_begun(1).await;
    let mut rebuild = begun(app.rebuild::<Ledger>().into_future()).await;
    ledger.gate.add_permits(1);
    let rebuilt = tokio::time::timeout(Duration::from_secs(10), &mut rebuild).await;
    rebuilt.unwrap().unwrap();
    assert_eq!(ledger.rows(), ["bad"]);
}

/// Runs a future until it waits.
async fn begun<F: Future + Unpin>(mut future: F) -> F {
    assert!(futures_util::poll!(&mut future).is_pending());
    future
}

#[tokio::test]
async fn a_checkpoint_that_could_not_be_saved_is_saved_without_a_further_event() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let ledger = Ledger::new(&store);
    let app = app(store.clone(), &ledger).await;
    store.checkpoints.fail_next(Fault::Unavailable, 1);
    let last = save(&store, &["a"]).await;
    until("it is saved", async || store.load_checkpoint(&CHECKPOINT).await.unwrap() == Some(last)).await;
    assert_eq!(ledger.rows(), ["a"]);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_event_to_be_retried_in_an_hour_stops_the_projection_until_it_is_skipped() {
    let store = InMemoryEventStore::new();
    let ledger = Ledger::new(&store);
    let app = app(store.clone(), &ledger).await;
    let later = save(&store, &["later"]).await;
    let stopped = app.projected::<Ledger>(later).await.map(drop).unwrap_err();
    assert!(matches!(stopped, ProjectionError::Stopped { position, .. } if position == later), "{stopped:?}");
    assert_eq!(ledger.begun.load(Ordering::SeqCst), 1);
    app.skip_event::<Ledger>(later, "a test").await.unwrap();
    let next = save(&store, &["a"]).await;
    app.projected::<Ledger>(next).await.unwrap();
    assert_eq!(ledger.rows(), ["a"]);
}

#[tokio::test]
async fn a_rebuild_counts_what_it_reads() {
    let store = InMemoryEventStore::new();
    let last = save(&store, &["a", "b", "c"]).await;
    let ledger = Ledger::new(&store);
    let app = app(store, &ledger).await;
    drop(app.projected::<Ledger>(last).await.unwrap());
    let mut seen = Vec::new();
    let rebuilt = app.rebuild::<Ledger>().on_progress(|now| seen.push(now)).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.position), (3, last));
    assert_eq!(seen.last().map(|now| now.events), Some(3));
    assert_eq!(ledger.rows(), ["a", "b", "c", "a", "b", "c"]);
}

#[tokio::test]
async fn a_rebuild_that_dies_half_way_is_resumed() {
    let store = GatedStore::open();
    let last = save(&store, &["a"]).await;
    store.saves.forget_permits(Semaphore::MAX_PERMITS);
    let ledger = Ledger::new(&store.store);
    let app = app(store.clone(), &ledger).await;
    store.until_waiting().await;
    let rebuild = begun(app.rebuild::<Ledger>().into_future()).await;
    store.saves.add_permits(100);
    tokio::time::timeout(Duration::from_secs(10), rebuild).await.unwrap().unwrap();
    assert_eq!(ledger.rows(), ["a", "a"]);
    let at_second = ledger.checkpoints.lock().unwrap()[1];
    assert_eq!(at_second.unwrap_or_default(), Position::START, "a checkpoint beyond the event would end the rebuild");
    until("the checkpoint is back", async || store.store.load_checkpoint(&CHECKPOINT).await.unwrap() == Some(last))
        .await;
}

#[tokio::test]
async fn a_rebuild_asked_for_before_the_checkpoint_is_loaded_is_done() {
    let store = GatedStore::open();
    let last = save(&store, &["a", "b"]).await;
    store.save_checkpoint(&CHECKPOINT, last).await.unwrap();
    store.loads.forget_permits(Semaphore::MAX_PERMITS);
    let ledger = Ledger::new(&store.store);
    let app = app(store.clone(), &ledger).await;
    store.until_waiting().await;
    let rebuild = begun(app.rebuild::<Ledger>().into_future()).await;
    store.loads.add_permits(1);
    tokio::time::timeout(Duration::from_secs(10), rebuild).await.unwrap().unwrap();
    assert_eq!(ledger.rows(), ["a", "b"]);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_loaded_is_loaded_later() {
    let store = GatedStore::open();
    let last = save(&store, &["a"]).await;
    store.is_damaged.store(true, Ordering::SeqCst);
    let ledger = Ledger::new(&store.store);
    let builder = App::builder().store(store.clone()).projection(ledger.clone()).without_relay();
    let app = builder.wait_timeout(Duration::from_millis(20)).start().await.unwrap();
    until("it was tried", async || {
        let error = app.projected::<Ledger>(last).await.map(drop).unwrap_err().to_string();
        error.contains("damaged")
    })
    .await;
    store.is_damaged.store(false, Ordering::SeqCst);
    until("it is handled", async || ledger.rows() == ["a"]).await;
}

#[tokio::test]
async fn after_a_shutdown_nothing_waits_for_a_projection() {
    let store = InMemoryEventStore::new();
    let ledger = Ledger::new(&store);
    let app = app(store.clone(), &ledger).await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    let position = save(&store, &["a"]).await;
    let expected = "projection `ledger` is at position 0 and not fed any more: its app was shut down";

    let rebuild = tokio::time::timeout(Duration::from_secs(5), app.rebuild::<Ledger>().into_future());
    let error = rebuild.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), expected);
    let read = tokio::time::timeout(Duration::from_secs(5), app.projected::<Ledger>(position));
    let Err(error) = read.await.unwrap().map(drop) else { panic!("reached") };
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_shutdown_ends_a_rebuild_that_waits_for_it() {
    let store = InMemoryEventStore::new();
    let ledger = Ledger::new(&store);
    let app = app(store.clone(), &ledger).await;
    save(&store, &["bad"]).await;
    ledger.until_begun(1).await;
    let rebuild = begun(app.rebuild::<Ledger>().into_future()).await;
    app.shutdown(Duration::from_millis(10)).await.unwrap_err();
    let rebuilt = tokio::time::timeout(Duration::from_secs(10), rebuild).await;
    assert!(matches!(rebuilt.unwrap(), Err(RebuildError::NotRunning(ProjectionError::ShutDown { .. }))));
}

#[tokio::test]
async fn what_was_handled_before_a_stop_is_not_handled_again() {
    for last in ["never", "busy"] {
        let store = InMemoryEventStore::new();
        let ledger = Ledger::new(&store);
        let app = app(store.clone(), &ledger).await;
        save(&store, &["a", "b", last]).await;
        ledger.until_begun(3).await;
        app.shutdown(Duration::from_secs(5)).await.unwrap();
        let checkpoint = store.load_checkpoint(&CHECKPOINT).await.unwrap();
        assert_eq!(checkpoint, Some(Position::new(2)), "before `{last}`");
    }
}

/// Appends one more event for each event that it handles in a rebuild.
struct Echo {
    store: InMemoryEventStore,
    handled: u64,
}

#[projection(name = "echo")]
impl Echo {
    async fn created(&mut self, _event: &OrderCreated) {
        self.handled += 1;
        if self.handled < 1_000 {
            save(&self.store, &["echo"]).await;
        }
    }
}

#[tokio::test]
async fn a_rebuild_ends_though_writers_do_not() {
    let store = InMemoryEventStore::new();
    let last = save(&store, &["a", "b", "c"]).await;
    let make = {
        let store = store.clone();
        move || Echo { store: store.clone(), handled: 0 }
    };
    let echo = ProjectionHandle::with_factory(make);
    let rebuilt = echo.rebuild(&store).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.position), (3, last));
}

#[tokio::test]
async fn a_position_without_event_at_the_end_is_reached_and_saved() {
    let store = GatedStore::open();
    store.gap.store(3, Ordering::SeqCst);
    let last = save(&store, &["a"]).await.get() + 3;
    let ledger = Ledger::new(&store.store);
    let app = app(store.clone(), &ledger).await;
    drop(app.projected::<Ledger>(Position::new(last)).await.unwrap());
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    let checkpoint = store.store.load_checkpoint(&CHECKPOINT).await.unwrap();
    assert_eq!(checkpoint, Some(Position::new(last)));
}

#[tokio::test]
async fn a_long_feed_saves_checkpoints_on_its_way() {
    let store = GatedStore::open();
    save(&store, &["a"; 300]).await;
    store.saves.forget_permits(Semaphore::MAX_PERMITS);
    let ledger = Ledger::new(&store.store);
    let app = app(store.clone(), &ledger).await;
    store.until_waiting().await;
    assert_eq!(ledger.rows().len(), 256);
    store.saves.add_permits(100);
    app.settled().await.unwrap();
    assert_eq!(ledger.rows().len(), 300);
}

#[tokio::test]
async fn a_rebuild_reaches_a_position_without_event_at_the_end() {
    let store = GatedStore::open();
    store.gap.store(3, Ordering::SeqCst);
    let last = save(&store, &["a"]).await;
    let rows = ProjectionHandle::with_factory(move || Echo { store: InMemoryEventStore::new(), handled: 1_000 });
    let rebuilt = rows.rebuild(&store).await.unwrap();
    assert_eq!(
        (rebuilt.events, rebuilt.position, rows.position()),
        (1, Position::new(last.get() + 3), rebuilt.position)
    );
}

#[tokio::test]
async fn a_shutdown_ends_after_the_event_in_hand() {
    let store = InMemoryEventStore::new();
    let ledger = Ledger::new(&store);
    let app = app(store.clone(), &ledger).await;
    save(&store, &["slow", "b"]).await;
    ledger.until_begun(1).await;
    let stopping = begun(Box::pin(app.shutdown(Duration::from_secs(10)))).await;
    ledger.gate.add_permits(1);
    stopping.await.unwrap();
    assert_eq!(ledger.rows(), ["slow"]);
    assert_eq!(store.load_checkpoint(&CHECKPOINT).await.unwrap(), Some(Position::new(1)));
}
