use std::{collections::HashMap, path::Path, sync::Arc};

use async_trait::async_trait;
use eventbus::Result;
use rusqlite::{Connection, params};
use time::OffsetDateTime;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::StoredOrder;
use crate::{
    order::{AGGREGATE_TYPE, EVENT_TYPE, ItemAdded, Order},
    workload::{Orders, Rebuilds},
};

/// The unique key of the events refuses a save to an order that has newer ones. Commits wait for the disk; the log
/// is as long as ours.
const OPEN: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 4000;
    CREATE TABLE streams (
        aggregate_type TEXT NOT NULL,
        aggregate_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        recorded_at INTEGER NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id));
    CREATE TABLE events (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        event_id TEXT NOT NULL UNIQUE,
        aggregate_type TEXT NOT NULL,
        aggregate_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        event_type TEXT NOT NULL,
        schema_version INTEGER NOT NULL,
        occurred_at INTEGER NOT NULL,
        recorded_at INTEGER NOT NULL,
        correlation_id TEXT NOT NULL,
        payload TEXT NOT NULL,
        causation_id TEXT,
        actor_id TEXT,
        attributes TEXT,
        UNIQUE (aggregate_type, aggregate_id, version));";

const INSERT: &str = "
    INSERT INTO events
        (event_id, aggregate_type, aggregate_id, version, event_type, schema_version, occurred_at, recorded_at,
         correlation_id, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?6, ?7, ?8)";

const ADVANCE: &str = "
    INSERT INTO streams VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT DO UPDATE SET version = excluded.version, recorded_at = excluded.recorded_at";

const LOAD: &str = "
    SELECT event_type, payload FROM events WHERE aggregate_type = ?1 AND aggregate_id = ?2 ORDER BY version";

const READ_ALL: &str = "SELECT aggregate_id, payload FROM events WHERE event_type = ?1 ORDER BY position";

/// Totals in memory.
pub struct SqliteRebuilds {
    orders: SqliteOrders,
    totals: HashMap<String, Order>,
}

impl SqliteRebuilds {
    pub fn new(orders: SqliteOrders) -> Self {
        Self { orders, totals: HashMap::new() }
    }
}

/// Orders as rows of one table. All callers share one connection, which a thread for blocking work uses.
#[derive(Clone)]
pub struct SqliteOrders(Arc<Mutex<Connection>>);

impl SqliteOrders {
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(OPEN)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut connection = Arc::clone(&self.0).lock_owned().await;
        tokio::task::spawn_blocking(move || work(&mut connection)).await?
    }
}

/// Inserts an event in the transaction of the connection; one that fails leaves no trace.
pub fn insert(connection: &Connection, id: &str, version: i64, item: &ItemAdded) -> Result<()> {
    let now = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000)?;
    let (event_id, correlation_id) = (Uuid::now_v7().to_string(), Uuid::now_v7().to_string());
    let payload = serde_json::to_string(item)?;
    let row = params![event_id, AGGREGATE_TYPE, id, version, EVENT_TYPE, now, correlation_id, payload];
    connection.prepare_cached(INSERT)?.execute(row)?;
    connection.prepare_cached(ADVANCE)?.execute(params![AGGREGATE_TYPE, id, version, now])?;
    Ok(())
}

#[async_trait]
impl Rebuilds for SqliteRebuilds {
    type Orders = SqliteOrders;

    fn orders(&self) -> &SqliteOrders {
        &self.orders
    }

    async fn rebuild(&mut self) -> Result<()> {
        let rebuild = |connection: &mut Connection| {
            let mut totals = HashMap::<String, Order>::new();
            let mut read = connection.prepare_cached(READ_ALL)?;
            let mut rows = read.query([EVENT_TYPE])?;
            while let Some(row) = rows.next()? {
                let item: ItemAdded = serde_json::from_str(row.get_ref(1)?.as_str()?)?;
                totals.entry(row.get(0)?).or_default().add(&item);
            }
            Ok(totals)
        };
        self.totals = self.orders.run(rebuild).await?;
        Ok(())
    }

    async fn sum(&self) -> Result<(u64, Order)> {
        Ok((self.totals.len() as u64, self.totals.values().sum()))
    }
}

impl Orders for SqliteOrders {
    type Held = StoredOrder;

    fn create(&self) -> StoredOrder {
        StoredOrder::create()
    }

    async fn save(&self, held: &mut StoredOrder, items: Vec<ItemAdded>) -> Result<()> {
        let (id, version) = (held.id.to_string(), held.version);
        let items = self
            .run(move |connection| {
                let tx = connection.transaction()?;
                for (version, item) in (version + 1..).zip(&items) {
                    insert(&tx, &id, version, item)?;
                }
                tx.commit()?;
                Ok(items)
            })
            .await?;
        held.version += i64::try_from(items.len())?;
        items.iter().for_each(|item| held.order.add(item));
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        self.run(move |connection| {
            let mut held = StoredOrder { id, version: 0, order: Order::default() };
            let mut load = connection.prepare_cached(LOAD)?;
            let mut rows = load.query(params![AGGREGATE_TYPE, id.to_string()])?;
            while let Some(row) = rows.next()? {
                if row.get_ref(0)?.as_str()? == EVENT_TYPE {
                    held.order.add(&serde_json::from_str(row.get_ref(1)?.as_str()?)?);
                }
                held.version += 1;
            }
            Ok(held)
        })
        .await
    }

    async fn count_events(&self) -> Result<u64> {
        let count = |connection: &mut Connection| {
            let count: i64 = connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
            Ok(count.cast_unsigned())
        };
        self.run(count).await
    }
}
