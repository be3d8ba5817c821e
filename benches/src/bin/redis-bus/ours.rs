//! The side of this project: the bus as an application uses it.

use std::time::Duration;

use eventbus::{EventBusExt, RecordedEvent, Result, Version, port::EventBus};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

use crate::{
    order::{Order, OrderCreated},
    side::{Handler, Side},
};

#[derive(Clone)]
pub struct Ours {
    pub bus: RedisEventBus,
}

fn record(order: &Order) -> Result<RecordedEvent> {
    Ok(RecordedEvent::from_event(&order.created, order.id.into(), Version::FIRST)?)
}

impl Side for Ours {
    async fn open(url: &str, prefix: &str, group: &str) -> Result<Self> {
        let config = RedisEventBusConfig {
            redis_url: url.into(),
            stream_prefix: prefix.into(),
            consumer_group: group.into(),
            ..Default::default()
        };
        Ok(Self { bus: RedisEventBus::connect(config).await? })
    }

    async fn publish(&self, order: &Order) -> Result<()> {
        self.bus.publish(&[record(order)?]).await?;
        Ok(())
    }

    async fn publish_all(&self, orders: &[Order]) -> Result<()> {
        let records = orders.iter().map(record).collect::<Result<Vec<_>>>()?;
        self.bus.publish(&records).await?;
        Ok(())
    }

    async fn consume(&self, handler: Handler) -> Result<()> {
        let subscription = self.bus.subscribe(move |created: OrderCreated| {
            let handler = handler.clone();
            async move { handler(created) }
        });
        let consumed = self.bus.start_consuming().await;
        drop(subscription);
        Ok(consumed?)
    }

    async fn stop(&self) -> Result<()> {
        Ok(self.bus.shutdown(Duration::from_secs(10)).await?)
    }
}
