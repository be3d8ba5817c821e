use std::time::Instant;

use async_trait::async_trait;
use eventbus::Result;
use tokio::sync::mpsc;

use super::{Bus, PgOrders};
use crate::{
    order::ItemAdded,
    workload::{Delivering, Orders as _, Reactions},
};

/// Saves, then publishes: a crash between the two loses the publication.
pub struct Reacting {
    orders: PgOrders,
    bus: Delivering<Bus>,
}

impl Reacting {
    pub async fn start(orders: PgOrders, redis: &str) -> Result<Self> {
        Ok(Self { orders, bus: Delivering::start(redis).await? })
    }
}

#[async_trait]
impl Reactions for Reacting {
    async fn save(&self, number: u64) -> Result<()> {
        let (mut order, item) = (self.orders.create(), ItemAdded::new(number));
        self.orders.save(&mut order, vec![item.clone()]).await?;
        self.bus.publish(order.id, &item).await
    }

    fn handled(&mut self) -> &mut mpsc::UnboundedReceiver<(u64, Instant)> {
        self.bus.handled()
    }

    async fn stop(&mut self) -> Result<()> {
        self.bus.stop().await
    }
}
