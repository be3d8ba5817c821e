use eventbus::Result;
use futures_util::TryStreamExt as _;
use serde::de::DeserializeOwned;
use sqlx::{
    PgExecutor, PgPool, Row as _,
    postgres::{PgPoolOptions, PgRow},
    query, query_as, query_scalar, raw_sql,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::StoredOrder;
use crate::{
    order::{AGGREGATE_TYPE, EVENT_TYPE, ItemAdded, Order},
    workload::{Orders, SnapshotOrders},
};

/// Far more than cores, as usual; a higher number is not faster.
const CONNECTIONS: u32 = 16;

/// Opens a pool of connections to a database, and creates these tables in it.
pub async fn pool(url: &str, tables: &'static str) -> Result<PgPool> {
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false).connect(url).await?;
    raw_sql(tables).execute(&pool).await?;
    Ok(pool)
}

const EVENTS: &str = "
    CREATE TABLE streams (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id));
    CREATE TABLE events (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_id uuid NOT NULL UNIQUE,
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        event_type text NOT NULL,
        schema_version integer NOT NULL,
        occurred_at timestamptz NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        correlation_id uuid NOT NULL,
        data json NOT NULL,
        causation_id uuid,
        actor_id text,
        attributes json,
        UNIQUE (aggregate_type, aggregate_id, version))";

/// Stores nothing if the order has other events than its caller knows.
const INSERT: &str = "
    WITH stream AS (
        INSERT INTO streams AS s VALUES ($2, $3, $4)
        ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE SET version = excluded.version WHERE s.version = $4 - 1
        RETURNING true)
    INSERT INTO events
        (event_id, aggregate_type, aggregate_id, version, event_type, schema_version, occurred_at, correlation_id, data)
    SELECT $1, $2, $3, $4, $5, 1, $6, $7, $8::text::json FROM stream";

const INSERT_MANY: &str = "
    WITH stream AS (
        INSERT INTO streams AS s VALUES ($2, $3, $9)
        ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE SET version = excluded.version
        WHERE s.version = $9 - cardinality($1)
        RETURNING true)
    INSERT INTO events
        (event_id, aggregate_type, aggregate_id, version, event_type, schema_version, occurred_at, correlation_id, data)
    SELECT event_id, $2, $3, event.version, $5, 1, $6, $7, data::json
    FROM stream, unnest($1::uuid[], $4::bigint[], $8::text[]) AS event (event_id, version, data) ORDER BY event.version";

const LOAD: &str = "
    SELECT event_type, data FROM events
    WHERE aggregate_type = $1 AND aggregate_id = $2 AND version > $3 ORDER BY version";

const SNAPSHOTS: &str = "
    CREATE TABLE snapshots (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        data json NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id))";

const SAVE_SNAPSHOT: &str = "
    INSERT INTO snapshots VALUES ($1, $2, $3, $4::text::json)
    ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE SET version = excluded.version, data = excluded.data";

const LOAD_SNAPSHOT: &str = "
    SELECT version, data FROM snapshots WHERE aggregate_type = $1 AND aggregate_id = $2";

/// A table of the total of each order.
pub const ORDER_TOTALS: &str = "
    CREATE TABLE order_totals (order_id text PRIMARY KEY, items bigint NOT NULL, cents bigint NOT NULL)";

pub const UPSERT_TOTAL: &str = "
    INSERT INTO order_totals AS total (order_id, items, cents) VALUES ($1, 1, $2)
    ON CONFLICT (order_id) DO UPDATE SET items = total.items + 1, cents = total.cents + excluded.cents";

/// Adds the totals of several orders, each named once.
pub const UPSERT_TOTALS: &str = "
    INSERT INTO order_totals AS total (order_id, items, cents) SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])
    ON CONFLICT (order_id) DO UPDATE
    SET items = total.items + excluded.items, cents = total.cents + excluded.cents";

const SUM_TOTALS: &str = "
    SELECT count(*), coalesce(sum(items), 0)::bigint, coalesce(sum(cents), 0)::bigint FROM order_totals";

/// Returns the number of rows in the table of totals, and their sum.
pub async fn sum_totals(executor: impl PgExecutor<'_>) -> Result<(u64, Order)> {
    let (orders, items, cents): (i64, i64, i64) = query_as(SUM_TOTALS).fetch_one(executor).await?;
    Ok((orders.cast_unsigned(), Order { items: items.cast_unsigned(), cents: cents.cast_unsigned() }))
}

