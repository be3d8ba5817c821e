//! What the rules are told with: events, handlers that remember, consumers, waiting.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
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
    port::{Delivery, GroupProgress, HandlerError, Subscriber, Subscription},
};

/// How long a rule waits for something that is to happen.
const DEADLINE: Duration = Duration::from_secs(20);

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

/// An event that is known by its number.
pub(super) fn event(event_type: &'static str, number: u64) -> RecordedEvent {
    let id = format!("order-{number}");
    let stream = StreamId::parse("Order", &id).expect("a valid stream");
    let payload = format!(r#"{{"number":{number}}}"#);
    NewEvent::new(Name::from_static(event_type), 1, payload).recorded_as(stream, Version::FIRST, None)
}

/// Events of one type, known by their numbers.
pub(super) fn events(numbers: std::ops::RangeInclusive<u64>) -> Vec<RecordedEvent> {
    numbers.map(|number| event(CREATED, number)).collect()
}

fn number(delivery: &Delivery) -> u64 {
    let id = delivery.metadata().aggregate_id().as_str();
    id.strip_prefix("order-").and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// A handler that remembers what it was given, and does with it what it is told to.
#[derive(Debug, Clone)]
pub(super) struct Witness(Arc<Told>);

#[derive(Debug)]
struct Told {
    name: &'static str,
    begun: Mutex<Vec<Delivery>>,
    done: Mutex<Vec<u64>>,
    failing: Mutex<HashSet<u64>>,
    panicking: Mutex<HashSet<u64>>,
    permits: Semaphore,
    notes: Arc<Mutex<Vec<&'static str>>>,
}

impl Witness {
    /// Handles everything at once.
    pub(super) fn new() -> Self {
        Self::told("witness", Semaphore::MAX_PERMITS, Arc::default())
    }

    /// Handles a delivery only when [`let_one`](Self::let_one) lets it.
    pub(super) fn held() -> Self {
        Self::told("held", 0, Arc::default())
    }

    /// Writes its name into `notes` at each delivery.
    pub(super) fn noting(name: &'static str, notes: &Arc<Mutex<Vec<&'static str>>>) -> Self {
        Self::told(name, Semaphore::MAX_PERMITS, Arc::clone(notes))
    }

    fn told(name: &'static str, permits: usize, notes: Arc<Mutex<Vec<&'static str>>>) -> Self {
        Self(Arc::new(Told {
            name,
            begun: Mutex::default(),
            done: Mutex::default(),
            failing: Mutex::default(),
            panicking: Mutex::default(),
            permits: Semaphore::new(permits),
            notes,
        }))
    }

    /// Fails on these numbers from now on, and on no others.
    pub(super) fn fail_on(&self, numbers: &[u64]) {
        *lock(&self.0.failing) = numbers.iter().copied().collect();
    }

    /// Panics on these numbers from now on, and on no others.
    pub(super) fn panic_on(&self, numbers: &[u64]) {
        *lock(&self.0.panicking) = numbers.iter().copied().collect();
    }

    pub(super) fn let_one(&self) {
        self.0.permits.add_permits(1);
    }

    /// The deliveries it was given.
    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        lock(&self.0.begun).clone()
    }

    /// The numbers of the deliveries it was given.
    pub(super) fn begun(&self) -> Vec<u64> {
        lock(&self.0.begun).iter().map(number).collect()
    }

    /// The numbers it came to the end of, successfully.
    pub(super) fn done(&self) -> Vec<u64> {
        lock(&self.0.done).clone()
    }

    /// Subscribes it.
    pub(super) fn join(&self, bus: &Bus, group: &Name, events: EventFilter) -> Subscription {
        let witness = self.clone();
        let name = Name::from_static(self.0.name);
        let subscriber = Subscriber::new(name, events, move |delivery| {
            let witness = witness.clone();
            Box::pin(async move { witness.handle(delivery).await })
        });
        bus.subscribers().add(group.clone(), subscriber)
    }

    async fn handle(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let number = number(delivery);
        lock(&self.0.begun).push(delivery.clone());
        lock(&self.0.notes).push(self.0.name);
        self.0.permits.acquire().await?.forget();
        assert!(!lock(&self.0.panicking).contains(&number), "told to panic");
        if lock(&self.0.failing).contains(&number) {
            return Err("told to fail".into());
        }
        lock(&self.0.done).push(number);
        Ok(())
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bus that consumes in a task.
pub(super) struct Consumer {
    bus: Bus,
    task: JoinHandle<()>,
}

/// Starts consuming, and waits until it has begun.
pub(super) async fn consume(bus: &Bus) -> Consumer {
    let consuming = bus.clone();
    let task = tokio::spawn(async move {
        let ended = consuming.start_consuming().await;
        ended.expect("start_consuming begins, and ends without an error when it is stopped");
    });
    until("the bus consumes", async || bus.is_consuming()).await;
    let bus = bus.clone();
    Consumer { bus, task }
}

impl Consumer {
    /// Stops consuming, and waits until `start_consuming` has returned.
    pub(super) async fn stop(self) {
        let stopped = tokio::time::timeout(DEADLINE, self.bus.stop_consuming()).await;
        assert!(stopped.is_ok(), "stop_consuming did not return");
        let ended = tokio::time::timeout(DEADLINE, self.task).await;
        let ended = ended.expect("start_consuming returns after stop_consuming");
        ended.expect("start_consuming does not panic");
    }

    /// Drops the future of `start_consuming` wherever it is.
    pub(super) async fn abort(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err(), "start_consuming was to be aborted");
        let bus = self.bus;
        until("the aborted bus consumes no more", async || !bus.is_consuming()).await;
    }
}

/// Waits until something holds.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// Waits until a witness was given so many deliveries.
pub(super) async fn until_begun(witness: &Witness, count: usize) {
    let waiting = until("", async || witness.begun().len() >= count);
    tokio::select! {
        () = waiting => {}
        () = tokio::time::sleep(DEADLINE / 2) => {
            panic!("waited in vain for {count} deliveries, got {:?}", witness.begun())
        }
    }
}

/// Waits until a group has nothing left to do but `failed` deliveries, and nothing in hand.
pub(super) async fn until_settled(bus: &Bus, group: &Name, failed: u64) {
    let settled = GroupProgress { unread: 0, pending: failed, failed };
    let mut last = None;
    let waiting = async {
        loop {
            last = Some(progress(bus, group).await);
            if last == Some(settled) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(waited.is_ok(), "group `{group}` did not settle with {failed} failed deliveries: {last:?}");
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
