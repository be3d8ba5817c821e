//! What the rules are told with: events, handlers that remember, consumers, waiting.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, task::JoinHandle};

use super::Bus;
use crate::{
    domain::{
        event::{EventDescriptor, EventFilter, Source},
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{StreamId, Version},
    },
    port::{Delivery, GroupProgress, HandlerError, HandlerOptions, HandlerStart, Subscriber, Subscription},
};

/// How long a rule waits for something that is to happen.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// The type of most events of the rules.
pub(super) const CREATED: &str = "OrderCreated";
/// Another type.
pub(super) const SHIPPED: &str = "OrderShipped";

static ONLY_CREATED: [EventDescriptor; 1] = [descriptor(CREATED)];
static ONLY_SHIPPED: [EventDescriptor; 1] = [descriptor(SHIPPED)];

const fn descriptor(event_type: &'static str) -> EventDescriptor {
    let source = Source::new(file!(), line!());
    EventDescriptor::new(event_type, "Order", 1, event_type, source)
}

/// Asks for [`CREATED`] only.
pub(super) const fn created() -> EventFilter {
    EventFilter::Only(&ONLY_CREATED)
}

/// Asks for [`SHIPPED`] only.
pub(super) const fn shipped() -> EventFilter {
    EventFilter::Only(&ONLY_SHIPPED)
}

/// An event that is known by its number, of an aggregate of its own.
pub(super) fn event(event_type: &'static str, number: u64) -> RecordedEvent {
    event_of(&format!("order-{number}"), event_type, number)
}

