use std::time::{Duration, Instant};

use async_trait::async_trait;
use eventbus::{prelude::*, *};
use eventbus_redis::RedisEventBus;
use eventbus_test::unique_name;
use eventstore_postgres::PgEventStore;
use tokio::sync::mpsc;

use super::{bus::config, metrics::export_metrics};
use crate::{
    order::{ItemAdded, Order},
    workload::Reactions,
};

type Handled = (u64, Instant);

#[handler]
async fn note(event: &ItemAdded, State(handled): State<mpsc::UnboundedSender<Handled>>) {
    // fails only after the measurement
    let _ = handled.send((event.number, Instant::now()));
}

/// An app with a store, a bus and a handler.
pub struct Reacting {
    app: App,
    orders: AggregateRepository<Order>,
    handled: mpsc::UnboundedReceiver<Handled>,
}

impl Reacting {
    /// Starts them with this time between two publications of the relay.
    pub async fn start(store: PgEventStore, redis: &str, gather: Duration) -> Result<Self> {
        let bus = RedisEventBus::connect(config(redis, &unique_name("react"), "reactions")).await?;
        let (sender, handled) = mpsc::unbounded_channel();
        let app = App::builder().store(store).bus(bus).state(sender).handler::<note>().relay_gather(gather);
        let app = export_metrics(app).start().await?;
        Ok(Self { orders: app.repository(), app, handled })
    }
}

#[async_trait]
impl Reactions for Reacting {
    async fn save(&self, number: u64) -> Result<()> {
        let mut order = self.orders.create_new(AggregateId::new());
        order.record(ItemAdded::new(number));
        self.orders.save(&mut order).await?;
        Ok(())
    }

    fn handled(&mut self) -> &mut mpsc::UnboundedReceiver<Handled> {
        &mut self.handled
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(self.app.shutdown(Duration::from_secs(10)).await?)
    }
}
