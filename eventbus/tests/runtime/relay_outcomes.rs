//! What a relay does with each answer of a bus.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    InMemoryEventBus, InMemoryEventStore, Name, Position,
    port::{
        BusStats, CheckpointError, Checkpoints, ConsumeError, DeadLetters, EventBus, GroupProgress, MessageId,
        PublishError, ShutdownError, StreamInfo, Subscribers,
    },
    prelude::*,
};

use tokio::sync::Semaphore;

use crate::{
    orders::{Order, created},
    wait::until,
};

/// A durable bus that answers to ranges when it is let, and notes how much it was asked to publish.
#[derive(Clone, Default)]
struct ScriptedBus {
    bus: InMemoryEventBus,
    asked: Arc<Mutex<Vec<usize>>>,
    gate: Option<Arc<Semaphore>>,
}

impl DeadLetters for ScriptedBus {}

#[async_trait]
impl EventBus for ScriptedBus {
    fn destination(&self) -> &Name {
        self.bus.destination()
    }

    fn default_group(&self) -> &Name {
        self.bus.default_group()
    }

    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.bus.publish(events).await
    }

    async fn publish_feed(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.asked.lock().unwrap().push(events.len());
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
            return Ok(Vec::new());
        }
        self.bus.publish_feed(events).await
    }

    async fn resume_from(&self, _checkpoints: Arc<dyn Checkpoints>) -> Result<Option<Position>, CheckpointError> {
        Ok(None)
    }

    fn subscribers(&self) -> &Subscribers {
        self.bus.subscribers()
    }

    async fn start_consuming(&self) -> Result<(), ConsumeError> {
        self.bus.start_consuming().await
    }

    async fn stop_consuming(&self) {
        self.bus.stop_consuming().await;
    }

    fn is_consuming(&self) -> bool {
        self.bus.is_consuming()
    }

    async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.bus.shutdown(timeout).await
    }

    fn stats(&self) -> BusStats {
        self.bus.stats()
    }

    async fn stream_info(&self) -> StreamInfo {
        self.bus.stream_info().await
    }

    async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        self.bus.progress(group).await
    }
}

/// A store that holds three events.
async fn store() -> InMemoryEventStore {
    let store = InMemoryEventStore::new();
    let orders = AggregateRepository::<Order>::new(store.clone());
    let mut order = orders.create(AggregateId::new());
    order.record(vec![created("ada", 1.0); 3]);
    orders.save(&mut order).await.unwrap();
    store
}

async fn app(store: &InMemoryEventStore, bus: &ScriptedBus) -> App {
    App::builder().store(store.clone()).bus(bus.clone()).start().await.unwrap()
}

#[tokio::test]
async fn a_durable_bus_gets_everything_that_was_stored_before_its_first_relay() {
    let (store, bus) = (store().await, ScriptedBus::default());
    let app = app(&store, &bus).await;
    app.published(Position::new(3)).await.unwrap();
    assert_eq!(bus.stream_info().await.stream.length, 3);
}

#[tokio::test]
async fn a_shutdown_ends_after_the_range_in_hand() {
    let store = store().await;
    let orders = AggregateRepository::<Order>::new(store.clone());
    let mut order = orders.create(AggregateId::new());
    order.record(vec![created("ada", 1.0); 300]);
    orders.save(&mut order).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let bus = ScriptedBus { gate: Some(gate.clone()), ..ScriptedBus::default() };
    let app = app(&store, &bus).await;
    until("a range is in hand", async || bus.asked.lock().unwrap().len() == 1).await;
    let mut stopping = Box::pin(app.shutdown(Duration::from_secs(10)));
    assert!(futures_util::poll!(&mut stopping).is_pending());
    gate.add_permits(10);
    stopping.await.unwrap();
    assert_eq!(*bus.asked.lock().unwrap(), [256]);
    let checkpoint = Name::prefixed("relay:", bus.destination());
    assert_eq!(store.load_checkpoint(&checkpoint).await.unwrap(), Some(Position::new(256)));
}
