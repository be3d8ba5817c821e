use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use eventbus::Result;
use eventbus_test::unique_name;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Bus, PgOrders};
use crate::{
    order::ItemAdded,
    workload::{Consumer, Orders as _, Publisher as _, Reactions},
};

/// Saves, then publishes: a crash between the two loses the publication.
pub struct Reacting {
    orders: PgOrders,
    bus: Bus,
    consumer: Option<JoinHandle<Result<()>>>,
    handled: mpsc::UnboundedReceiver<(u64, Instant)>,
}

impl Reacting {
    pub async fn start(orders: PgOrders, redis: &str) -> Result<Self> {
        let bus = <Bus as Consumer>::open(redis, &unique_name("react"), &["reactions".into()]).await?;
        let (sender, handled) = mpsc::unbounded_channel();
        let consumer = bus.clone();
        let handler = Arc::new(move |item: ItemAdded| {
            // fails only after the measurement
            let _ = sender.send((item.number, Instant::now()));
        });
        let consumer = tokio::spawn(async move { consumer.consume(handler, 1).await });
        Ok(Self { orders, bus, consumer: Some(consumer), handled })
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
        &mut self.handled
    }

    async fn stop(&mut self) -> Result<()> {
        self.bus.stop().await?;
        match self.consumer.take() {
            Some(consumer) => consumer.await?,
            None => Ok(()),
        }
    }
}
