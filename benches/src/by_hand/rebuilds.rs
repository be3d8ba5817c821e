use std::collections::HashMap;

use async_trait::async_trait;
use eventbus::Result;
use futures_util::TryStreamExt as _;
use sqlx::{Executor as _, PgConnection, PgPool, Row as _, postgres::PgRow, query};

use super::{ORDER_TOTALS, PgOrders, UPSERT_TOTAL, UPSERT_TOTALS, postgres::decode_json, sum_totals};
use crate::{
    order::{EVENT_TYPE, ItemAdded, Order},
    workload::Rebuilds,
};

const PAGE: i64 = 1_000;
const READ_PAGE: &str = "
    SELECT position, aggregate_id, data FROM events
    WHERE position > $1 AND event_type = $2 ORDER BY position LIMIT $3";

const READ_ALL: &str = "
    SELECT aggregate_id, data FROM events WHERE event_type = $1 ORDER BY position";

async fn read_page(pool: &PgPool, after: i64) -> Result<Vec<PgRow>> {
    Ok(query(READ_PAGE).bind(after).bind(EVENT_TYPE).bind(PAGE).fetch_all(pool).await?)
}

/// Totals in memory.
pub struct MemoryRebuilds {
    orders: PgOrders,
    totals: HashMap<String, Order>,
}

impl MemoryRebuilds {
    pub fn new(orders: PgOrders) -> Self {
        Self { orders, totals: HashMap::new() }
    }
}

#[async_trait]
impl Rebuilds for MemoryRebuilds {
    type Orders = PgOrders;

    fn orders(&self) -> &PgOrders {
        &self.orders
    }

    /// Adds up the rows of one query, as they arrive.
    async fn rebuild(&mut self) -> Result<()> {
        let mut totals = HashMap::<String, Order>::new();
        let mut rows = query(READ_ALL).bind(EVENT_TYPE).fetch(&self.orders.pool);
        while let Some(row) = rows.try_next().await? {
            let item: ItemAdded = decode_json(&row, 1)?;
            totals.entry(row.try_get(0)?).or_default().add(&item);
        }
        self.totals = totals;
        Ok(())
    }

    async fn sum(&self) -> Result<(u64, Order)> {
        Ok((self.totals.len() as u64, self.totals.values().sum()))
    }
}

/// Totals in a table, which a rebuilt one replaces.
pub struct RowRebuilds {
    orders: PgOrders,
    /// Set if a statement writes the totals of a page, not those of an event.
    in_batches: bool,
}

impl RowRebuilds {
    pub fn new(orders: PgOrders) -> Self {
        Self { orders, in_batches: false }
    }

    pub fn in_batches(orders: PgOrders) -> Self {
        Self { orders, in_batches: true }
    }
}

#[async_trait]
impl Rebuilds for RowRebuilds {
    type Orders = PgOrders;

    fn orders(&self) -> &PgOrders {
        &self.orders
    }

    async fn start(&mut self) -> Result<()> {
        self.orders.pool.execute(ORDER_TOTALS).await?;
        Ok(())
    }

    /// Fills a copy, each page in a transaction, then renames it.
    async fn rebuild(&mut self) -> Result<()> {
        let pool = &self.orders.pool;
        pool.execute("CREATE TABLE new_totals (LIKE order_totals INCLUDING ALL)").await?;
        let upsert = if self.in_batches { UPSERT_TOTALS } else { UPSERT_TOTAL }.replace("order_totals", "new_totals");
        let mut after = 0;
        loop {
            let page = read_page(pool, after).await?;
            let mut tx = pool.begin().await?;
            if self.in_batches {
                add_page(&mut tx, &upsert, &page).await?;
            } else {
                for row in &page {
                    add(&mut tx, &upsert, row).await?;
                }
            }
            tx.commit().await?;
            match page.last() {
                Some(last) => after = last.try_get(0)?,
                None => break,
            }
        }
        pool.execute("BEGIN; DROP TABLE order_totals; ALTER TABLE new_totals RENAME TO order_totals; COMMIT").await?;
        Ok(())
    }

    async fn sum(&self) -> Result<(u64, Order)> {
        sum_totals(&self.orders.pool).await
    }
}

async fn add(conn: &mut PgConnection, upsert: &str, row: &PgRow) -> Result<()> {
    let item: ItemAdded = decode_json(row, 2)?;
    let upsert = query(sqlx::AssertSqlSafe(upsert)).bind(row.try_get::<&str, _>(1)?);
    upsert.bind(item.cents().cast_signed()).execute(conn).await?;
    Ok(())
}

async fn add_page(conn: &mut PgConnection, upsert: &str, page: &[PgRow]) -> Result<()> {
    let mut totals = HashMap::<&str, Order>::new();
    for row in page {
        let item: ItemAdded = decode_json(row, 2)?;
        totals.entry(row.try_get(1)?).or_default().add(&item);
    }
    let (ids, totals): (Vec<_>, Vec<_>) = totals.into_iter().unzip();
    let items: Vec<_> = totals.iter().map(|total| total.items.cast_signed()).collect();
    let cents: Vec<_> = totals.iter().map(|total| total.cents.cast_signed()).collect();
    query(sqlx::AssertSqlSafe(upsert)).bind(ids).bind(items).bind(cents).execute(conn).await?;
    Ok(())
}
