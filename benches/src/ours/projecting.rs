use std::time::{Duration, Instant};

use async_trait::async_trait;
use eventbus::{prelude::*, *};
use eventstore_postgres::PgEventStore;
use tokio::sync::mpsc;

use super::{
    metrics::export_metrics,
    projections::{self, Kind},
};
use crate::{
    order::{ItemAdded, Order},
    workload::Reactions,
};

/// An app with a store and projections of one kind: an event is handled when all of them include it.
pub struct Projecting {
    app: App,
    orders: AggregateRepository<Order>,
    kind: Kind,
    projections: usize,
    sender: mpsc::UnboundedSender<(u64, Instant)>,
    handled: mpsc::UnboundedReceiver<(u64, Instant)>,
}

impl Projecting {
    pub async fn start(store: PgEventStore, kind: Kind, projections: usize) -> Result<Self> {
        if projections > projections::MOST {
            return Err(format!("there are {} projections", projections::MOST).into());
        }
        let app = App::builder().store(store).without_relay();
        let app = export_metrics(projections::add(app, kind, projections)).start().await?;
        let (sender, handled) = mpsc::unbounded_channel();
        Ok(Self { orders: app.repository(), app, kind, projections, sender, handled })
    }
}

#[async_trait]
impl Reactions for Projecting {
    async fn save(&self, number: u64) -> Result<()> {
        let mut order = self.orders.create_new(AggregateId::new());
        order.record(ItemAdded::new(number));
        let saved = self.orders.save(&mut order).await?;
        projections::wait(&self.app, self.kind, self.projections, saved.position).await?;
        Ok(self.sender.send((number, Instant::now()))?)
    }

    fn handled(&mut self) -> &mut mpsc::UnboundedReceiver<(u64, Instant)> {
        &mut self.handled
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(self.app.shutdown(Duration::from_secs(10)).await?)
    }
}