/// An event that is known by its number, of this aggregate.
pub(super) fn event_of(aggregate: &str, event_type: &'static str, number: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", aggregate).expect("a valid stream");
    let payload = format!(r#"{{"number":{number}}}"#);
    NewEvent::new(Name::from_static(event_type), 1, payload).recorded_as(stream, Version::FIRST, None)
}

/// An event that is known by its number, with a payload of so many bytes and a few.
pub(super) fn event_of_bytes(event_type: &'static str, number: u64, bytes: usize) -> RecordedEvent {
    let stream = StreamId::parse("Order", &format!("order-{number}")).expect("a valid stream");
    let payload = format!(r#"{{"number":{number},"text":"{}"}}"#, "x".repeat(bytes));
    NewEvent::new(Name::from_static(event_type), 1, payload).recorded_as(stream, Version::FIRST, None)
}

/// Events of one type, known by their numbers.
pub(super) fn events(numbers: std::ops::RangeInclusive<u64>) -> Vec<RecordedEvent> {
    numbers.map(|number| event(CREATED, number)).collect()
}

fn number(delivery: &Delivery) -> u64 {
    let payload: serde_json::Value = serde_json::from_str(delivery.record().payload()).unwrap_or_default();
    payload["number"].as_u64().unwrap_or_default()
}

/// A handler that remembers what it was given, and does with it what it is told to.
#[derive(Debug, Clone)]
pub(super) struct RecordingHandler {
    state: Arc<HandlerState>,
    options: HandlerOptions,
    error: fn() -> HandlerError,
}

#[derive(Debug)]
struct HandlerState {
    name: &'static str,
    started: Mutex<Vec<(Delivery, Instant)>>,
    completed: Mutex<Vec<u64>>,
    /// How many times more it fails, by number.
    failing: Mutex<HashMap<u64, u32>>,
    panicking: Mutex<HashSet<u64>>,
    hanging: Mutex<HashSet<u64>>,
    permits: Semaphore,
    /// The aggregates of the deliveries it is in, and the most that these ever were.
    running: Mutex<(Vec<String>, usize)>,
    call_log: Arc<Mutex<Vec<&'static str>>>,
}

impl RecordingHandler {
    /// Handles everything at once; what it is told to fail is not tried again.
    pub(super) fn new() -> Self {
        Self::with_permits("witness", Semaphore::MAX_PERMITS, Arc::default())
    }

    /// Handles a delivery only when [`allow_one`](Self::allow_one) lets it.
    pub(super) fn gated() -> Self {
        Self::with_permits("held", 0, Arc::default())
    }

    /// Writes its name into `notes` at each delivery.
    pub(super) fn logging(name: &'static str, notes: &Arc<Mutex<Vec<&'static str>>>) -> Self {
        Self::with_permits(name, Semaphore::MAX_PERMITS, Arc::clone(notes))
    }

    fn with_permits(name: &'static str, permits: usize, notes: Arc<Mutex<Vec<&'static str>>>) -> Self {
        let told = HandlerState {
            name,
            started: Mutex::default(),
            completed: Mutex::default(),
            failing: Mutex::default(),
            panicking: Mutex::default(),
            hanging: Mutex::default(),
            permits: Semaphore::new(permits),
            running: Mutex::default(),
            call_log: notes,
        };
        let error = || HandlerError::from("told to fail");
        Self { state: Arc::new(told), options: HandlerOptions::new(Some(0), None, None), error }
    }

    /// Is tried again so often.
    pub(super) fn with_retries(mut self, retries: u32) -> Self {
        self.options.retries = Some(retries);
        self
    }

    /// Starts there.
    pub(super) fn with_start(mut self, start: HandlerStart) -> Self {
        self.options.start = Some(start);
        self
    }

    /// May take so long.
    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Gets so many deliveries at once.
    pub(super) fn with_concurrency(mut self, concurrency: u32) -> Self {
        self.options.concurrency = Some(concurrency);
        self
    }

    /// Fails with this error.
    pub(super) fn with_error(mut self, error: fn() -> HandlerError) -> Self {
        self.error = error;
        self
    }

    /// Fails on these numbers from now on, and on no others.
    pub(super) fn fail_on(&self, numbers: &[u64]) {
        self.fail_times(u32::MAX, numbers);
    }

    /// Fails so many times on each of these numbers from now on, and on no others.
    pub(super) fn fail_times(&self, times: u32, numbers: &[u64]) {
        *lock(&self.state.failing) = numbers.iter().map(|number| (*number, times)).collect();
    }

    /// Panics on these numbers from now on, and on no others.
    pub(super) fn panic_on(&self, numbers: &[u64]) {
        *lock(&self.state.panicking) = numbers.iter().copied().collect();
    }

    /// Never ends with these numbers from now on, and with no others.
    pub(super) fn hang_on(&self, numbers: &[u64]) {
        *lock(&self.state.hanging) = numbers.iter().copied().collect();
    }

    pub(super) fn allow_one(&self) {
        self.state.permits.add_permits(1);
    }

    /// The deliveries it was given.
    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        lock(&self.state.started).iter().map(|(delivery, _)| delivery.clone()).collect()
    }

    /// The numbers of the deliveries it was given.
    pub(super) fn started(&self) -> Vec<u64> {
        lock(&self.state.started).iter().map(|(delivery, _)| number(delivery)).collect()
    }

    /// The attempts at one number, and when they began.
    pub(super) fn attempts_at(&self, wanted: u64) -> Vec<(u32, Instant)> {
        let begun = lock(&self.state.started);
        let wanted = begun.iter().filter(|(delivery, _)| number(delivery) == wanted);
        wanted.map(|(delivery, at)| (delivery.attempt(), *at)).collect()
    }

    /// How many deliveries it is in, and in how many it ever was at once.
    pub(super) fn running(&self) -> (usize, usize) {
        let running = lock(&self.state.running);
        (running.0.len(), running.1)
    }

    /// The numbers it came to the end of, successfully.
    pub(super) fn completed(&self) -> Vec<u64> {
        lock(&self.state.completed).clone()
    }

    /// Subscribes it.
    pub(super) fn subscribe(&self, bus: &Bus, group: &Name, events: EventFilter) -> Subscription {
        let witness = self.clone();
        let name = Name::from_static(self.state.name);
        let subscriber = Subscriber::new(name, events, move |delivery| {
            let witness = witness.clone();
            Box::pin(async move { witness.handle(delivery).await })
        });
        bus.add_subscriber(group.clone(), subscriber.with_options(self.options))
    }

    async fn handle(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let number = number(delivery);
        lock(&self.state.started).push((delivery.clone(), Instant::now()));
        lock(&self.state.call_log).push(self.state.name);
        let _running = ActiveDelivery::start(&self.state, delivery);
        self.state.permits.acquire().await?.forget();
        assert!(!lock(&self.state.panicking).contains(&number), "told to panic");
        if lock(&self.state.hanging).contains(&number) {
            std::future::pending::<()>().await;
        }
        if let Some(left @ 1..) = lock(&self.state.failing).get_mut(&number) {
            *left -= 1;
            return Err((self.error)());
        }
        lock(&self.state.completed).push(number);
        Ok(())
    }
}

/// A delivery that a witness is in.
struct ActiveDelivery<'a>(&'a HandlerState, String);