/// Decodes a `json` column from its text, which the server sends as it was written.
pub fn decode_json<T: DeserializeOwned>(row: &PgRow, column: usize) -> Result<T> {
    Ok(serde_json::from_str(std::str::from_utf8(row.try_get_raw(column)?.as_bytes()?)?)?)
}

/// Orders as rows of one table.
#[derive(Clone)]
pub struct PgOrders {
    pub pool: PgPool,
}

impl PgOrders {
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self { pool: pool(url, EVENTS).await? })
    }

    /// Stores items, and returns their number; 0 if the order has other events than its caller knows.
    pub async fn insert(&self, held: &StoredOrder, items: &[ItemAdded]) -> Result<u64> {
        let (now, correlation, id) = (OffsetDateTime::now_utc(), Uuid::now_v7(), held.id.to_string());
        let saved = if let [item] = items {
            let insert = query(INSERT).bind(Uuid::now_v7()).bind(AGGREGATE_TYPE).bind(id).bind(held.version + 1);
            let insert = insert.bind(EVENT_TYPE).bind(now).bind(correlation).bind(serde_json::to_string(item)?);
            insert.execute(&self.pool).await?
        } else {
            let ids: Vec<_> = items.iter().map(|_| Uuid::now_v7()).collect();
            let versions: Vec<_> = (held.version + 1..).take(items.len()).collect();
            let data = items.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
            let insert = query(INSERT_MANY).bind(ids).bind(AGGREGATE_TYPE).bind(id).bind(versions);
            let insert = insert.bind(EVENT_TYPE).bind(now).bind(correlation).bind(data);
            insert.bind(held.version + items.len() as i64).execute(&self.pool).await?
        };
        Ok(saved.rows_affected())
    }

    /// Adds the events after those that are in the order.
    async fn load_after(&self, mut held: StoredOrder) -> Result<StoredOrder> {
        let load = query(LOAD).bind(AGGREGATE_TYPE).bind(held.id.to_string()).bind(held.version);
        let mut rows = load.fetch(&self.pool);
        while let Some(row) = rows.try_next().await? {
            if row.try_get::<&str, _>(0)? == EVENT_TYPE {
                held.order.add(&decode_json(&row, 1)?);
            }
            held.version += 1;
        }
        Ok(held)
    }
}

impl Orders for PgOrders {
    type Held = StoredOrder;

    fn create(&self) -> StoredOrder {
        StoredOrder::create()
    }

    async fn save(&self, held: &mut StoredOrder, items: Vec<ItemAdded>) -> Result<()> {
        held.version += self.insert(held, &items).await?.cast_signed();
        items.iter().for_each(|item| held.order.add(item));
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        self.load_after(StoredOrder { id, version: 0, order: Order::default() }).await
    }

    async fn count_events(&self) -> Result<u64> {
        let count: i64 = query_scalar("SELECT count(*) FROM events").fetch_one(&self.pool).await?;
        Ok(count.cast_unsigned())
    }
}

/// Orders with a table of snapshots.
#[derive(Clone)]
pub struct PgSnapshotOrders(PgOrders);

impl PgSnapshotOrders {
    pub async fn open(url: &str) -> Result<Self> {
        let orders = PgOrders::open(url).await?;
        query(SNAPSHOTS).execute(&orders.pool).await?;
        Ok(Self(orders))
    }
}

impl Orders for PgSnapshotOrders {
    type Held = StoredOrder;

    fn create(&self) -> StoredOrder {
        self.0.create()
    }

    async fn save(&self, held: &mut StoredOrder, items: Vec<ItemAdded>) -> Result<()> {
        self.0.save(held, items).await
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        let snapshot = query(LOAD_SNAPSHOT).bind(AGGREGATE_TYPE).bind(id.to_string());
        let (version, order) = match snapshot.fetch_optional(&self.0.pool).await? {
            Some(row) => (row.try_get(0)?, decode_json(&row, 1)?),
            None => (0, Order::default()),
        };
        self.0.load_after(StoredOrder { id, version, order }).await
    }

    async fn count_events(&self) -> Result<u64> {
        self.0.count_events().await
    }
}

impl SnapshotOrders for PgSnapshotOrders {
    async fn take_snapshot(&self, id: Uuid) -> Result<()> {
        let held = self.load(id).await?;
        let save = query(SAVE_SNAPSHOT).bind(AGGREGATE_TYPE).bind(id.to_string()).bind(held.version);
        save.bind(serde_json::to_string(&held.order)?).execute(&self.0.pool).await?;
        Ok(())
    }
}
