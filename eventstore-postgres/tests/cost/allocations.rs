//! What saves and reads allocate on any store, and the ids that a save draws.
//!
//! Only the thread of the test counts: all but blocking work runs there. SQLite reads and writes on other threads.

use std::{
    iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use allocation_counter::AllocationInfo;
use eventbus::{
    AggregateRepository, ExpectedVersion, Name, NewEvent, ProjectionHandle, StreamId,
    clock::{Clock, SharedClock, Sleep, SystemClock},
    port::EventStore,
    prelude::*,
};
use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};
use uuid::Uuid;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Meter)]
struct Counted {
    number: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Counted))]
struct Meter(u64);

impl Apply for Meter {
    fn apply(&mut self, MeterEvent::Counted(counted): &MeterEvent) {
        self.0 += counted.number;
    }
}

#[derive(Debug, Default)]
struct Total(u64);

#[projection(name = "total", manual)]
impl Total {
    fn counted(&mut self, event: &Counted) {
        self.0 += event.number;
    }
}

/// What an append of one event takes in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AppendCost {
    /// Size of the future, without what it allocates.
    pub(crate) future_bytes: usize,
    /// The most bytes that are allocated at one time, so that no single allocation is larger.
    pub(crate) held_bytes: u64,
    pub(crate) allocations: u64,
}

impl AppendCost {
    /// Fails if one of the numbers exceeds its bound, which is what was measured when it was written and a tenth more.
    pub(crate) fn assert_at_most(self, bound: Self) {
        let is_within = self.future_bytes <= bound.future_bytes
            && self.held_bytes <= bound.held_bytes
            && self.allocations <= bound.allocations;
        assert!(is_within, "{self:?}, bound {bound:?}");
    }
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Returns what a future allocates, and its output.
fn measured<F: Future>(runtime: &Runtime, future: F) -> (AllocationInfo, F::Output) {
    let mut output = None;
    let counted = allocation_counter::measure(|| output = Some(runtime.block_on(future)));
    (counted, output.unwrap())
}

/// Returns the least of each number: now and then the connection does work of its own beside an append.
fn least(costs: impl Iterator<Item = AppendCost>) -> AppendCost {
    let least = costs.reduce(|one, other| AppendCost {
        future_bytes: one.future_bytes.min(other.future_bytes),
        held_bytes: one.held_bytes.min(other.held_bytes),
        allocations: one.allocations.min(other.allocations),
    });
    least.unwrap()
}

const APPENDS: usize = 20;

/// The cost of saving an aggregate with one further event.
pub(crate) fn of_save(runtime: &Runtime, store: &(impl EventStore + Clone)) -> AppendCost {
    let meters = AggregateRepository::<Meter>::new(store.clone());
    let mut meter = meters.create_new(AggregateId::new());
    least(
        iter::repeat_with(|| {
            meter.record(Counted { number: 1 });
            let save = meters.save(&mut meter);
            let future_bytes = size_of_val(&save);
            let (counted, saved) = measured(runtime, save);
            saved.unwrap();
            AppendCost { future_bytes, held_bytes: counted.bytes_max, allocations: counted.count_total }
        })
        .take(APPENDS),
    )
}

/// The cost of appending one event.
pub(crate) fn of_append(runtime: &Runtime, store: &impl EventStore) -> AppendCost {
    let stream = StreamId::new(Name::from_static("Meter"), AggregateId::new());
    least(
        iter::repeat_with(|| {
            let events = vec![NewEvent::new(Name::from_static("Counted"), 1, r#"{"number":1}"#)];
            let (mut future_bytes, mut stored) = (0, None);
            let counted = allocation_counter::measure(|| {
                let append = store.append(&stream, ExpectedVersion::Any, events);
                future_bytes = size_of_val(&*append);
                stored = Some(runtime.block_on(append));
            });
            stored.unwrap().unwrap();
            AppendCost { future_bytes, held_bytes: counted.bytes_max, allocations: counted.count_total }
        })
        .take(APPENDS),
    )
}

/// The most bytes that are allocated at one time for each of many appends, most of which wait for one statement.
pub(crate) fn held_by_each_of_many(runtime: &Runtime, store: &impl EventStore) -> u64 {
    const MANY: u64 = 200;
    let append = |_| async {
        let stream = StreamId::new(Name::from_static("Meter"), AggregateId::new());
        let events = vec![NewEvent::new(Name::from_static("Counted"), 1, r#"{"number":1}"#)];
        store.append(&stream, ExpectedVersion::Any, events).await
    };
    let rounds = (0..3).map(|_| {
        let (counted, appended) = measured(runtime, join_all((0..MANY).map(append)));
        assert!(appended.iter().all(Result::is_ok));
        counted.bytes_max / MANY
    });
    rounds.min().unwrap()
}

const EVENTS: u64 = 1_000;

/// Allocations for each event of a load of 1,000 events, and of a rebuild in memory from 2,000.
pub(crate) fn of_reads(runtime: &Runtime, store: &(impl EventStore + Clone)) -> [f64; 2] {
    let meters = AggregateRepository::<Meter>::new(store.clone());
    let ids = [AggregateId::new(), AggregateId::new()];
    for id in &ids {
        let mut meter = meters.create_new(id.clone());
        meter.record((0..EVENTS).map(|_| Counted { number: 1 }).collect::<Vec<_>>());
        runtime.block_on(meters.save(&mut meter)).unwrap();
    }
    let totals = ProjectionHandle::with_factory(Total::default);
    let mut allocations = [0.0; 2];
    // the first round prepares the statements
    for _ in 0..2 {
        let (of_load, meter) = measured(runtime, meters.load(&ids[0]));
        assert_eq!(meter.unwrap().state().0, EVENTS);
        let (of_rebuild, rebuilt) = measured(runtime, totals.rebuild(store).into_future());
        rebuilt.unwrap();
        assert_eq!(runtime.block_on(totals.read()).0, 2 * EVENTS);
        allocations = [of_load.count_total as f64 / EVENTS as f64, of_rebuild.count_total as f64 / (2 * EVENTS) as f64];
    }
    allocations
}

/// A clock that counts the ids that it makes.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdCounter(Arc<AtomicU64>);

impl Clock for IdCounter {
    fn now(&self) -> OffsetDateTime {
        SystemClock.now()
    }

    fn instant(&self) -> Instant {
        SystemClock.instant()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        SystemClock.sleep_until(deadline)
    }

    fn new_id(&self) -> Uuid {
        self.0.fetch_add(1, Ordering::Relaxed);
        SystemClock.new_id()
    }
}

/// Fails if the ids of a save are not one for each event and one for all, which correlates them.
pub(crate) async fn assert_ids_of_saves(counter: &IdCounter, store: impl EventStore) {
    let meters = AggregateRepository::<Meter>::new(store).with_clock(SharedClock::new(counter.clone()));
    let mut meter = meters.create_new(AggregateId::new());
    for events in [1, 1, 10, 100] {
        let before = counter.0.load(Ordering::Relaxed);
        meter.record((0..events).map(|number| Counted { number }).collect::<Vec<_>>());
        meters.save(&mut meter).await.unwrap();
        assert_eq!(counter.0.load(Ordering::Relaxed) - before, events + 1, "ids of a save of {events} events");
    }
}