impl<'a> ActiveDelivery<'a> {
    fn start(told: &'a HandlerState, delivery: &Delivery) -> Self {
        let aggregate = delivery.metadata().aggregate_id().to_string();
        let mut running = lock(&told.running);
        assert!(!running.0.contains(&aggregate), "two deliveries of `{aggregate}` at once");
        running.0.push(aggregate.clone());
        running.1 = running.1.max(running.0.len());
        Self(told, aggregate)
    }
}

impl Drop for ActiveDelivery<'_> {
    fn drop(&mut self) {
        lock(&self.0.running).0.retain(|aggregate| *aggregate != self.1);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bus that consumes in a task.
pub(super) struct ConsumerTask {
    bus: Bus,
    task: JoinHandle<()>,
}

/// Starts consuming, and waits until it has begun.
pub(super) async fn consume(bus: &Bus) -> ConsumerTask {
    let consuming = bus.clone();
    let task = tokio::spawn(async move {
        let ended = consuming.start_consuming().await;
        ended.expect("start_consuming begins, and ends without an error when it is stopped");
    });
    wait_until("the bus consumes", async || bus.is_consuming()).await;
    let bus = bus.clone();
    ConsumerTask { bus, task }
}

impl ConsumerTask {
    /// Stops consuming, and waits until `start_consuming` has returned.
    pub(super) async fn stop(self) {
        let stopped = tokio::time::timeout(WAIT_TIMEOUT, self.bus.stop_consuming()).await;
        assert!(stopped.is_ok(), "stop_consuming did not return");
        let ended = tokio::time::timeout(WAIT_TIMEOUT, self.task).await;
        let ended = ended.expect("start_consuming returns after stop_consuming");
        ended.expect("start_consuming does not panic");
    }

    /// Drops the future of `start_consuming` wherever it is.
    pub(super) async fn abort(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err(), "start_consuming was to be aborted");
        let bus = self.bus;
        wait_until("the aborted bus consumes no more", async || !bus.is_consuming()).await;
    }
}

/// Waits until something holds.
pub(super) async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(WAIT_TIMEOUT, waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// Waits until a witness was given so many deliveries.
pub(super) async fn wait_until_started(witness: &RecordingHandler, count: usize) {
    let waiting = wait_until("", async || witness.started().len() >= count);
    tokio::select! {
        () = waiting => {}
        () = tokio::time::sleep(WAIT_TIMEOUT / 2) => {
            panic!("waited in vain for {count} deliveries, got {:?}", witness.started())
        }
    }
}

/// Waits until a group has nothing left to do.
pub(super) async fn wait_until_idle(bus: &Bus, group: &Name) {
    let mut last = None;
    let waiting = async {
        while last != Some(GroupProgress::default()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            last = Some(progress(bus, group).await);
        }
    };
    let waited = tokio::time::timeout(WAIT_TIMEOUT, waiting).await;
    assert!(waited.is_ok(), "group `{group}` did not settle: {last:?}");
}

/// How far a group has come.
pub(super) async fn progress(bus: &Bus, group: &Name) -> GroupProgress {
    bus.progress(group).await.expect("the bus can be asked")
}

/// Publishes, which must succeed.
pub(super) async fn publish(bus: &Bus, events: &[RecordedEvent]) -> Vec<String> {
    let ids = bus.publish(events).await.expect("publishing succeeds");
    ids.iter().map(ToString::to_string).collect()
}
