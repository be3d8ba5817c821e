//! Fixtures of the rules: events, recording handlers, consumers, waiting.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use uuid::Uuid;

use super::Bus;
use crate::{
    domain::{
        event::{EventDescriptor, EventFilter, Source},
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{StreamId, Version},
    },
    port::{
        GroupProgress, Subscriber, Subscription,
        delivery::{Delivery, HandlerError},
        subscriber::{HandlerOptions, HandlerStart},
    },
};

/// Time that a rule waits for a condition before it fails.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// The event type of most rules.
pub(super) const CREATED: &str = "OrderCreated";
/// A second event type.
pub(super) const SHIPPED: &str = "OrderShipped";
static ONLY_CREATED: [EventDescriptor; 1] = [descriptor(CREATED, 1)];
static ONLY_SHIPPED: [EventDescriptor; 1] = [descriptor(SHIPPED, 1)];

const fn descriptor(event_type: &'static str, schema_version: u32) -> EventDescriptor {
    let source = Source::new(file!(), line!(), module_path!());
    EventDescriptor::new(event_type, "Order", schema_version, event_type, source)
}

/// Returns a filter for [`CREATED`] only.
pub(super) const fn created() -> EventFilter {
    EventFilter::Only(&ONLY_CREATED)
}

/// Returns a filter for [`SHIPPED`] only.
pub(super) const fn shipped() -> EventFilter {
    EventFilter::Only(&ONLY_SHIPPED)
}

/// Returns an event identified by its number, of an aggregate of its own.
pub(super) fn event(event_type: &'static str, number: u64) -> RecordedEvent {
    event_of(&format!("order-{number}"), event_type, number)
}

/// Returns an event identified by its number, of this aggregate.
pub(super) fn event_of(aggregate: &str, event_type: &'static str, number: u64) -> RecordedEvent {
    event_in_version(aggregate, event_type, 1, number)
}

