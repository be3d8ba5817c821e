//! Checkpoints that can break, and handlers that work as they are told.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    EventFilter, HandlerError, InMemoryEventBus, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{CheckpointError, Checkpoints, EventBus, RetryPolicy, Subscriber, Subscription},
};
use tokio::{sync::Semaphore, task::JoinHandle};

#[derive(Debug, Default)]
pub struct Kept {
    positions: Mutex<HashMap<String, Position>>,
    pub broken: AtomicBool,
    pub refused: AtomicUsize,
    pub saved: AtomicUsize,
}

#[async_trait]
impl Checkpoints for Kept {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        Ok(self.get(name))
    }

    async fn save_checkpoint(&self, name: &Name, p: Position) -> Result<(), CheckpointError> {
        if self.broken.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(CheckpointError::new(name, "broken"));
        }
        self.saved.fetch_add(1, Ordering::SeqCst);
        self.positions.lock().unwrap().insert(name.to_string(), p);
        Ok(())
    }
}

impl Kept {
    pub fn get(&self, name: &str) -> Option<Position> {
        self.positions.lock().unwrap().get(name).copied()
    }
}

/// A handler that notes the positions it gets, fails some, and works only as far as it is let.
#[derive(Debug, Clone)]
pub struct Worker {
    pub got: Arc<Mutex<Vec<u64>>>,
    /// The highest number of a try.
    pub tries: Arc<AtomicU32>,
    pub failing: Arc<Mutex<HashSet<u64>>>,
    permits: Arc<Semaphore>,
}

impl Worker {
    pub fn new() -> Self {
        Self {
            got: Arc::default(),
            tries: Arc::default(),
            failing: Arc::default(),
            permits: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    /// Works only when [`let_one`](Self::let_one) says so.
    pub fn held() -> Self {
        Self { permits: Arc::new(Semaphore::new(0)), ..Self::new() }
    }

    pub fn let_one(&self) {
        self.permits.add_permits(1);
    }

    pub fn failing(self, positions: &[u64]) -> Self {
        self.failing.lock().unwrap().extend(positions);
        self
    }

    pub fn got(&self) -> Vec<u64> {
        self.got.lock().unwrap().clone()
    }

    pub fn join(&self, bus: &InMemoryEventBus, group: &'static str) -> Subscription {
        let worker = self.clone();
        let subscriber = Subscriber::new(Name::from_static("worker"), EventFilter::All, move |delivery| {
            let worker = worker.clone();
            Box::pin(async move {
                let permit = worker.permits.acquire().await;
                permit.expect("never closed").forget();
                let at = delivery.metadata().position().map_or(0, Position::get);
                worker.got.lock().unwrap().push(at);
                worker.tries.fetch_max(delivery.attempt(), Ordering::SeqCst);
                if worker.failing.lock().unwrap().contains(&at) {
                    return Err(HandlerError::from("told to fail"));
                }
                Ok(())
            })
        });
        bus.subscribers().add(Name::from_static(group), subscriber)
    }
}

pub fn event(position: u64) -> RecordedEvent {
    event_of(&position.to_string(), position)
}

pub fn event_of(aggregate: &str, position: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", aggregate).unwrap();
    NewEvent::new(Name::from_static("OrderCreated"), 1, "{}").recorded_as(
        stream,
        Version::new(position),
        Some(Position::new(position)),
    )
}

pub fn events(positions: std::ops::RangeInclusive<u64>) -> Vec<RecordedEvent> {
    positions.map(event).collect()
}

/// Publishes as a relay does.
pub async fn feed(bus: &InMemoryEventBus, events: &[RecordedEvent]) {
    bus.publish_feed(events).await.unwrap();
}

/// Tries nothing again.
pub const NEVER: RetryPolicy =
    RetryPolicy { max_retries: 0, first_delay: Duration::from_millis(1), max_delay: Duration::from_millis(1) };
/// Tries again soon and for ever.
pub const SOON: RetryPolicy = RetryPolicy { max_retries: u32::MAX, ..NEVER };
/// Tries again when the test has ended.
pub const LATER: RetryPolicy =
    RetryPolicy { max_retries: 1, first_delay: Duration::from_secs(3_600), max_delay: Duration::from_secs(3_600) };

pub fn bus(retry: RetryPolicy) -> InMemoryEventBus {
    InMemoryEventBus::builder().retry(retry).build()
}

pub async fn start(bus: &InMemoryEventBus) -> JoinHandle<()> {
    let consuming = bus.clone();
    let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
    until("the bus consumes", async || bus.is_consuming()).await;
    consumer
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// How many entries a group has taken and is not done with.
pub async fn pending(bus: &InMemoryEventBus, group: &'static str) -> u64 {
    let progress = bus.progress(&Name::from_static(group)).await;
    progress.unwrap().pending
}
