//! Rebuilds and replays with the parts of an app that is not started.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use eventbus::{
    ExpectedVersion, InMemoryEventStore, NewEvent, Position, StreamId,
    app::{AppBuilder, ReplayError, Replayed},
    port::{AppendEvents as _, Checkpoints as _, Leases as _},
    prelude::*,
    projection::RebuildError,
};

use crate::orders::{OrderCreated, created};

/// Rows that are nowhere in the store.
#[derive(Clone, Default)]
struct Rows(Arc<Mutex<Vec<String>>>);

impl Rows {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[projection(name = "rows-elsewhere", manual)]
impl Rows {
    async fn created(&self, event: &OrderCreated) {
        self.0.lock().unwrap().push(event.customer_id.clone());
    }
}

/// What a handler has packed, and whether it can pack for all.
#[derive(Clone, Default)]
struct Packing {
    packed: Rows,
    is_repaired: Arc<AtomicBool>,
}

#[handler(group = "packing", retries = 0, manual)]
async fn pack(event: &OrderCreated, State(packing): State<Packing>) -> Result<(), HandlerError> {
    if event.customer_id == "bob" && !packing.is_repaired.load(Ordering::SeqCst) {
        return Err(HandlerError::permanent("no such customer"));
    }
    packing.packed.0.lock().unwrap().push(event.customer_id.clone());
    Ok(())
}

async fn store_of(customers: &[&str]) -> InMemoryEventStore {
    let store = InMemoryEventStore::new();
    let stream = StreamId::parse("Order", "o-1").unwrap();
    let events = customers.iter().map(|customer| NewEvent::from_event(&created(customer, 1.0)).unwrap()).collect();
    store.append(&stream, ExpectedVersion::NoStream, events).await.unwrap();
    store
}

fn builder(store: &InMemoryEventStore, rows: &Rows, packing: &Packing) -> AppBuilder {
    let builder = App::builder().store(store.clone()).state(packing.clone());
    builder.handler::<pack>().projection(rows.clone())
}

#[tokio::test]
async fn a_rebuild_without_an_app_handles_all_events_and_runs_no_handler() {
    let (store, rows, packing) = (store_of(&["ada", "cyd"]).await, Rows::default(), Packing::default());
    let mut reports = Vec::new();
    let rebuilt = builder(&store, &rows, &packing).rebuild("rows-elsewhere", |now| reports.push(now.position)).await;
    assert_eq!(rebuilt.unwrap().events, 2);
    assert_eq!(reports.last(), Some(&Position::new(2)));
    let role = eventbus::Name::from_static("projection:rows-elsewhere");
    assert_eq!(store.load_checkpoint(&role).await.unwrap(), Some(Position::new(2)), "the next process goes on there");
    assert_eq!(store.lease_of(&role).await.unwrap(), None, "the next process need not wait for it");
    let handled = rows.take();
    assert!(handled.ends_with(&["ada".into(), "cyd".into()]), "{handled:?}");
    assert_eq!(packing.packed.take(), [""; 0]);
}

#[tokio::test]
async fn rows_elsewhere_are_not_rebuilt_while_an_app_feeds_them() {
    let (store, rows, packing) = (store_of(&["ada"]).await, Rows::default(), Packing::default());
    let app = builder(&store, &rows, &packing).start().await.unwrap();
    app.settled().await.unwrap();
    let refused = builder(&store, &Rows::default(), &packing).rebuild("rows-elsewhere", drop).await.unwrap_err();
    let refused = refused.into_inner().downcast::<RebuildError>().unwrap();
    assert!(matches!(*refused, RebuildError::Elsewhere { owner: Some(_), .. }), "{refused}");
    assert_eq!(rows.take(), ["ada"]);
}

#[tokio::test]
async fn a_replay_ends_at_the_first_failure_and_goes_on_after_the_last_success() {
    let (store, packing) = (store_of(&["ada", "bob", "cyd"]).await, Packing::default());
    let replay = async |after, through| {
        let app = builder(&store, &Rows::default(), &packing);
        app.replay("pack", Position::new(after), through, drop).await.map_err(eventbus::Error::into_inner)
    };
    let failed = replay(0, None).await.unwrap_err().downcast::<ReplayError>().unwrap();
    let ReplayError::Failed { position, after, reason, .. } = *failed else { panic!("{failed}") };
    assert_eq!((position.get(), after.get(), reason.as_str()), (2, 1, "no such customer"));
    assert_eq!(packing.packed.take(), ["ada"]);
    packing.is_repaired.store(true, Ordering::SeqCst);
    let Replayed { events, position, .. } = replay(after.get(), Some(Position::new(2))).await.unwrap();
    assert_eq!((events, position.get()), (1, 2));
    assert_eq!(packing.packed.take(), ["bob"]);
    let Replayed { events, position, through, .. } = replay(2, None).await.unwrap();
    assert_eq!((events, position, through), (1, Position::new(3), Position::new(3)));
    assert_eq!(packing.packed.take(), ["cyd"]);
}

#[tokio::test]
async fn unknown_names_are_refused_with_those_that_there_are() {
    let store = store_of(&["ada"]).await;
    let app = || builder(&store, &Rows::default(), &Packing::default());
    let error = app().rebuild("rows", drop).await.unwrap_err().to_string();
    assert_eq!(error, "the app cannot start: the app has no projection `rows` (it has: rows-elsewhere)");
    let error = app().replay("packs", Position::START, None, drop).await.unwrap_err().to_string();
    assert_eq!(error, "the app cannot start: the app has no handler `packs` (it has: pack)");
}