/// Returns a [`CREATED`] event identified by its number, of this aggregate of a tenant.
pub(super) fn event_of_tenant(tenant_id: Option<Uuid>, aggregate: &str, number: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", aggregate).expect("a valid stream").with_tenant_id(tenant_id);
    let payload = format!(r#"{{"number":{number}}}"#);
    NewEvent::new(Name::from_static(CREATED), 1, payload).recorded_as(stream, Version::FIRST, None)
}

fn event_in_version(aggregate: &str, event_type: &'static str, schema_version: u32, number: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", aggregate).expect("a valid stream");
    let payload = format!(r#"{{"number":{number}}}"#);
    NewEvent::new(Name::from_static(event_type), schema_version, payload).recorded_as(stream, Version::FIRST, None)
}

/// Returns an event identified by its number, with a payload of slightly more than `bytes` bytes.
pub(super) fn event_of_bytes(event_type: &'static str, number: u64, bytes: usize) -> RecordedEvent {
    let stream = StreamId::parse("Order", &format!("order-{number}")).expect("a valid stream");
    let payload = format!(r#"{{"number":{number},"text":"{}"}}"#, "x".repeat(bytes));
    NewEvent::new(Name::from_static(event_type), 1, payload).recorded_as(stream, Version::FIRST, None)
}

/// Returns events of one type, identified by their numbers.
pub(super) fn events(numbers: std::ops::RangeInclusive<u64>) -> Vec<RecordedEvent> {
    numbers.map(|number| event(CREATED, number)).collect()
}

fn number(delivery: &Delivery) -> u64 {
    let payload: serde_json::Value = serde_json::from_str(delivery.record().payload()).unwrap_or_default();
    payload["number"].as_u64().unwrap_or_default()
}

/// A handler that records its deliveries, and fails, panics or hangs on demand.
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
    /// Number of failures still to come, by event number.
    failing: Mutex<HashMap<u64, u32>>,
    panicking: Mutex<HashSet<u64>>,
    hanging: Mutex<HashSet<u64>>,
    held: watch::Sender<HashSet<u64>>,
    permits: Semaphore,
    /// The streams of the running deliveries, and the most deliveries that ever ran at once.
    running: Mutex<(Vec<StreamId>, usize)>,
    call_log: Arc<Mutex<Vec<&'static str>>>,
}

impl RecordingHandler {
    /// Handles every delivery at once. A failure on demand is not retried.
    pub(super) fn new() -> Self {
        Self::with_permits("recorder", Semaphore::MAX_PERMITS, Arc::default())
    }

    /// Handles a delivery only after a call of [`allow_one`](Self::allow_one).
    pub(super) fn gated() -> Self {
        Self::with_permits("held", 0, Arc::default())
    }

    /// Handles every delivery at once, and appends its name to `notes`.
    pub(super) fn logging(name: &'static str, notes: &Arc<Mutex<Vec<&'static str>>>) -> Self {
        Self::with_permits(name, Semaphore::MAX_PERMITS, Arc::clone(notes))
    }

    fn with_permits(name: &'static str, permits: usize, notes: Arc<Mutex<Vec<&'static str>>>) -> Self {
        let state = HandlerState {
            name,
            started: Mutex::default(),
            completed: Mutex::default(),
            failing: Mutex::default(),
            panicking: Mutex::default(),
            hanging: Mutex::default(),
            held: watch::Sender::default(),
            permits: Semaphore::new(permits),
            running: Mutex::default(),
            call_log: notes,
        };
        let error = || HandlerError::from("failure on demand");
        Self { state: Arc::new(state), options: HandlerOptions::NONE.retries(0), error }
    }

    /// Sets the number of retries.
    pub(super) fn with_retries(mut self, retries: u32) -> Self {
        self.options.retries = Some(retries);
        self
    }

    /// Sets the start of the handler.
    pub(super) fn with_start(mut self, start: HandlerStart) -> Self {
        self.options.start = Some(start);
        self
    }

    /// Sets the timeout.
    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Sets the number of concurrent deliveries.
    pub(super) fn with_concurrency(mut self, concurrency: u32) -> Self {
        self.options.concurrency = Some(concurrency);
        self
    }

    /// Sets the error that it fails with.
    pub(super) fn with_error(mut self, error: fn() -> HandlerError) -> Self {
        self.error = error;
        self
    }

    /// Fails on exactly these numbers from now on.
    pub(super) fn fail_on(&self, numbers: &[u64]) {
        self.fail_times(u32::MAX, numbers);
    }

    /// Fails `times` times on each of these numbers from now on, and on no further ones.
    pub(super) fn fail_times(&self, times: u32, numbers: &[u64]) {
        *self.state.failing.lock() = numbers.iter().map(|number| (*number, times)).collect();
    }

    /// Panics on exactly these numbers from now on.
    pub(super) fn panic_on(&self, numbers: &[u64]) {
        *self.state.panicking.lock() = numbers.iter().copied().collect();
    }

    /// Hangs on exactly these numbers from now on.
    pub(super) fn hang_on(&self, numbers: &[u64]) {
        *self.state.hanging.lock() = numbers.iter().copied().collect();
    }

    /// Holds deliveries of exactly these numbers from now on, and releases all other ones.
    pub(super) fn hold(&self, numbers: &[u64]) {
        self.state.held.send_replace(numbers.iter().copied().collect());
    }

    pub(super) fn allow_one(&self) {
        self.state.permits.add_permits(1);
    }

    /// Returns all deliveries started so far.
    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        self.state.started.lock().iter().map(|(delivery, _)| delivery.clone()).collect()
    }

    /// Returns the numbers of all deliveries started so far.
    pub(super) fn started(&self) -> Vec<u64> {
        self.state.started.lock().iter().map(|(delivery, _)| number(delivery)).collect()
    }

    /// Returns the attempts at one number, and when each started.
    pub(super) fn attempts_at(&self, wanted: u64) -> Vec<(u32, Instant)> {
        let started = self.state.started.lock();
        let wanted = started.iter().filter(|(delivery, _)| number(delivery) == wanted);
        wanted.map(|(delivery, at)| (delivery.attempt(), *at)).collect()
    }

    /// Returns how many deliveries run now, and the most that ever ran at once.
    pub(super) fn running(&self) -> (usize, usize) {
        let running = self.state.running.lock();
        (running.0.len(), running.1)
    }

    /// Returns the numbers of deliveries that succeeded.
    pub(super) fn completed(&self) -> Vec<u64> {
        self.state.completed.lock().clone()
    }

    /// Subscribes this handler.
    pub(super) fn subscribe(&self, bus: &Bus, group: &Name, events: EventFilter) -> Subscription {
        let handler = self.clone();
        let name = Name::from_static(self.state.name);
        let subscriber = Subscriber::new(name, events, move |delivery| {
            let handler = handler.clone();
            Box::pin(async move { handler.handle(delivery).await })
        });
        bus.add_subscriber(group.clone(), subscriber.with_options(self.options))
    }

    async fn handle(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let number = number(delivery);
        self.state.started.lock().push((delivery.clone(), Instant::now()));
        self.state.call_log.lock().push(self.state.name);
        let _running = ActiveDelivery::start(&self.state, delivery);
        self.state.permits.acquire().await?.forget();
        self.state.held.subscribe().wait_for(|held| !held.contains(&number)).await?;
        assert!(!self.state.panicking.lock().contains(&number), "panic on demand");
        if self.state.hanging.lock().contains(&number) {
            std::future::pending::<()>().await;
        }
        if let Some(left @ 1..) = self.state.failing.lock().get_mut(&number) {
            *left -= 1;
            return Err((self.error)());
        }
        self.state.completed.lock().push(number);
        Ok(())
    }
}

/// A delivery that a recording handler is running.
struct ActiveDelivery<'a>(&'a HandlerState, StreamId);

