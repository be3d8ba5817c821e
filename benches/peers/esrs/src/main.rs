//! esrs. Its store persists the events of a state that the caller holds.

use std::{collections::HashMap, convert::Infallible, mem};

use async_trait::async_trait;
use bench_common::{
    Result,
    bench::Bench,
    order::{AGGREGATE_TYPE, ItemAdded, Order},
    peer,
    worker::WorkerArgs,
    workload::{HeldOrder, Orders, Rebuild, Rebuilds, open_orders},
};
use esrs::{
    Aggregate, AggregateState,
    manager::AggregateManager,
    store::{
        EventStore as _,
        postgres::{PgStore, PgStoreBuilder, UuidFormat},
    },
};
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

/// As by hand.
const CONNECTIONS: u32 = 16;

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

#[derive(Debug, Clone, Serialize, Deserialize)]
enum OrderEvent {
    ItemAdded(ItemAdded),
}

struct OrderAggregate;

impl Aggregate for OrderAggregate {
    const NAME: &'static str = AGGREGATE_TYPE;
    type State = Order;
    type Command = Vec<ItemAdded>;
    type Event = OrderEvent;
    type Error = Infallible;

    fn handle_command(_: &Order, items: Vec<ItemAdded>) -> Result<Vec<OrderEvent>, Infallible> {
        Ok(items.into_iter().map(OrderEvent::ItemAdded).collect())
    }

    fn apply_event(mut order: Order, OrderEvent::ItemAdded(item): OrderEvent) -> Order {
        order.add(&item);
        order
    }
}

#[derive(Clone)]
struct StoredOrders {
    pool: PgPool,
    store: PgStore<OrderAggregate>,
}

impl StoredOrders {
    async fn open(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false).connect(url).await?;
        let store = PgStoreBuilder::new(pool.clone()).with_event_id_format(UuidFormat::V7).try_build().await?;
        Ok(Self { pool, store })
    }
}

struct StoredOrder(AggregateState<Order>);

impl HeldOrder for StoredOrder {
    fn id(&self) -> Uuid {
        *self.0.id()
    }

    fn order(&self) -> &Order {
        self.0.inner()
    }
}

impl Orders for StoredOrders {
    type Held = StoredOrder;

    fn create(&self) -> StoredOrder {
        StoredOrder(AggregateState::with_id(Uuid::now_v7()))
    }

    async fn save(&self, StoredOrder(state): &mut StoredOrder, items: Vec<ItemAdded>) -> Result<()> {
        let events = OrderAggregate::handle_command(state.inner(), items)?;
        let stored = self.store.persist(state, events).await?;
        let id = *state.id();
        *state =
            mem::replace(state, AggregateState::with_id(id)).apply_store_events(stored, OrderAggregate::apply_event);
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        let loaded = AggregateManager::new(self.store.clone()).load(id).await?;
        Ok(StoredOrder(loaded.unwrap_or_else(|| AggregateState::with_id(id))))
    }

    async fn count_events(&self) -> Result<u64> {
        let count = format!("SELECT count(*) FROM {}", self.store.table_name());
        Ok(sqlx::query_scalar::<_, i64>(&count).fetch_one(&self.pool).await?.cast_unsigned())
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
        let mut events = self.orders.store.stream_events(&self.orders.pool);
        while let Some(event) = events.try_next().await? {
            let OrderEvent::ItemAdded(item) = event.payload();
            totals.entry(event.aggregate_id).or_default().add(item);
        }
        drop(events);
        self.totals = totals;
        Ok(())
    }

    async fn sum(&self) -> Result<(u64, Order)> {
        Ok((self.totals.len() as u64, self.totals.values().sum()))
    }
}
