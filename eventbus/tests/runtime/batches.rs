//! Methods of projections that take batches of events: what is tried after one that failed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    Position, StreamId,
    prelude::*,
    projection::ProjectionError,
    testkit::{TableFault, TableStore, Tables},
};
use tokio::time::Instant;

use crate::{
    orders::{OrderCreated, OrderShipped, created},
    rows::append,
};

/// The calls of the method, each with the customers of its events.
#[derive(Clone, Default)]
struct Calls {
    customers: Arc<Mutex<Vec<Vec<String>>>>,
    /// Set once the store has had a fault.
    had_fault: Arc<AtomicBool>,
}

impl Calls {
    fn lengths(&self) -> Vec<usize> {
        self.customers.lock().unwrap().iter().map(Vec::len).collect()
    }
}

/// A row per order; fails in the way of its customer.
#[derive(Default)]
struct Customers;

#[projection(name = "customers", manual)]
impl Customers {
    async fn created(
        &self,
        events: &[Envelope<OrderCreated>],
        tables: &mut Tables,
        State(calls): State<Calls>,
    ) -> Result<(), HandlerError> {
        let customers: Vec<_> = events.iter().map(|event| event.customer_id.clone()).collect();
        calls.customers.lock().unwrap().push(customers.clone());
        for event in events {
            let position = event.metadata().version().to_string();
            tables.row("customers", position).insert("customer".into(), event.customer_id.clone());
            match event.customer_id.as_str() {
                "bad" => return Err(HandlerError::permanent("no such customer")),
                "panics" => panic!("no such customer"),
                "unlucky" if !calls.had_fault.swap(true, Ordering::SeqCst) => {
                    return Err(TableFault("the disk is full").into());
                }
                _ => {}
            }
        }
        let twins = customers.iter().filter(|customer| *customer == "twin").count();
        if twins > 1 { Err("two rows of one customer".into()) } else { Ok(()) }
    }

    fn shipped(&self, _event: &OrderShipped, _tables: &mut Tables) {}
}

async fn save(store: &TableStore, customers: &[&str]) -> Position {
    let new = |customer: &&str| eventbus::NewEvent::from_event(&created(customer, 1.5)).unwrap();
    append(store, &StreamId::parse("Order", "1").unwrap(), customers.iter().map(new).collect()).await
}

/// Saves events of these customers and has the projection handle them. Returns the number of rows and the calls.
async fn project(customers: &[&str]) -> (Result<(), ProjectionError>, usize, Calls) {
    let (store, calls) = (TableStore::new(), Calls::default());
    let last = save(&store, customers).await;
    let app = App::builder().store(store.clone()).state(calls.clone()).projection(Customers);
    let app = app.lease(Duration::from_secs(1)).without_relay().start().await.unwrap();
    let projected = app.projected::<Customers>(last).await.map(drop);
    (projected, store.tables().await.rows("customers").len(), calls)
}

fn one_among_many(bad: &'static str) -> Vec<&'static str> {
    let mut customers = vec!["ada"; 200];
    customers[120] = bad;
    customers
}

#[tokio::test(start_paused = true)]
async fn halves_of_a_failing_batch_are_tried_without_a_delay() {
    let began = Instant::now();
    let (projected, rows, calls) = project(&one_among_many("bad")).await;
    assert!(matches!(projected, Err(ProjectionError::Stopped { position, .. }) if position == 121), "{projected:?}");
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert_eq!((rows, calls.lengths()), (120, vec![200, 100, 50, 25, 12, 6, 3, 1, 1, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_batch_is_that_of_one_event() {
    let (projected, rows, calls) = project(&one_among_many("panics")).await;
    assert!(matches!(projected, Err(ProjectionError::Stopped { position, .. }) if position == 121), "{projected:?}");
    let solo = calls.customers.lock().unwrap().iter().filter(|call| **call == ["panics"]).count();
    assert_eq!((rows, solo), (120, 4), "retried as often as in a method for one event");
}

/// Fails if a fault of the server is looked for among the events.
#[tokio::test(start_paused = true)]
async fn a_fault_of_the_server_divides_no_batch() {
    let (projected, rows, calls) = project(&one_among_many("unlucky")).await;
    projected.unwrap();
    assert_eq!((rows, calls.lengths()), (200, vec![200, 200]));
}

#[tokio::test(start_paused = true)]
async fn events_that_fail_only_together_are_written_apart() {
    let mut customers = one_among_many("twin");
    customers[130] = "twin";
    let (projected, rows, calls) = project(&customers).await;
    projected.unwrap();
    assert_eq!(rows, 200);
    assert!(calls.lengths().len() < 20, "{:?}", calls.lengths());
}
