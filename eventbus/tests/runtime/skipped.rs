//! Events that an operator has skipped: a projection and the relay continue behind them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventbus::{
    ExpectedVersion, InMemoryEventBus, InMemoryEventStore, Name, NewEvent, Position, StreamId,
    app::{SkipEditor, SkipError},
    port::AppendEvents,
    prelude::*,
    projection::ProjectionError,
    testkit::{FaultyBus, TableStore, Tables},
};
use tokio::sync::Semaphore;

use crate::{
    orders::{OrderCreated, created},
    wait::until,
};

/// Refuses the orders of one customer.
#[derive(Default)]
struct Rows;

#[projection(name = "rows", tables("orders"), manual)]
impl Rows {
    async fn created(&self, event: &OrderCreated, meta: &Metadata, tables: &mut Tables) -> Result<(), HandlerError> {
        if event.customer_id == "mallory" {
            return Err(HandlerError::permanent("refused"));
        }
        tables.row("orders", meta.aggregate_id().as_str()).insert("customer".into(), event.customer_id.clone());
        Ok(())
    }
}

#[derive(Default)]
struct Customers(Vec<String>);

#[projection(name = "customers", manual)]
impl Customers {
    fn created(&mut self, event: &OrderCreated) {
        self.0.push(event.customer_id.clone());
    }
}

async fn add(store: &impl AppendEvents, order: &str, event: NewEvent) {
    let stream = StreamId::parse("Order", order).unwrap();
    store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
}

fn by(customer: &str) -> NewEvent {
    NewEvent::from_event(&created(customer, 1.0)).unwrap()
}

/// An event of a known type that cannot be decoded.
fn undecodable() -> NewEvent {
    NewEvent::new(Name::from_static("OrderCreated"), 1, "{}")
}

