use std::{sync::Arc, time::Duration};

use eventbus::{
    EventSet as _, HandlerError, Name, RecordedEvent, Result, Version,
    port::{EventBus as _, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use uuid::Uuid;

use crate::{
    order::ItemAdded,
    workload::{Consumer, Handler, Publisher},
};

#[derive(Clone)]
pub struct Bus {
    bus: RedisEventBus,
    groups: Vec<Name>,
}

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
        Ok(Self { bus: RedisEventBus::connect(config(url, prefix, "none")).await?, groups: Vec::new() })
    }

    async fn publish(&self, order: Uuid, item: &ItemAdded) -> Result<()> {
        self.bus.publish(&[record((order, item))?]).await?;
        Ok(())
    }

    async fn publish_all(&self, items: &[(Uuid, ItemAdded)]) -> Result<()> {
        let records = items.iter().map(|(order, item)| record((*order, item))).collect::<Result<Vec<_>>>()?;
        self.bus.publish(&records).await?;
        Ok(())
    }
}

/// A subscriber that decodes each event for itself, as annotated handlers do.
fn subscriber(handler: Handler) -> Subscriber {
    Subscriber::new(Name::from_static("sum"), ItemAdded::EVENTS, move |delivery| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            handler(delivery.record().decode().map_err(HandlerError::undecodable)?);
            Ok(())
        })
    })
}

impl Consumer for Bus {
    async fn open(url: &str, prefix: &str, groups: &[String]) -> Result<Self> {
        let groups = groups.iter().map(|group| Name::new("consumer group", group)).collect::<Result<Vec<_>, _>>()?;
        let own = groups.first().ok_or("no group")?;
        Ok(Self { bus: RedisEventBus::connect(config(url, prefix, own)).await?, groups })
    }

    async fn consume(&self, handler: Handler, handlers: usize) -> Result<()> {
        let mut subscriptions = Vec::new();
        for group in &self.groups {
            let subscribe = |_| self.bus.add_subscriber(group.clone(), subscriber(Arc::clone(&handler)));
            subscriptions.extend((0..handlers).map(subscribe));
        }
        let consumed = self.bus.start_consuming().await;
        drop(subscriptions);
        Ok(consumed?)
    }

    async fn stop(&self) -> Result<()> {
        Ok(self.bus.shutdown(Duration::from_secs(10)).await?)
    }
}
