use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use eventbus::{port::ReadFeed as _, prelude::*, *};
use eventstore_postgres::{PgConnection, PgEventStore};
use sqlx::{Connection as _, Executor as _, query};

use super::StoredOrders;
use crate::{
    by_hand::{ORDER_TOTALS, UPSERT_TOTAL, sum_totals},
    order::{ItemAdded, Order},
    workload::Rebuilds,
};

#[derive(Debug, Default)]
struct Totals(HashMap<AggregateId, Order>);

#[projection(name = "totals", manual)]
impl Totals {
    fn added(&mut self, event: &ItemAdded, meta: &Metadata) {
        self.0.entry(meta.aggregate_id().clone()).or_default().add(event);
    }
}

/// Totals in memory.
pub struct MemoryRebuilds {
    orders: StoredOrders<PgEventStore>,
    totals: ProjectionHandle<Totals>,
}

impl MemoryRebuilds {
    pub fn new(store: PgEventStore) -> Self {
        Self { orders: StoredOrders::new(store), totals: ProjectionHandle::with_factory(Totals::default) }
    }
}

#[async_trait]
impl Rebuilds for MemoryRebuilds {
    type Orders = StoredOrders<PgEventStore>;

    fn orders(&self) -> &Self::Orders {
        &self.orders
    }

    async fn rebuild(&mut self) -> Result<()> {
        self.totals.rebuild(&*self.orders.store).await?;
        Ok(())
    }

    async fn sum(&self) -> Result<(u64, Order)> {
        let totals = self.totals.read().await;
        Ok((totals.0.len() as u64, totals.0.values().sum()))
    }
}

#[derive(Debug, Default)]
struct TotalRows;

#[projection(name = "total-rows", tables("order_totals"), key = "order_id", manual)]
impl TotalRows {
    async fn added(&self, event: &ItemAdded, meta: &Metadata, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let cents = event.cents().cast_signed();
        query(UPSERT_TOTAL).bind(meta.aggregate_id().as_str()).bind(cents).execute(conn).await?;
        Ok(())
    }
}

/// Totals in a table.
pub struct RowRebuilds {
    url: String,
    orders: StoredOrders<PgEventStore>,
    app: Option<App>,
}

impl RowRebuilds {
    pub async fn new(url: &str) -> Result<Self> {
        PgConnection::connect(url).await?.execute(ORDER_TOTALS).await?;
        let orders = StoredOrders::new(PgEventStore::connect(url).await?);
        Ok(Self { url: url.into(), orders, app: None })
    }

    fn app(&self) -> Result<&App> {
        Ok(self.app.as_ref().ok_or("the app is not started")?)
    }
}

#[async_trait]
impl Rebuilds for RowRebuilds {
    type Orders = StoredOrders<PgEventStore>;

    fn orders(&self) -> &Self::Orders {
        &self.orders
    }

    async fn start(&mut self) -> Result<()> {
        let head = self.orders.store.head().await?;
        let app = App::builder().store(PgEventStore::connect(&self.url).await?).projection(TotalRows);
        let app = app.without_relay().wait_timeout(Duration::from_secs(600)).start().await?;
        app.projected::<TotalRows>(head).await?;
        self.app = Some(app);
        Ok(())
    }

    async fn rebuild(&mut self) -> Result<()> {
        self.app()?.rebuild::<TotalRows>().await?;
        Ok(())
    }

    async fn sum(&self) -> Result<(u64, Order)> {
        sum_totals(&mut PgConnection::connect(&self.url).await?).await
    }
}
