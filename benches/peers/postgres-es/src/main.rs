//! postgres-es, the PostgreSQL store of cqrs-es. A command loads its aggregate, then commits the events.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bench_common::{
    Result,
    bench::Bench,
    order::{AGGREGATE_TYPE, EVENT_TYPE, ItemAdded, Order},
    peer,
    worker::WorkerArgs,
    workload::{HeldOrder, Orders, Rebuild, Rebuilds, open_orders},
};
use cqrs_es::{
    Aggregate, DomainEvent, EventEnvelope, EventStore as _, Query,
    event_sink::EventSink,
    persist::{PersistedEventStore, QueryReplay},
};
use postgres_es::{PostgresCqrs, PostgresEventRepository, postgres_cqrs};
use serde::{Deserialize, Serialize};
use sqlx::{Executor as _, PgPool, postgres::PgPoolOptions, query_scalar};
use uuid::Uuid;

/// As by hand.
const CONNECTIONS: u32 = 16;

/// The table that its documentation gives.
const EVENTS: &str = "
    CREATE TABLE events (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        sequence bigint CHECK (sequence >= 0) NOT NULL,
        event_type text NOT NULL,
        event_version text NOT NULL,
        payload json NOT NULL,
        metadata json NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id, sequence))";

fn main() -> Result<()> {
    peer::measure_store(open)
}

async fn open(args: &WorkerArgs, database: &str) -> Result<Box<dyn Bench>> {
    let orders = StoredOrders::open(database).await?;
    match args.workload.as_str() {
        "rebuild-memory" => {
            Ok(Box::new(Rebuild::open(MemoryRebuilds { orders, totals: Totals::default() }, args).await?))
        }
        name => open_orders(name, orders, args).await,
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum OrderEvent {
    ItemAdded(ItemAdded),
}

impl DomainEvent for OrderEvent {
    fn event_type(&self) -> String {
        EVENT_TYPE.into()
    }

    fn event_version(&self) -> String {
        "1".into()
    }
}

enum OrderCommand {
    Add(Vec<ItemAdded>),
    AddNext,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct OrderAggregate(Order);

impl Aggregate for OrderAggregate {
    const TYPE: &'static str = AGGREGATE_TYPE;
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, command: OrderCommand, _: &(), sink: &EventSink<Self>) -> Result<(), Infallible> {
        let items = match command {
            OrderCommand::Add(items) => items,
            OrderCommand::AddNext => vec![ItemAdded::new(self.0.items)],
        };
        for item in items {
            sink.write(OrderEvent::ItemAdded(item), self).await;
        }
        Ok(())
    }

    fn apply(&mut self, OrderEvent::ItemAdded(item): OrderEvent) {
        self.0.add(&item);
    }
}

#[derive(Clone)]
struct StoredOrders {
    pool: PgPool,
    cqrs: Arc<PostgresCqrs<OrderAggregate>>,
    store: Arc<PersistedEventStore<PostgresEventRepository, OrderAggregate>>,
}

impl StoredOrders {
    async fn open(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false).connect(url).await?;
        pool.execute(EVENTS).await?;
        let cqrs = Arc::new(postgres_cqrs(pool.clone(), Vec::new(), ()));
        let store = PersistedEventStore::new_event_store(PostgresEventRepository::new(pool.clone()));
        Ok(Self { pool, cqrs, store: Arc::new(store) })
    }
}

struct StoredOrder {
    id: Uuid,
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
        StoredOrder { id: Uuid::now_v7(), order: Order::default() }
    }

    async fn save(&self, held: &mut StoredOrder, items: Vec<ItemAdded>) -> Result<()> {
        items.iter().for_each(|item| held.order.add(item));
        Ok(self.cqrs.execute(&held.id.to_string(), OrderCommand::Add(items)).await?)
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        let loaded = self.store.load_aggregate(&id.to_string()).await?;
        Ok(StoredOrder { id, order: loaded.aggregate.0 })
    }

    async fn add_next(&self, id: Uuid) -> Result<()> {
        Ok(self.cqrs.execute(&id.to_string(), OrderCommand::AddNext).await?)
    }

    async fn count_events(&self) -> Result<u64> {
        let count: i64 = query_scalar("SELECT count(*) FROM events").fetch_one(&self.pool).await?;
        Ok(count.cast_unsigned())
    }
}

/// The total of each order.
#[derive(Clone, Default)]
struct Totals(Arc<Mutex<HashMap<String, Order>>>);

#[async_trait]
impl Query<OrderAggregate> for Totals {
    async fn dispatch(&self, order: &str, events: &[EventEnvelope<OrderAggregate>]) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for EventEnvelope { payload: OrderEvent::ItemAdded(item), .. } in events {
            totals.entry(order.into()).or_default().add(item);
        }
    }
}

/// Replays all events into a query in memory.
struct MemoryRebuilds {
    orders: StoredOrders,
    totals: Totals,
}

#[async_trait]
impl Rebuilds for MemoryRebuilds {
    type Orders = StoredOrders;

    fn orders(&self) -> &StoredOrders {
        &self.orders
    }

    async fn rebuild(&mut self) -> Result<()> {
        self.totals = Totals::default();
        let repository = PostgresEventRepository::new(self.orders.pool.clone());
        Ok(QueryReplay::new(repository, self.totals.clone()).replay_all().await?)
    }

    async fn sum(&self) -> Result<(u64, Order)> {
        let totals = self.totals.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((totals.len() as u64, totals.values().sum()))
    }
}
