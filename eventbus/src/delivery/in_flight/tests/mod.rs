//! In-flight entries whose dispositions the test persists, and handlers that record their runs.

mod flow;
mod retry;
mod room;
mod state;
mod suspects;
mod waiting;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{DisposedEntry, Disposition, GroupContext, InFlight, InFlightEntry, SuspectLock, run_workers};
use crate::{
    delivery::{Limits, StopSignal, Subscribers},
    domain::{
        clock::SharedClock,
        event::EventFilter,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{StreamId, Version},
    },
    port::{
        MessageId, Subscriber, Subscription,
        attempts::DeliveryAttempts,
        delivery::{Delivery, HandlerError},
        retry::RetryPolicy,
        stats::BusCounters,
        subscriber::HandlerOptions,
    },
};

static GROUP: Name = Name::from_static("group");

/// One retry after between half a second and a second.
const RETRY: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(1),
    first_delay: Duration::from_secs(1),
    max_delay: Duration::from_secs(60),
};

fn id(number: u64) -> MessageId {
    MessageId::new(format!("{number}-0"))
}

fn event(aggregate: &str, number: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", aggregate).unwrap();
    NewEvent::new(Name::from_static("OrderCreated"), 1, "{}").recorded_as(stream, Version::new(number), None)
}

fn entry(aggregate: &str, number: u64) -> InFlightEntry {
    InFlightEntry::new(id(number), event(aggregate, number))
}

fn redelivered(aggregate: &str, number: u64, attempts: DeliveryAttempts) -> InFlightEntry {
    entry(aggregate, number).with_attempts(attempts).redelivered()
}

/// Returns the result of a handler for an event, by its number.
type Behavior = dyn Fn(u64) -> Result<(), HandlerError> + Send + Sync;

/// A handler that records its runs, and waits for a permit in each.
#[derive(Clone)]
struct RecordingHandler {
    begun: Arc<Mutex<Vec<u64>>>,
    attempts: Arc<Mutex<Vec<u32>>>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
    behavior: Arc<Behavior>,
}

/// Decrements the number of running handlers when dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl RecordingHandler {
    fn new(behavior: impl Fn(u64) -> Result<(), HandlerError> + Send + Sync + 'static) -> Self {
        Self {
            begun: Arc::default(),
            attempts: Arc::default(),
            running: Arc::default(),
            most: Arc::default(),
            permits: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            behavior: Arc::new(behavior),
        }
    }

    fn willing() -> Self {
        Self::new(|_| Ok(()))
    }

    /// Each run ends only after [`finish`](Self::finish).
    fn held() -> Self {
        Self { permits: Arc::new(Semaphore::new(0)), ..Self::willing() }
    }

    /// Always fails with these numbers.
    fn failing(numbers: &'static [u64]) -> Self {
        Self::new(|number| if numbers.contains(&number) { Err("no".into()) } else { Ok(()) })
    }

    /// Fails with each number as many times as given, then succeeds.
    fn failing_at_first(times: &[(u64, u32)]) -> Self {
        let left = Mutex::new(HashMap::<u64, u32>::from_iter(times.iter().copied()));
        Self::new(move |number| match left.lock().unwrap().get_mut(&number) {
            Some(left @ 1..) => {
                *left -= 1;
                Err("not yet".into())
            }
            _ => Ok(()),
        })
    }

    fn finish(&self, count: usize) {
        self.permits.add_permits(count);
    }

    fn begun(&self) -> Vec<u64> {
        self.begun.lock().unwrap().clone()
    }

    /// As [`begun`](Self::begun), sorted: workers that start at once have no order among them.
    fn begun_sorted(&self) -> Vec<u64> {
        let mut begun = self.begun();
        begun.sort_unstable();
        begun
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    fn subscriber(&self, name: &'static str) -> Subscriber {
        let handler = self.clone();
        Subscriber::new(Name::from_static(name), EventFilter::All, move |delivery| {
            let (handler, delivery) = (handler.clone(), delivery.clone());
            Box::pin(async move { handler.handle(&delivery).await })
        })
    }

    /// Leaves the event with this number to `other`.
    fn or_if(&self, number: u64, other: &Self) -> Subscriber {
        let (handler, other) = (self.clone(), other.clone());
        Subscriber::new(Name::from_static("either"), EventFilter::All, move |delivery| {
            let is_for_other = delivery.metadata().version() == Version::new(number);
            let (handler, delivery) = (if is_for_other { &other } else { &handler }.clone(), delivery.clone());
            Box::pin(async move { handler.handle(&delivery).await })
        })
    }

    async fn handle(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let number = delivery.metadata().version().get();
        self.begun.lock().unwrap().push(number);
        self.attempts.lock().unwrap().push(delivery.attempt());
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        let _running = Running(Arc::clone(&self.running));
        self.most.fetch_max(running, Ordering::SeqCst);
        self.permits.acquire().await?.forget();
        (self.behavior)(number)
    }
}

/// In-flight entries with running workers, on a bus that persists their dispositions in memory.
struct Bench {
    in_flight: Arc<InFlight>,
    context: GroupContext,
    stop: CancellationToken,
    written: Vec<DisposedEntry>,
    working: JoinHandle<()>,
    bus: Arc<FakeBus>,
}

