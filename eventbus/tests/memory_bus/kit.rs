//! Handlers that the test controls, and events.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use eventbus::{
    HandlerError, InMemoryEventBus, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    delivery::RetryPolicy,
    event::EventFilter,
    port::{EventBus, Subscriber, Subscription},
};
use tokio::{sync::Semaphore, task::JoinHandle};

/// A handler that records its positions, fails some of them, and runs only with permits.
#[derive(Debug, Clone)]
pub struct Worker {
    pub got: Arc<Mutex<Vec<u64>>>,
    /// The highest number of an attempt.
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

    /// Runs only with a permit of [`let_one`](Self::let_one).
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
                let at = delivery.metadata().position().map_or(0, Position::get);
                let permit = worker.permits.acquire().await;
                permit.expect("never closed").forget();
                worker.got.lock().unwrap().push(at);
                worker.tries.fetch_max(delivery.attempt(), Ordering::SeqCst);
                if worker.failing.lock().unwrap().contains(&at) {
                    return Err(HandlerError::from("told to fail"));
                }
                Ok(())
            })
        });
        bus.add_subscriber(Name::from_static(group), subscriber)
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

/// No retries.
pub const NEVER: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(0),
    first_delay: Duration::from_millis(1),
    max_delay: Duration::from_millis(1),
};
/// Retries after the end of the test.
pub const LATER: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(1),
    first_delay: Duration::from_secs(3_600),
    max_delay: Duration::from_secs(3_600),
};

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
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// The number of unfinished entries of a group.
pub async fn pending(bus: &InMemoryEventBus, group: &'static str) -> u64 {
    let progress = bus.progress(&Name::from_static(group)).await;
    progress.unwrap().pending
}
