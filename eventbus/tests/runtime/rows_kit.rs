//! A projection that keeps rows in the store's transaction, and how it behaves in tests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::{AppendEvents, FromTransaction, Transactions},
    prelude::*,
    testkit::{Row, TableStore, Tables},
};
use tokio::sync::Semaphore;

use crate::{
    orders::{OrderCreated, OrderShipped, created},
    wait::until,
};

pub const ROLE: Name = Name::from_static("projection:order-rows");
pub const REBUILD: Name = Name::from_static("rebuild:order-rows");

/// How the methods behave; shared by all instances of a test.
#[derive(Clone)]
pub struct Mood {
    /// How often `bad` is refused yet.
    pub refusals: Arc<AtomicU32>,
    /// How often `bad` was tried.
    pub tries: Arc<AtomicU32>,
    /// What `slow` waits for.
    pub gate: Arc<Semaphore>,
    pub waiting: Arc<AtomicU32>,
}

impl Default for Mood {
    fn default() -> Self {
        Self {
            refusals: Arc::default(),
            tries: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            waiting: Arc::default(),
        }
    }
}

impl Mood {
    pub fn refusing(times: u32) -> Self {
        let mood = Self::default();
        mood.refusals.store(times, Ordering::SeqCst);
        mood
    }

    pub async fn until_waiting(&self) {
        until("the method waits", async || self.waiting.load(Ordering::SeqCst) > 0).await;
    }
}

/// A row per order; not idempotent on purpose.
#[derive(Default)]
pub struct OrderRows;

#[projection(name = "order-rows", tables("order_rows"), key = "order_id")]
impl OrderRows {
    async fn created(
        &self,
        event: &OrderCreated,
        meta: &Metadata,
        tables: &mut Tables,
        State(mood): State<Mood>,
    ) -> Result<(), HandlerError> {
        let id = meta.aggregate_id().to_string();
        let row = tables.row("order_rows", &id);
        row.insert("order_id".into(), id);
        row.insert("customer".into(), event.customer_id.clone());
        add(row, "events");
        match event.customer_id.as_str() {
            "bad" => {
                mood.tries.fetch_add(1, Ordering::SeqCst);
                let refuse = |left: u32| left.checked_sub(1);
                if mood.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
                    return Err("no such customer".into());
                }
            }
            "slow" => {
                mood.waiting.fetch_add(1, Ordering::SeqCst);
                mood.gate.acquire().await?.forget();
            }
            "lengthy" => tokio::time::sleep(Duration::from_millis(200)).await,
            _ => {}
        }
        Ok(())
    }

    fn shipped(&self, _event: &OrderShipped, meta: &Metadata, tables: &mut Tables) {
        add(tables.row("order_rows", meta.aggregate_id().as_str()), "events");
    }
}

fn add(row: &mut Row, column: &str) {
    let before: u64 = row.get(column).map_or(0, |number| number.parse().unwrap());
    row.insert(column.into(), (before + 1).to_string());
}

pub fn news(customer: &str, shipments: usize) -> Vec<NewEvent> {
    let shipped = || NewEvent::of(&OrderShipped { tracking_number: "T".into() }).unwrap();
    std::iter::once(NewEvent::of(&created(customer, 1.5)).unwrap()).chain((0..shipments).map(|_| shipped())).collect()
}

pub async fn save(store: &TableStore, customer: &str, shipments: usize) -> Position {
    let stream = StreamId::new(Name::from_static("Order"), AggregateId::new());
    append(store, &stream, news(customer, shipments)).await
}

pub async fn append(store: &TableStore, stream: &StreamId, news: Vec<NewEvent>) -> Position {
    let records = store.append(stream, ExpectedVersion::Any, news).await.unwrap();
    records.last().unwrap().position().unwrap()
}

pub async fn app(store: &TableStore, mood: &Mood) -> App {
    let app = App::builder().store(store.clone()).state(mood.clone()).projection(OrderRows);
    app.projection_lease(Duration::from_secs(1)).without_relay().start().await.unwrap()
}

/// How many events each row counted, all together, and how many rows there are.
pub async fn counted(store: &TableStore) -> (usize, u64) {
    let rows = store.tables().await.rows("order_rows");
    (rows.len(), rows.iter().map(|(_, row)| row["events"].parse::<u64>().unwrap()).sum())
}

pub async fn dump(store: &TableStore) -> Vec<(String, Row)> {
    store.tables().await.rows("order_rows")
}

/// Damages the live rows, as a bug that was mended since would have.
pub async fn damage(store: &TableStore) {
    let mut transaction = store.begin().await.unwrap();
    let tables: &mut Tables = FromTransaction::<TableStore>::take(Some(transaction.as_any_mut())).unwrap();
    for (key, _) in tables.rows("order_rows") {
        tables.row("order_rows", &key).insert("events".into(), "0".into());
    }
    tables.row("order_rows", "no such order").insert("events".into(), "7".into());
    tables.row("other_rows", "kept").insert("events".into(), "1".into());
    transaction.commit().await.unwrap();
}
