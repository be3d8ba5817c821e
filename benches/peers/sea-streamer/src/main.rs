//! sea-streamer on Redis. A message is one field of an entry.

use std::sync::Arc;

use bench_common::{
    Result,
    order::ItemAdded,
    peer,
    workload::{Consumer, Handler, Publisher, open_bus},
};
use sea_streamer_redis::{
    AutoCommit, AutoStreamReset, RedisConnectOptions, RedisConsumer, RedisConsumerOptions, RedisProducer, RedisStreamer,
};
use sea_streamer_types::{
    Buffer as _, Consumer as _, ConsumerGroup, ConsumerId, ConsumerMode, ConsumerOptions as _, Message as _,
    Producer as _, StreamKey, Streamer as _,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

/// As our bus and by hand.
const BATCH: usize = 100;

fn main() -> Result<()> {
    peer::measure_bus(open_bus::<Bus>)
}

/// The event as its caller would encode it: sea-streamer leaves that to the application.
#[derive(Debug, Serialize, Deserialize)]
struct Payload<I> {
    event_id: Uuid,
    order: Uuid,
    item: I,
}

#[derive(Clone)]
struct Bus {
    producer: RedisProducer,
    /// The consumer of a group.
    consumer: Arc<Mutex<Option<RedisConsumer>>>,
    stopped: Arc<Notify>,
}

impl Bus {
    async fn connect(url: &str, prefix: &str, group: Option<&str>) -> Result<Self> {
        let streamer = RedisStreamer::connect(url.parse()?, RedisConnectOptions::default()).await?;
        let stream = StreamKey::new(<Self as Publisher>::stream(prefix))?;
        let producer = streamer.create_producer(stream.clone(), Default::default()).await?;
        let consumer = match group {
            Some(group) => {
                let mut options = RedisConsumerOptions::new(ConsumerMode::Resumable);
                options.set_consumer_group(ConsumerGroup::new(group))?;
                options.set_consumer_id(ConsumerId::new(group));
                options.set_auto_stream_reset(AutoStreamReset::Earliest);
                options.set_auto_commit(AutoCommit::Disabled);
                options.set_batch_size(BATCH);
                Some(streamer.create_consumer(std::slice::from_ref(&stream), options).await?)
            }
            None => None,
        };
        Ok(Self { producer, consumer: Arc::new(Mutex::new(consumer)), stopped: Arc::default() })
    }
}

fn encode(order: Uuid, item: &ItemAdded) -> Result<String> {
    Ok(serde_json::to_string(&Payload { event_id: Uuid::now_v7(), order, item })?)
}

impl Publisher for Bus {
    /// Its keys have no colons.
    fn stream(prefix: &str) -> String {
        format!("{prefix}-stream")
    }

    async fn open(url: &str, prefix: &str) -> Result<Self> {
        Self::connect(url, prefix, None).await
    }

    async fn publish(&self, order: Uuid, item: &ItemAdded) -> Result<()> {
        self.producer.send(encode(order, item)?)?.await?;
        Ok(())
    }

    async fn publish_all(&self, items: &[(Uuid, ItemAdded)]) -> Result<()> {
        let mut receipts = Vec::with_capacity(items.len());
        for (order, item) in items {
            receipts.push(self.producer.send(encode(*order, item)?)?);
        }
        for receipt in receipts {
            receipt.await?;
        }
        Ok(())
    }
}

impl Consumer for Bus {
    async fn open(url: &str, prefix: &str, groups: &[String]) -> Result<Self> {
        let [group] = groups else { return Err("its consumer has one group".into()) };
        Self::connect(url, prefix, Some(group)).await
    }

    async fn consume(&self, handler: Handler, handlers: usize) -> Result<()> {
        let mut consumer = self.consumer.lock().await.take().ok_or("it was opened without a group")?;
        let mut handled = 0_usize;
        loop {
            let message = tokio::select! {
                message = consumer.next() => message?,
                () = self.stopped.notified() => break,
            };
            let payload: Payload<ItemAdded> = serde_json::from_slice(message.message().as_bytes())?;
            (1..handlers).for_each(|_| handler(payload.item.clone()));
            handler(payload.item);
            consumer.ack(&message)?;
            handled += 1;
            if handled.is_multiple_of(BATCH) {
                consumer.commit()?.await?;
            }
        }
        Ok(consumer.end().await?)
    }

    async fn stop(&self) -> Result<()> {
        self.stopped.notify_one();
        Ok(())
    }
}
