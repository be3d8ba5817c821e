use std::{collections::HashMap, marker::PhantomData, time::Duration};

use async_trait::async_trait;
use eventbus::{
    port::{EventStore, ReadFeed as _},
    prelude::*,
    projection::Projection,
    *,
};
use eventstore_postgres::{PgConnection, PgEventStore};
use sqlx::{Connection as _, Executor as _, query};

use super::StoredOrders;
use crate::{
    by_hand::{ORDER_TOTALS, UPSERT_TOTAL, UPSERT_TOTALS, sum_totals},
    order::{ItemAdded, Order},
    workload::Rebuilds,
};

#[derive(Debug, Default)]
struct Totals(HashMap<AggregateId, Order>);

#[projection(name = "totals", manual)]
impl Totals {
    fn added(&mut self, event: &ItemAdded, id: &AggregateId) {
        self.0.entry(id.clone()).or_default().add(event);
    }
}

/// Totals in memory.
pub struct MemoryRebuilds<S> {
    orders: StoredOrders<S>,
    totals: ProjectionHandle<Totals>,
}

impl<S: EventStore> MemoryRebuilds<S> {
    pub fn new(store: S) -> Self {
        Self { orders: StoredOrders::new(store), totals: ProjectionHandle::with_factory(Totals::default) }
    }
}

#[async_trait]
impl<S: EventStore> Rebuilds for MemoryRebuilds<S> {
    type Orders = StoredOrders<S>;

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

/// Totals in a table, by a statement per event.
#[derive(Debug, Default)]
pub struct TotalRows;

#[projection(name = "total-rows", tables("order_totals"), key = "order_id", manual)]
impl TotalRows {
    async fn added(&self, event: &ItemAdded, meta: &Metadata, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let cents = event.cents().cast_signed();
        query(UPSERT_TOTAL).bind(meta.aggregate_id().as_str()).bind(cents).execute(conn).await?;
        Ok(())
    }
}

/// Totals in a table, by a statement per batch.
#[derive(Debug, Default)]
pub struct TotalBatches;

#[projection(name = "total-batches", tables("order_totals"), key = "order_id", manual)]
impl TotalBatches {
    async fn added(&self, events: &[Envelope<ItemAdded>], conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut totals = HashMap::<&str, Order>::new();
        for event in events {
            totals.entry(event.metadata().aggregate_id().as_str()).or_default().add(event);
        }
        let (ids, totals): (Vec<_>, Vec<_>) = totals.into_iter().unzip();
        let items: Vec<_> = totals.iter().map(|total| total.items.cast_signed()).collect();
        let cents: Vec<_> = totals.iter().map(|total| total.cents.cast_signed()).collect();
        query(UPSERT_TOTALS).bind(ids).bind(items).bind(cents).execute(conn).await?;
        Ok(())
    }
}

/// A projection with totals in a table.
pub struct RowRebuilds<P> {
    url: String,
    orders: StoredOrders<PgEventStore>,
    app: Option<App>,
    projection: PhantomData<P>,
}

impl<P: Projection + Default> RowRebuilds<P> {
    pub async fn new(url: &str) -> Result<Self> {
        PgConnection::connect(url).await?.execute(ORDER_TOTALS).await?;
        let orders = StoredOrders::new(PgEventStore::connect(url).await?);
        Ok(Self { url: url.into(), orders, app: None, projection: PhantomData })
    }

    fn app(&self) -> Result<&App> {
        Ok(self.app.as_ref().ok_or("the app is not started")?)
    }
}

#[async_trait]
impl<P: Projection + Default> Rebuilds for RowRebuilds<P> {
    type Orders = StoredOrders<PgEventStore>;

    fn orders(&self) -> &Self::Orders {
        &self.orders
    }

    async fn start(&mut self) -> Result<()> {
        let head = self.orders.store.head().await?;
        let app = App::builder().store(PgEventStore::connect(&self.url).await?).projection(P::default());
        let app = app.without_relay().wait_timeout(Duration::from_secs(600)).start().await?;
        app.projected::<P>(head).await?;
        self.app = Some(app);
        Ok(())
    }

    async fn rebuild(&mut self) -> Result<()> {
        self.app()?.rebuild::<P>().await?;
        Ok(())
    }

    async fn sum(&self) -> Result<(u64, Order)> {
        sum_totals(&mut PgConnection::connect(&self.url).await?).await
    }
}
