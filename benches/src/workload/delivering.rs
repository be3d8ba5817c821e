use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bench_common::unique_name;
use eventbus::Result;
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

use super::{Consumer, Publisher, Reactions};
use crate::order::ItemAdded;

/// A bus that publishes, and a consumer of it.
pub struct Delivering<B> {
    bus: B,
    consumer: Option<JoinHandle<Result<()>>>,
    handled: mpsc::UnboundedReceiver<(u64, Instant)>,
}

impl<B: Publisher + Consumer> Delivering<B> {
    pub async fn start(redis: &str) -> Result<Self> {
        let bus = <B as Consumer>::open(redis, &unique_name("deliver"), &["reactions".into()]).await?;
        let (sender, handled) = mpsc::unbounded_channel();
        let handler = Arc::new(move |item: ItemAdded| {
            // fails only after the measurement
            let _ = sender.send((item.number, Instant::now()));
        });
        let consumer = bus.clone();
        let consumer = tokio::spawn(async move { consumer.consume(handler, 1).await });
        Ok(Self { bus, consumer: Some(consumer), handled })
    }

    pub async fn publish(&self, order: Uuid, item: &ItemAdded) -> Result<()> {
        self.bus.publish(order, item).await
    }
}

#[async_trait]
impl<B: Publisher + Consumer> Reactions for Delivering<B> {
    /// Publishes the item, without a store.
    async fn save(&self, number: u64) -> Result<()> {
        self.publish(Uuid::now_v7(), &ItemAdded::new(number)).await
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
