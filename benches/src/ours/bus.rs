use std::time::Duration;

use eventbus::{EventBusExt as _, RecordedEvent, Result, Version, port::EventBus as _};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use uuid::Uuid;

use crate::{
    order::ItemAdded,
    workload::{Consumer, Handler, Publisher},
};

#[derive(Clone)]
pub struct Bus(RedisEventBus);

fn record((order, item): (Uuid, &ItemAdded)) -> Result<RecordedEvent> {
    Ok(RecordedEvent::from_event(item, order.into(), Version::FIRST)?)
}

pub fn config(url: &str, prefix: &str, group: &str) -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: url.into(),
        stream_prefix: prefix.into(),
        consumer_group: group.into(),
        ..Default::default()
    }
}

impl Publisher for Bus {
    async fn open(url: &str, prefix: &str) -> Result<Self> {
        Ok(Self(RedisEventBus::connect(config(url, prefix, "none")).await?))
    }

    async fn publish(&self, order: Uuid, item: &ItemAdded) -> Result<()> {
        self.0.publish(&[record((order, item))?]).await?;
        Ok(())
    }

    async fn publish_all(&self, items: &[(Uuid, ItemAdded)]) -> Result<()> {
        let records = items.iter().map(|(order, item)| record((*order, item))).collect::<Result<Vec<_>>>()?;
        self.0.publish(&records).await?;
        Ok(())
    }
}

impl Consumer for Bus {
    async fn open(url: &str, prefix: &str, group: &str) -> Result<Self> {
        Ok(Self(RedisEventBus::connect(config(url, prefix, group)).await?))
    }

    async fn consume(&self, handler: Handler) -> Result<()> {
        let subscription = self.0.subscribe(move |item: ItemAdded| {
            let handler = handler.clone();
            async move { handler(item) }
        });
        let consumed = self.0.start_consuming().await;
        drop(subscription);
        Ok(consumed?)
    }

    async fn stop(&self) -> Result<()> {
        Ok(self.0.shutdown(Duration::from_secs(10)).await?)
    }
}