impl<'a> ActiveDelivery<'a> {
    fn start(state: &'a HandlerState, delivery: &Delivery) -> Self {
        let stream = delivery.metadata().stream().clone();
        let mut running = state.running.lock();
        assert!(!running.0.contains(&stream), "two deliveries of `{stream}` at once");
        running.0.push(stream.clone());
        running.1 = running.1.max(running.0.len());
        Self(state, stream)
    }
}

impl Drop for ActiveDelivery<'_> {
    fn drop(&mut self) {
        self.0.running.lock().0.retain(|stream| *stream != self.1);
    }
}

/// A task that runs `start_consuming` of a bus.
pub(super) struct ConsumerTask {
    bus: Bus,
    task: JoinHandle<()>,
}

/// Starts consuming, and waits until the bus reports it.
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

    /// Aborts `start_consuming` at whichever await point it has reached.
    pub(super) async fn abort(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err(), "start_consuming was to be aborted");
        let bus = self.bus;
        wait_until("the aborted bus consumes no more", async || !bus.is_consuming()).await;
    }
}

/// Waits until `holds` returns `true`.
pub(super) async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(WAIT_TIMEOUT, waiting).await;
    assert!(waited.is_ok(), "timed out waiting until {what}");
}

/// Waits until a handler has started `count` deliveries.
pub(super) async fn wait_until_started(handler: &RecordingHandler, count: usize) {
    let waiting = wait_until("", async || handler.started().len() >= count);
    tokio::select! {
        () = waiting => {}
        () = tokio::time::sleep(WAIT_TIMEOUT / 2) => {
            panic!("timed out waiting for {count} deliveries, got {:?}", handler.started())
        }
    }
}

/// Waits until a group has no unread and no pending entries.
pub(super) async fn wait_until_idle(bus: &Bus, group: &Name) {
    let mut last = None;
    let waiting = async {
        while last != Some(GroupProgress::default()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            last = Some(progress(bus, group).await);
        }
    };
    let waited = tokio::time::timeout(WAIT_TIMEOUT, waiting).await;
    assert!(waited.is_ok(), "group `{group}` is not idle: {last:?}");
}

/// Returns the progress of a group.
pub(super) async fn progress(bus: &Bus, group: &Name) -> GroupProgress {
    bus.progress(group).await.expect("the bus reports progress")
}

/// Publishes and expects success.
pub(super) async fn publish(bus: &Bus, events: &[RecordedEvent]) -> Vec<String> {
    let ids = bus.publish(events).await.expect("publishing succeeds");
    ids.iter().map(ToString::to_string).collect()
}

/// Returns the events in the order of their numbers: a queue of jobs has no order.
pub(super) fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}
