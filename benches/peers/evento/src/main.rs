//! evento. A commit inserts the events, then writes the snapshot of its aggregate.

use bench_common::{
    Result,
    bench::Bench,
    order::{self, Order},
    peer,
    worker::WorkerArgs,
    workload::{HeldOrder, Orders, open_orders},
};
use bincode::{Decode, Encode};
use evento::{
    AggregatorName, Event, EventDetails, LoadResult,
    migrator::{Migrate as _, Plan},
};
use sqlx::{PgPool, Postgres, postgres::PgPoolOptions, query_scalar};
use ulid::Ulid;
use uuid::Uuid;

/// As by hand.
const CONNECTIONS: u32 = 16;

fn main() -> Result<()> {
    peer::measure_store(open)
}

async fn open(args: &WorkerArgs, database: &str) -> Result<Box<dyn Bench>> {
    open_orders(&args.workload, StoredOrders::open(database).await?, args).await
}

#[derive(Encode, Decode, AggregatorName)]
struct ItemAdded(#[bincode(with_serde)] order::ItemAdded);

#[derive(Debug, Clone, Default, Encode, Decode)]
struct OrderAggregate(#[bincode(with_serde)] Order);

#[evento::aggregator]
impl OrderAggregate {
    async fn item_added(&mut self, event: EventDetails<ItemAdded>) -> anyhow::Result<()> {
        self.0.add(&event.data.0);
        Ok(())
    }
}

#[derive(Clone)]
struct StoredOrders {
    pool: PgPool,
    executor: evento::Postgres,
}

impl StoredOrders {
    async fn open(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false).connect(url).await?;
        let migrator = evento::sql_migrator::new::<Postgres>()?;
        migrator.run(&mut *pool.acquire().await?, &Plan::apply_all()).await?;
        Ok(Self { executor: pool.clone().into(), pool })
    }
}

struct StoredOrder {
    id: Uuid,
    loaded: LoadResult<OrderAggregate>,
}

/// Returns an id of the length that its tables have room for.
fn stored_id(id: Uuid) -> String {
    Ulid(id.as_u128()).to_string()
}

impl HeldOrder for StoredOrder {
    fn id(&self) -> Uuid {
        self.id
    }

    fn order(&self) -> &Order {
        &self.loaded.item.0
    }
}

impl Orders for StoredOrders {
    type Held = StoredOrder;

    fn create(&self) -> StoredOrder {
        let id = Uuid::now_v7();
        let event = Event { aggregator_id: stored_id(id), ..Event::default() };
        StoredOrder { id, loaded: LoadResult { item: OrderAggregate::default(), event } }
    }

    async fn save(&self, StoredOrder { loaded, .. }: &mut StoredOrder, items: Vec<order::ItemAdded>) -> Result<()> {
        let mut save = evento::save_with(loaded.clone());
        for item in items {
            loaded.item.0.add(&item);
            loaded.event.version += 1;
            save = save.data(&ItemAdded(item))?;
        }
        save.metadata(&true)?.commit(&self.executor).await?;
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        Ok(StoredOrder { id, loaded: evento::load(&self.executor, stored_id(id)).await? })
    }

    async fn count_events(&self) -> Result<u64> {
        let count: i64 = query_scalar("SELECT count(*) FROM event").fetch_one(&self.pool).await?;
        Ok(count.cast_unsigned())
    }
}
