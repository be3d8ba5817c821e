//! Checkpoints that can break, and handlers that the test controls.

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
    ExpectedVersion, HandlerError, InMemoryEventBus, InMemoryEventStore, Name, NewEvent, Position, RecordedEvent,
    StreamId, Uuid, Version,
    delivery::{DeliveryAttempts, RetryPolicy},
    event::EventFilter,
    handler::HandlerOptions,
    port::{
        AppendEvents, AppendSignal, CheckpointError, Checkpoints, DeadDelivery, EventBus, FeedFilter, MissingEvent,
        ProgressUpdate, ReadError, ReadFeed, RecordStream, Subscriber, Subscription, UnfinishedDeliveries,
        UnfinishedDelivery,
    },
    testkit::delegate,
};
use futures_util::TryStreamExt as _;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};

/// A store whose saving of progress can break.
#[derive(Debug, Default)]
pub struct Kept {
    store: InMemoryEventStore,
    positions: Mutex<HashMap<String, Position>>,
    pub broken: AtomicBool,
    /// Set if it saves progress, and ends dead letters, without an answer.
    pub mute: AtomicBool,
    /// Saves of progress do not return while it is set.
    pub holds_saves: watch::Sender<bool>,
    /// Ends of dead letters wait while it is set.
    pub holds_ends: watch::Sender<bool>,
    /// The number of calls that end a dead letter.
    pub ends: AtomicUsize,
    /// Waiting deliveries that were read are not returned while it is set.
    pub holds_loads: watch::Sender<bool>,
    /// The number of times that waiting deliveries were read.
    pub loads: AtomicUsize,
    pub unreadable: AtomicBool,
    pub refused: AtomicUsize,
    pub saved: AtomicUsize,
    /// Number of times that the bus saved how far a group reads.
    pub reaches: AtomicUsize,
    /// The head, while a slow append keeps it below the last event.
    pub low_head: Mutex<Option<Position>>,
}

delegate!(Kept, self => self.store; AppendEvents, ReadStream, Leases, EventStore);

// by hand: the provided methods, such as `feed_end`, follow the low head
#[async_trait]
impl ReadFeed for Kept {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        self.store.read_feed(after, through, filter)
    }

    async fn read_events_at(&self, positions: &[Position]) -> Vec<Result<Option<RecordedEvent>, ReadError>> {
        self.store.read_events_at(positions).await
    }

    async fn head(&self) -> Result<Position, ReadError> {
        let low = *self.low_head.lock().unwrap();
        match low {
            Some(low) => Ok(low),
            None => self.store.head().await,
        }
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        self.store.count_events(after, through, filter).await
    }

    async fn first_recorded_after(&self, after: Position) -> Result<Option<time::OffsetDateTime>, ReadError> {
        self.store.first_recorded_after(after).await
    }

    async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
        self.store.find_missing_event(stream).await
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        self.store.store_id().await
    }

    fn appended(&self) -> &AppendSignal {
        self.store.appended()
    }
}

#[async_trait]
impl UnfinishedDeliveries for Kept {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        if self.broken.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(CheckpointError::new(group, "broken"));
        }
        self.store.save_progress(group, update).await?;
        if let Some((name, position)) = &update.checkpoint {
            self.saved.fetch_add(1, Ordering::SeqCst);
            self.positions.lock().unwrap().insert(name.to_string(), *position);
        }
        self.holds_saves.subscribe().wait_for(|holds| !holds).await.expect("the sender is here");
        match self.mute.load(Ordering::SeqCst) {
            true => Err(CheckpointError::new(group, "no answer")),
            false => Ok(()),
        }
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        if self.unreadable.load(Ordering::SeqCst) {
            return Err(CheckpointError::new(group, "unreadable"));
        }
        let waiting = self.store.waiting_deliveries(group).await;
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.holds_loads.subscribe().wait_for(|holds| !holds).await.expect("the sender is here");
        waiting
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        self.store.dead_positions(group, after).await
    }

    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError> {
        self.store.dead_deliveries(after, limit).await
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        self.store.dead_delivery(group, position).await
    }

    async fn count_dead_deliveries(&self, at_most: u64) -> Result<u64, CheckpointError> {
        self.store.count_dead_deliveries(at_most).await
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        attempts: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError> {
        self.ends.fetch_add(1, Ordering::SeqCst);
        self.holds_ends.subscribe().wait_for(|holds| !holds).await.expect("the sender is here");
        if self.broken.load(Ordering::SeqCst) {
            return Err(CheckpointError::new(group, "broken"));
        }
        let is_ended = self.store.end_dead_delivery(group, position, attempts).await?;
        match self.mute.load(Ordering::SeqCst) {
            true => Err(CheckpointError::new(group, "no answer")),
            false => Ok(is_ended),
        }
    }
}

#[async_trait]
impl Checkpoints for Kept {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        if self.unreadable.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(CheckpointError::new(name, "unreadable"));
        }
        Ok(self.get(name))
    }

    async fn save_checkpoint(&self, name: &Name, p: Position) -> Result<(), CheckpointError> {
        if name.as_str().starts_with("reading:") {
            self.reaches.fetch_add(1, Ordering::SeqCst);
        }
        self.positions.lock().unwrap().insert(name.to_string(), p);
        Ok(())
    }

    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
        self.positions.lock().unwrap().remove(name.as_str());
        Ok(())
    }
}