/// The bus of a [`Bench`].
#[derive(Default)]
struct FakeBus {
    /// The dispositions that were persisted, and that the test has not taken.
    written: Mutex<Vec<DisposedEntry>>,
    /// The suspects whose run was counted, with their `ended_alone` since.
    begun: Mutex<Vec<(MessageId, u32)>>,
    changed: Notify,
}

impl FakeBus {
    /// Persists the dispositions that are ready, and begins suspects.
    fn write(&self, in_flight: &InFlight) {
        for disposed in in_flight.take_disposed() {
            if let Disposition::Begin(attempts) = &disposed.disposition {
                self.begun.lock().unwrap().push((disposed.id.clone(), attempts.ended_alone));
                in_flight.begin([&disposed.id]);
            } else {
                self.written.lock().unwrap().push(disposed);
                self.changed.notify_one();
            }
        }
    }

    async fn run(&self, in_flight: &InFlight) {
        loop {
            in_flight.disposed().await;
            self.write(in_flight);
        }
    }
}

impl Bench {
    fn new(subscribers: impl IntoIterator<Item = Subscriber>) -> Self {
        Self::with(Limits::default(), InFlight::new(100, usize::MAX, SharedClock::SYSTEM), subscribers)
    }

    fn with(limits: Limits, in_flight: InFlight, subscribers: impl IntoIterator<Item = Subscriber>) -> Self {
        Self::beside(SuspectLock::default(), limits, in_flight, subscribers)
    }

    /// Creates the bench of a group on the bus that `suspect_lock` belongs to.
    fn beside(
        suspect_lock: SuspectLock,
        limits: Limits,
        in_flight: InFlight,
        subscribers: impl IntoIterator<Item = Subscriber>,
    ) -> Self {
        let (in_flight, stop) = (Arc::new(in_flight), CancellationToken::new());
        let context = GroupContext {
            group: GROUP.clone(),
            subscribers: Subscribers::default(),
            counters: Arc::new(BusCounters::default()),
            retry: RETRY,
            limits,
            suspect_lock,
            span: Arc::new(crate::delivery::handler_span),
        };
        for subscriber in subscribers {
            context.subscribers.add(GROUP.clone(), subscriber);
        }
        let bus = Arc::<FakeBus>::default();
        let working = tokio::spawn({
            let (in_flight, context, stop) =
                (Arc::clone(&in_flight), context.clone(), StopSignal::from_token(stop.clone()));
            let bus = Arc::clone(&bus);
            async move {
                tokio::select! {
                    () = run_workers(&in_flight, &context, &stop) => {}
                    () = bus.run(&in_flight) => {}
                }
            }
        });
        Self { in_flight, context, stop, written: Vec::new(), working, bus }
    }

    fn add(&self, entries: impl IntoIterator<Item = InFlightEntry>) -> usize {
        self.in_flight.add(entries)
    }

    /// Waits until the bus has persisted a disposition that the test has not taken.
    async fn disposed(&self) {
        while self.bus.written.lock().unwrap().is_empty() {
            self.bus.changed.notified().await;
        }
    }

    fn take_disposed(&self) -> Vec<DisposedEntry> {
        self.bus.write(&self.in_flight);
        std::mem::take(&mut *self.bus.written.lock().unwrap())
    }

    fn join(&self, subscriber: Subscriber) -> Subscription {
        self.context.subscribers.add(GROUP.clone(), subscriber)
    }

    /// Persists the dispositions that are ready.
    fn write(&mut self) {
        for disposed in self.take_disposed() {
            let ids = [&disposed.id];
            match disposed.disposition {
                Disposition::Acknowledge { .. } | Disposition::Skip | Disposition::DeadLetter(_) => {
                    self.in_flight.release(ids)
                }
                Disposition::Retry { .. } | Disposition::Begin(_) => {}
            }
            self.written.push(disposed);
        }
    }

    /// Persists dispositions until no entry is in flight.
    async fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.disposed().await;
            self.write();
        }
    }

    /// Returns the ids of the persisted entries whose disposition matches.
    fn ids_with(&self, wanted: impl Fn(&Disposition) -> bool) -> Vec<MessageId> {
        self.written
            .iter()
            .filter(|disposed| wanted(&disposed.disposition))
            .map(|disposed| disposed.id.clone())
            .collect()
    }

    fn dead_lettered(&self) -> Vec<DeliveryAttempts> {
        let dead_letter = |disposed: &DisposedEntry| match &disposed.disposition {
            Disposition::DeadLetter(attempts) => Some(attempts.clone()),
            _ => None,
        };
        self.written.iter().filter_map(dead_letter).collect()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.working.await.unwrap();
    }
}

/// Lets all ready tasks run.
async fn run_ready_tasks() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

const fn options(retries: Option<u32>, timeout_ms: Option<u64>, concurrency: Option<u32>) -> HandlerOptions {
    let timeout = match timeout_ms {
        Some(millis) => Some(Duration::from_millis(millis)),
        None => None,
    };
    HandlerOptions { retries, timeout, concurrency, ..HandlerOptions::NONE }
}