async fn stopped_at(app: &App) -> Position {
    let mut stopped = None;
    until("the projection stops", async || {
        stopped = app.projections().await.unwrap().remove(0).stopped;
        stopped.is_some()
    })
    .await;
    match stopped {
        Some(ProjectionError::Stopped { position, .. }) => position,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_projection_skips_what_an_operator_says_and_rebuilds_leave_it_out() {
    let store = TableStore::new();
    let app = App::builder().store(store.clone()).projection_with(Rows::default).start().await.unwrap();
    for (order, event) in [("1", by("ada")), ("2", by("mallory")), ("3", undecodable()), ("4", by("bob"))] {
        add(&store, order, event).await;
    }
    for position in [2, 3] {
        assert_eq!(stopped_at(&app).await, position);
        assert!(app.skip_event::<Rows>(position.into(), "see incident 5").await.unwrap());
        assert!(!app.skip_event::<Rows>(position.into(), "another").await.unwrap(), "the first reason stays");
    }
    drop(app.projected::<Rows>(Position::new(4)).await.unwrap());
    let orders = || async { store.tables().await.rows("orders").into_iter().map(|(key, _)| key).collect::<Vec<_>>() };
    assert_eq!(orders().await, ["1", "4"]);
    assert_eq!(app.projections().await.unwrap()[0].skipped, 2);
    let skipped = app.skipped_events().await.unwrap();
    assert_eq!(skipped.len(), 2);
    assert_eq!((skipped[0].position, &*skipped[0].reader), (Position::new(2), "projection:rows"));
    assert_eq!(skipped[0].reason, "see incident 5");
    assert!(skipped[0].by.contains(&std::process::id().to_string()), "{skipped:?}");

    let rebuilt = app.rebuild::<Rows>().await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.skipped), (2, 2));
    app.shutdown(Duration::from_secs(5)).await.unwrap();

    // a second process skips them from the start
    let app = App::builder().store(store.clone()).projection_with(Rows::default).start().await.unwrap();
    add(&store, "5", by("eve")).await;
    drop(app.projected::<Rows>(Position::new(5)).await.unwrap());
    assert_eq!(orders().await, ["1", "4", "5"]);
    assert!(app.unskip_event::<Rows>(Position::new(2)).await.unwrap());
    assert!(!app.unskip_event::<Rows>(Position::new(2)).await.unwrap());
    app.rebuild::<Rows>().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn another_process_that_stopped_goes_on_when_an_operator_skips_the_event() {
    let store = TableStore::new();
    let stopped = App::builder().store(store.clone()).projection(Rows).start().await.unwrap();
    add(&store, "1", by("mallory")).await;
    add(&store, "2", by("ada")).await;
    assert_eq!(stopped_at(&stopped).await, 1);
    let operator = App::builder().store(store.clone()).without_relay().projection(Rows).start().await.unwrap();
    operator.skip_event::<Rows>(Position::new(1), "test").await.unwrap();
    until("the process that stopped goes on", async || stopped.projections().await.unwrap()[0].stopped.is_none()).await;
    drop(stopped.projected::<Rows>(Position::new(2)).await.unwrap());
}

/// Has a row for each order, once it may.
struct Gated;

struct Gate {
    /// The number of events that were begun.
    begun: AtomicUsize,
    /// A permit for each event that may end.
    permits: Semaphore,
}

#[projection(name = "gated", tables("orders"), manual)]
impl Gated {
    async fn created(
        &self,
        _event: &OrderCreated,
        meta: &Metadata,
        State(gate): State<Arc<Gate>>,
        tables: &mut Tables,
    ) -> Result<(), HandlerError> {
        gate.begun.fetch_add(1, Ordering::SeqCst);
        gate.permits.acquire().await?.forget();
        tables.row("orders", meta.aggregate_id().as_str());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_projection_follows_its_list_while_it_runs() {
    let gate = Arc::new(Gate { begun: AtomicUsize::new(0), permits: Semaphore::new(0) });
    let store = TableStore::new();
    let app = App::builder().store(store.clone()).state(Arc::clone(&gate)).projection(Gated).start().await.unwrap();
    let operator = SkipEditor::new(Arc::new(store.clone()));
    let reader = Name::from_static("projection:gated");
    add(&store, "1", by("ada")).await;
    let is_busy = async || gate.begun.load(Ordering::SeqCst) == 1;
    until("the projection is busy with the first event", is_busy).await;
    add(&store, "2", by("bob")).await;
    assert!(operator.skip(&reader, Position::new(2), "test data").await.unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    gate.permits.add_permits(1);
    drop(app.projected::<Gated>(Position::new(2)).await.unwrap());
    let rows = store.tables().await.rows("orders");
    assert_eq!(rows.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["1"]);
    let banana = operator.skip(&Name::from_static("banana"), Position::new(1), "").await.unwrap_err();
    assert!(matches!(banana, SkipError::NoReader { .. }), "{banana}");
}

#[tokio::test(start_paused = true)]
async fn state_in_memory_is_folded_anew_without_what_is_skipped() {
    let store = InMemoryEventStore::new();
    let app = App::builder().store(store.clone()).projection_with(Customers::default).start().await.unwrap();
    for (order, event) in [("1", by("ada")), ("2", undecodable()), ("3", by("bob"))] {
        add(&store, order, event).await;
    }
    let position = stopped_at(&app).await;
    app.skip_event::<Customers>(position, "not even an order").await.unwrap();
    assert_eq!(app.projected::<Customers>(Position::new(3)).await.unwrap().0, ["ada", "bob"]);
}

#[tokio::test]
async fn only_what_is_there_can_be_skipped() {
    let app = App::builder().projection_with(Customers::default).start().await.unwrap();
    for position in [0, 7] {
        let refused = app.skip_event::<Customers>(position.into(), "").await.unwrap_err();
        assert!(matches!(refused, SkipError::NoSuchPosition { head, .. } if head == 0), "{refused}");
    }
    assert!(matches!(app.skip_event::<Rows>(Position::new(1), "").await, Err(SkipError::NotRunning(_))));
}

#[tokio::test(start_paused = true)]
async fn the_relay_goes_on_behind_what_an_operator_has_skipped() {
    let (store, bus) = (InMemoryEventStore::new(), FaultyBus::new(InMemoryEventBus::new()));
    bus.refused.set(Some(Position::new(2)));
    let app = App::builder().store(store.clone()).bus(bus.clone()).start().await.unwrap();
    for order in ["1", "2", "3"] {
        add(&store, order, by("ada")).await;
    }
    app.published(Position::new(2)).await.unwrap_err();
    assert!(app.skip_published_event(Position::new(2), "too large for the bus").await.unwrap());
    until("the relay goes on", async || app.published(Position::new(3)).await.is_ok()).await;
    let skipped = app.skipped_events().await.unwrap();
    assert_eq!((skipped.len(), skipped[0].reason.as_str()), (1, "too large for the bus"));
}
