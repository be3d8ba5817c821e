//! disintegrate. An append fails if the query that its caller read has new events.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use bench_common::{
    Result,
    bench::Bench,
    order::{ItemAdded, Order},
    peer,
    worker::WorkerArgs,
    workload::{HeldOrder, Orders, Rebuild, Rebuilds, open_orders},
};
use disintegrate::{Event, EventStore as _, StreamItem, StreamQuery, query, serde::json::Json};
use disintegrate_postgres::{Error, PgEventId, PgEventStore};
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx::{Executor as _, PgPool, postgres::PgPoolOptions, query_scalar};
use tokio::time::sleep;
use uuid::Uuid;

/// As by hand.
const CONNECTIONS: u32 = 16;
/// Its transactions are serializable: PostgreSQL rolls some back although no other one has written to the order.
const MAX_RETRIES: u32 = 1_000;

/// The rest of its migration, which fails up to PostgreSQL 15: it has a hexadecimal number, here written in decimal.
const REST_OF_MIGRATION: &str = "
    CREATE OR REPLACE FUNCTION event_store_begin_epoch() RETURNS void AS $$
    DECLARE
        id BIGINT;
        db_id INT;
    BEGIN
        SELECT last_value INTO id FROM seq_event_event_id;
        SELECT oid INTO db_id FROM pg_database WHERE datname = current_database();
        PERFORM pg_try_advisory_xact_lock_shared(db_id, 0);
        PERFORM pg_try_advisory_xact_lock_shared(1, (id & 4294967295)::bit(32)::integer);
        PERFORM pg_try_advisory_xact_lock_shared(2, (id >> 32)::bit(32)::integer);
    END;
    $$ LANGUAGE plpgsql;
    ALTER TABLE event ADD COLUMN order_id UUID;
    CREATE INDEX idx_event_order_id ON event (order_id) WHERE order_id IS NOT NULL";

fn main() -> Result<()> {
    peer::measure_store(open)
}

async fn open(args: &WorkerArgs, database: &str) -> Result<Box<dyn Bench>> {
    let orders = StoredOrders::open(database).await?;
    match args.workload.as_str() {
        "rebuild-memory" => Ok(Box::new(Rebuild::open(MemoryRebuilds { orders, totals: HashMap::new() }, args).await?)),
        name => open_orders(name, orders, args).await,
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
enum OrderEvent {
    ItemAdded {
        #[id]
        order_id: Uuid,
        item: ItemAdded,
    },
}

#[derive(Clone)]
struct StoredOrders {
    pool: PgPool,
    store: PgEventStore<OrderEvent, Json<OrderEvent>>,
}

impl StoredOrders {
    async fn open(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false).connect(url).await?;
        if PgEventStore::<OrderEvent, _>::try_new(pool.clone(), Json::<OrderEvent>::default()).await.is_err() {
            pool.execute(REST_OF_MIGRATION).await?;
        }
        Ok(Self { store: PgEventStore::new_uninitialized(pool.clone(), Json::default()), pool })
    }
}

/// Returns the query of the events of an order.
fn of_order(id: Uuid) -> StreamQuery<PgEventId, OrderEvent> {
    query!(OrderEvent; order_id == id)
}

fn is_retryable(error: &Error) -> bool {
    match error {
        Error::Concurrency => true,
        Error::Database(sqlx::Error::Database(error)) => error.code().as_deref() == Some("40001"),
        _ => false,
    }
}

struct StoredOrder {
    id: Uuid,
    /// The id of its last event.
    version: PgEventId,
    order: Order,
}

impl HeldOrder for StoredOrder {
    fn id(&self) -> Uuid {
        self.id
    }

    fn order(&self) -> &Order {
        &self.order
    }
}

impl Orders for StoredOrders {
    type Held = StoredOrder;

    fn create(&self) -> StoredOrder {
        StoredOrder { id: Uuid::now_v7(), version: 0, order: Order::default() }
    }

    async fn save(&self, held: &mut StoredOrder, items: Vec<ItemAdded>) -> Result<()> {
        items.iter().for_each(|item| held.order.add(item));
        let added = |item| OrderEvent::ItemAdded { order_id: held.id, item };
        let events: Vec<_> = items.into_iter().map(added).collect();
        let mut retries = 0;
        loop {
            match self.store.append(events.clone(), of_order(held.id), held.version).await {
                Ok(stored) => {
                    held.version = stored.last().map_or(held.version, |event| event.id());
                    return Ok(());
                }
                Err(error) if is_retryable(&error) && retries < MAX_RETRIES => retries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        let mut held = StoredOrder { id, version: 0, order: Order::default() };
        let query = of_order(id);
        let mut events = self.store.stream(&query);
        while let Some(item) = events.try_next().await? {
            if let StreamItem::Event(event) = item {
                held.version = event.id();
                let OrderEvent::ItemAdded { item, .. } = event.into_inner();
                held.order.add(&item);
            }
        }
        drop(events);
        Ok(held)
    }

    /// A query shows an event when all transactions have ended that are older.
    async fn load_saved(&self, saved: &StoredOrder) -> Result<StoredOrder> {
        loop {
            let held = self.load(saved.id).await?;
            if held.version >= saved.version {
                return Ok(held);
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn count_events(&self) -> Result<u64> {
        let count: i64 = query_scalar("SELECT count(*) FROM event").fetch_one(&self.pool).await?;
        Ok(count.cast_unsigned())
    }
}

/// Totals in memory, of the events as the store streams them.
struct MemoryRebuilds {
    orders: StoredOrders,
    totals: HashMap<Uuid, Order>,
}

#[async_trait]
impl Rebuilds for MemoryRebuilds {
    type Orders = StoredOrders;

    fn orders(&self) -> &StoredOrders {
        &self.orders
    }

    async fn rebuild(&mut self) -> Result<()> {
        let mut totals = HashMap::<Uuid, Order>::new();
        let query = query!(OrderEvent);
        let mut events = self.orders.store.stream(&query);
        while let Some(item) = events.try_next().await? {
            if let StreamItem::Event(event) = item {
                let OrderEvent::ItemAdded { order_id, item } = event.into_inner();
                totals.entry(order_id).or_default().add(&item);
            }
        }
        drop(events);
        self.totals = totals;
        Ok(())
    }

    async fn sum(&self) -> Result<(u64, Order)> {
        Ok((self.totals.len() as u64, self.totals.values().sum()))
    }
}
