//! A hand whose entries are written down by the test, and handlers that do as they are told.

mod beside;
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

use super::{DisposedEntry, Disposition, DueEntry, GroupContext, InFlight, InFlightEntry, RunLock, WorkerSlots};
use crate::{
    domain::{
        clock::SharedClock,
        event::EventFilter,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{StreamId, Version},
    },
    port::{
        BusCounters, Delivery, DeliveryAttempts, HandlerError, HandlerOptions, Limits, MessageId, RetryPolicy,
        StopSignal, Subscriber, Subscribers, Subscription,
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

fn taken(aggregate: &str, number: u64) -> InFlightEntry {
    InFlightEntry::new(id(number), event(aggregate, number))
}

fn left_over(aggregate: &str, number: u64, tries: DeliveryAttempts) -> InFlightEntry {
    taken(aggregate, number).with_attempts(tries).redelivered()
}

/// What a handler is told to do with an event.
type Told = dyn Fn(u64) -> Result<(), HandlerError> + Send + Sync;

/// A handler that notes what it begins and ends, and waits for permits.
#[derive(Clone)]
struct Witness {
    begun: Arc<Mutex<Vec<u64>>>,
    attempts: Arc<Mutex<Vec<u32>>>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
    told: Arc<Told>,
}

/// Says, when it is dropped, that a handler does not run any more.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Witness {
    fn new(told: impl Fn(u64) -> Result<(), HandlerError> + Send + Sync + 'static) -> Self {
        Self {
            begun: Arc::default(),
            attempts: Arc::default(),
            running: Arc::default(),
            most: Arc::default(),
            permits: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            told: Arc::new(told),
        }
    }

    fn willing() -> Self {
        Self::new(|_| Ok(()))
    }

    /// Ends only when it is let.
    fn held() -> Self {
        Self { permits: Arc::new(Semaphore::new(0)), ..Self::willing() }
    }

    /// Fails with these numbers, for ever.
    fn failing(numbers: &'static [u64]) -> Self {
        Self::new(|number| if numbers.contains(&number) { Err("no".into()) } else { Ok(()) })
    }

    /// Fails as often as the number says, by number.
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

    fn let_go(&self, count: usize) {
        self.permits.add_permits(count);
    }

    fn begun(&self) -> Vec<u64> {
        self.begun.lock().unwrap().clone()
    }

    /// The same sorted: workers that begin at once have no order among them.
    fn begun_sorted(&self) -> Vec<u64> {
        let mut begun = self.begun();
        begun.sort_unstable();
        begun
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    fn subscriber(&self, name: &'static str) -> Subscriber {
        let witness = self.clone();
        Subscriber::new(Name::from_static(name), EventFilter::All, move |delivery| {
            let (witness, delivery) = (witness.clone(), delivery.clone());
            Box::pin(async move { witness.handle(&delivery).await })
        })
    }

    /// Leaves one event to another.
    fn or_if(&self, number: u64, other: &Self) -> Subscriber {
        let (witness, other) = (self.clone(), other.clone());
        Subscriber::new(Name::from_static("either"), EventFilter::All, move |delivery| {
            let is_others = delivery.metadata().version() == Version::new(number);
            let (witness, delivery) = (if is_others { &other } else { &witness }.clone(), delivery.clone());
            Box::pin(async move { witness.handle(&delivery).await })
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
        (self.told)(number)
    }
}

/// A hand at work, on a bus that keeps its entries and what is written down of them.
struct Bench {
    in_flight: Arc<InFlight>,
    context: GroupContext,
    stop: CancellationToken,
    written: Vec<DisposedEntry>,
    working: JoinHandle<()>,
    kept: Arc<Kept>,
}

/// What the bus of a hand keeps.
#[derive(Default)]
struct Kept {
    entries: Mutex<HashMap<MessageId, InFlightEntry>>,
    /// What was written down before something was read again, and the test has not seen.
    written: Mutex<Vec<DisposedEntry>>,
    /// How many entries were read again.
    read_again: AtomicUsize,
    changed: Notify,
}

impl Kept {
    fn take_disposed(&self, in_flight: &InFlight) -> Vec<DisposedEntry> {
        let settled = in_flight.take_disposed();
        for DisposedEntry { id, disposition: verdict, .. } in &settled {
            if let Disposition::Retry { attempts: tries, .. } | Disposition::Begin(tries) = verdict
                && let Some(kept) = self.entries.lock().unwrap().get_mut(id)
            {
                kept.attempts = tries.clone();
            }
        }
        settled
    }

    /// Reads again what is due.
    async fn read_again(&self, in_flight: &InFlight) {
        loop {
            in_flight.due().await;
            self.written.lock().unwrap().extend(self.take_disposed(in_flight));
            self.changed.notify_one();
            for due in in_flight.take_due() {
                self.read_again.fetch_add(1, Ordering::SeqCst);
                let kept = self.entries.lock().unwrap().get(&due.id).cloned();
                match kept {
                    Some(taken) => in_flight.resume([taken]),
                    None => in_flight.release([&due.id]),
                }
            }
        }
    }
}

impl Bench {
    fn new(subscribers: impl IntoIterator<Item = Subscriber>) -> Self {
        Self::with(Limits::default(), InFlight::new(100, usize::MAX, SharedClock::SYSTEM), subscribers)
    }

    fn with(limits: Limits, in_flight: InFlight, subscribers: impl IntoIterator<Item = Subscriber>) -> Self {
        let (in_flight, stop) = (Arc::new(in_flight), CancellationToken::new());
        let context = GroupContext {
            group: GROUP.clone(),
            subscribers: Subscribers::default(),
            counters: Arc::new(BusCounters::default()),
            retry: RETRY,
            limits,
            run_lock: RunLock::default(),
            span: Arc::new(crate::port::handler_span),
        };
        for subscriber in subscribers {
            context.subscribers.add(GROUP.clone(), subscriber);
        }
        let kept = Arc::<Kept>::default();
        let working = tokio::spawn({
            let (in_flight, context, stop) =
                (Arc::clone(&in_flight), context.clone(), StopSignal::from_token(stop.clone()));
            let kept = Arc::clone(&kept);
            async move {
                tokio::select! {
                    () = in_flight.work(&context, &stop) => {}
                    () = kept.read_again(&in_flight) => {}
                }
            }
        });
        Self { in_flight, context, stop, written: Vec::new(), working, kept }
    }

    fn add(&self, taken: impl IntoIterator<Item = InFlightEntry>) -> usize {
        let taken: Vec<_> = taken.into_iter().collect();
        let kept = taken.iter().map(|taken| (taken.id.clone(), taken.clone()));
        self.kept.entries.lock().unwrap().extend(kept);
        self.in_flight.add(taken)
    }

    /// Waits until something is to be written down.
    async fn settled(&self) {
        while self.kept.written.lock().unwrap().is_empty() {
            tokio::select! {
                () = self.in_flight.disposed() => return,
                () = self.kept.changed.notified() => {}
            }
        }
    }

    fn take_disposed(&self) -> Vec<DisposedEntry> {
        let mut settled = std::mem::take(&mut *self.kept.written.lock().unwrap());
        settled.extend(self.kept.take_disposed(&self.in_flight));
        settled
    }

    fn join(&self, subscriber: Subscriber) -> Subscription {
        self.context.subscribers.add(GROUP.clone(), subscriber)
    }

    /// Writes down what came of entries.
    fn write(&mut self) {
        for settled in self.take_disposed() {
            let ids = [&settled.id];
            match settled.disposition {
                Disposition::Acknowledge { .. } | Disposition::Skip(_) | Disposition::DeadLetter(_) => {
                    self.in_flight.release(ids)
                }
                Disposition::Begin(_) => self.in_flight.begin(ids),
                Disposition::Retry { .. } => {}
            }
            self.written.push(settled);
        }
    }

    /// Writes everything down until nothing is left to do.
    async fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.settled().await;
            self.write();
        }
    }

    /// The numbers of those whose verdict is so.
    fn verdicts(&self, wanted: impl Fn(&Disposition) -> bool) -> Vec<MessageId> {
        self.written.iter().filter(|settled| wanted(&settled.disposition)).map(|settled| settled.id.clone()).collect()
    }

    fn dead_lettered(&self) -> Vec<DeliveryAttempts> {
        let buried = |settled: &DisposedEntry| match &settled.disposition {
            Disposition::DeadLetter(tries) => Some(tries.clone()),
            _ => None,
        };
        self.written.iter().filter_map(buried).collect()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.working.await.unwrap();
    }
}

/// Lets all that is ready run.
async fn settle_down() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

const fn options(retries: Option<u32>, timeout_ms: Option<u64>, concurrency: Option<u32>) -> HandlerOptions {
    HandlerOptions::new(retries, timeout_ms, concurrency)
}