impl Kept {
    /// A store whose feed holds the events that [`events`] makes for these aggregates, from position 1 on.
    pub async fn with(aggregates: &[&str]) -> Arc<Self> {
        let kept = Self::default();
        for aggregate in aggregates {
            kept.add(aggregate).await;
        }
        Arc::new(kept)
    }

    /// A store whose feed holds as many events, of an aggregate each.
    pub async fn with_events(count: u64) -> Arc<Self> {
        let kept = Self::default();
        for number in 1..=count {
            kept.add(&number.to_string()).await;
        }
        Arc::new(kept)
    }

    pub async fn add(&self, aggregate: &str) {
        let event = NewEvent::new(Name::from_static("OrderCreated"), 1, "{}");
        let stream = StreamId::parse("Order", aggregate).unwrap();
        self.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }

    pub fn get(&self, name: &str) -> Option<Position> {
        self.positions.lock().unwrap().get(name).copied()
    }

    /// The events after a position, as a relay reads them.
    pub async fn after(&self, position: Position) -> Vec<RecordedEvent> {
        self.read_all(position).try_collect().await.unwrap()
    }

    pub async fn save_checkpoint_of(&self, group: &str, position: u64) {
        self.positions.lock().unwrap().insert(format!("group:{group}"), position.into());
    }

    pub async fn waiting(&self, group: &Name) -> Vec<UnfinishedDelivery> {
        self.waiting_deliveries(group).await.unwrap()
    }

    pub async fn put(&self, group: &Name, unfinished: Vec<UnfinishedDelivery>) {
        let update = ProgressUpdate { unfinished, ..ProgressUpdate::default() };
        self.save_progress(group, &update).await.unwrap();
    }

    /// The positions of a group's waiting deliveries, and of its dead letters.
    pub async fn rows(&self, group: &'static str) -> (Vec<u64>, Vec<u64>) {
        let group = Name::from_static(group);
        let waiting = self.waiting_deliveries(&group).await.unwrap();
        let dead = self.dead_positions(&group, Position::START).await.unwrap();
        (waiting.iter().map(|row| row.position.get()).collect(), dead.iter().map(|at| at.get()).collect())
    }
}

/// A handler that records its positions, fails some of them, and runs only with permits.
#[derive(Debug, Clone)]
pub struct Worker {
    pub got: Arc<Mutex<Vec<u64>>>,
    /// The highest number of an attempt.
    pub tries: Arc<AtomicU32>,
    pub failing: Arc<Mutex<HashSet<u64>>>,
    pub cannot_decode: Arc<AtomicBool>,
    permits: Arc<Semaphore>,
    /// The positions that are handled without a permit.
    let_at: Arc<Mutex<HashSet<u64>>>,
}

impl Worker {
    pub fn new() -> Self {
        Self {
            got: Arc::default(),
            tries: Arc::default(),
            failing: Arc::default(),
            cannot_decode: Arc::default(),
            permits: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            let_at: Arc::default(),
        }
    }

    /// Runs only with a permit of [`let_one`](Self::let_one).
    pub fn held() -> Self {
        Self { permits: Arc::new(Semaphore::new(0)), ..Self::new() }
    }

    pub fn let_one(&self) {
        self.permits.add_permits(1);
    }

    /// Lets this position be handled without a permit; call it before the event arrives.
    pub fn let_at(&self, position: u64) {
        self.let_at.lock().unwrap().insert(position);
    }

    pub fn failing(self, positions: &[u64]) -> Self {
        self.failing.lock().unwrap().extend(positions);
        self
    }

    pub fn got(&self) -> Vec<u64> {
        self.got.lock().unwrap().clone()
    }

    pub fn join(&self, bus: &InMemoryEventBus, group: &'static str) -> Subscription {
        self.join_for(bus, group, EventFilter::All, HandlerOptions::default())
    }

    /// Handles events of some types only.
    pub fn join_for(
        &self,
        bus: &InMemoryEventBus,
        group: &'static str,
        events: EventFilter,
        options: HandlerOptions,
    ) -> Subscription {
        let worker = self.clone();
        let subscriber = Subscriber::new(Name::from_static("worker"), events, move |delivery| {
            let worker = worker.clone();
            Box::pin(async move {
                let at = delivery.metadata().position().map_or(0, Position::get);
                if !worker.let_at.lock().unwrap().contains(&at) {
                    let permit = worker.permits.acquire().await;
                    permit.expect("never closed").forget();
                }
                worker.got.lock().unwrap().push(at);
                worker.tries.fetch_max(delivery.attempt(), Ordering::SeqCst);
                if worker.cannot_decode.load(Ordering::SeqCst) {
                    return Err(HandlerError::permanent("unknown field"));
                }
                if worker.failing.lock().unwrap().contains(&at) {
                    return Err(HandlerError::from("told to fail"));
                }
                Ok(())
            })
        });
        bus.add_subscriber(Name::from_static(group), subscriber.with_options(options))
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

/// No retries.
pub const NEVER: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(0),
    first_delay: Duration::from_millis(1),
    max_delay: Duration::from_millis(1),
};
/// Retries soon and for ever.
pub const SOON: RetryPolicy = RetryPolicy { max_retries: None, ..NEVER };
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
