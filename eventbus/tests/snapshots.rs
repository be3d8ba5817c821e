//! Loads from snapshots: always the state that a replay makes. A test binary of its own: its aggregates share streams.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unreachable_pub, reason = "modules of several test binaries")]

mod lines;
#[path = "runtime/wait.rs"]
mod wait;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    AggregateRepository, InMemoryEventStore, Name, Never, StreamId, Uuid,
    port::{
        EventStore, EventTypes, MultiStreamAppends, Notes, ReadError, SnapshotError, SnapshotRead, Snapshots,
        StoredSnapshot, Transactions, listings::Listings,
    },
    prelude::*,
    repository::TakeSnapshotError,
    store::{AppendBatches, Boundaries, UniqueValues},
    testkit::delegate,
};
use tokio::sync::Notify;

use lines::Lines;
use wait::until;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Ledger)]
struct Entered {
    cents: i64,
    by: String,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Entered), snapshot(every = 10))]
struct Ledger {
    balance: i64,
    by: std::collections::BTreeMap<String, u32>,
}

impl Apply for Ledger {
    fn apply(&mut self, LedgerEvent::Entered(event): &LedgerEvent) {
        self.balance += event.cents;
        *self.by.entry(event.by.clone()).or_default() += 1;
    }
}

/// A second fold of the same streams.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(fold_of = Ledger, events(Entered), snapshot(every = 10))]
struct Count {
    balance: i64,
    by: std::collections::BTreeMap<String, u32>,
}

impl Apply for Count {
    fn apply(&mut self, _event: &CountEvent) {
        self.balance += 1;
    }
}

/// The same streams without snapshots.
#[derive(Debug, Default, Aggregate)]
#[aggregate(fold_of = Ledger, events(Entered))]
struct Plain {
    balance: i64,
}

impl Apply for Plain {
    fn apply(&mut self, PlainEvent::Entered(event): &PlainEvent) {
        self.balance += event.cents;
    }
}

/// A fold whose state JSON cannot hold while the last entry is 0.
#[derive(Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(fold_of = Ledger, events(Entered), snapshot(every = 10))]
struct Share {
    of_last: f64,
}

impl Apply for Share {
    fn apply(&mut self, ShareEvent::Entered(event): &ShareEvent) {
        self.of_last = 1.0 / event.cents as f64;
    }
}

fn entered(cents: i64) -> Entered {
    Entered { cents, by: format!("clerk {}", cents % 3) }
}

/// The name of the fold, as the derive makes it.
fn fold(name: &str) -> Name {
    Name::new("fold", format!("{}::{name}", module_path!())).unwrap()
}

fn batch(range: std::ops::RangeInclusive<i64>) -> Vec<Entered> {
    range.map(entered).collect()
}

async fn stored(store: &InMemoryEventStore, ledgers: &AggregateRepository<Ledger>, id: &AggregateId) -> Option<u64> {
    let stream = ledgers.create_new(id.clone()).id().clone();
    let stream = eventbus::StreamId::parse("Ledger", stream.as_str()).unwrap();
    let read = store.read_from_snapshot(&stream, &fold("Ledger")).await.unwrap();
    read.snapshot.map(|snapshot| snapshot.version.get())
}

#[tokio::test]
async fn one_is_taken_when_a_batch_steps_over_a_boundary() {
    let store = InMemoryEventStore::new();
    let ledgers = AggregateRepository::<Ledger>::new(store.clone());
    let id = "1".parse().unwrap();
    ledgers.upsert(&id, |_| Ok::<_, Never>(batch(1..=9))).await.unwrap();
    assert_eq!(stored(&store, &ledgers, &id).await, None);
    ledgers.update(&id, |_| Ok::<_, Never>(batch(10..=12))).await.unwrap();
    until("the first is taken", async || stored(&store, &ledgers, &id).await == Some(12)).await;
    ledgers.update(&id, |_| Ok::<_, Never>(batch(13..=19))).await.unwrap();
    ledgers.update(&id, |_| Ok::<_, Never>(batch(20..=41))).await.unwrap();
    until("the next is taken", async || stored(&store, &ledgers, &id).await == Some(41)).await;
    let replayed = AggregateRepository::<Plain>::new(store).load(&id).await.unwrap();
    let loaded = ledgers.load(&id).await.unwrap();
    assert_eq!((loaded.balance, loaded.version()), (replayed.balance, replayed.version()));
}

#[tokio::test]
async fn a_long_stream_gets_one_when_it_is_loaded() {
    let store = InMemoryEventStore::new();
    let id = "1".parse().unwrap();
    let before = AggregateRepository::<Plain>::new(store.clone());
    before.upsert(&id, |_| Ok::<_, Never>(batch(1..=500))).await.unwrap();
    let ledgers = AggregateRepository::<Ledger>::new(store.clone());
    assert_eq!(ledgers.load(&id).await.unwrap().balance, 500 * 501 / 2);
    until("one is taken", async || stored(&store, &ledgers, &id).await == Some(500)).await;
}

/// A store whose snapshots are not saved before they may be.
#[derive(Default)]
struct HeldSnapshots {
    store: InMemoryEventStore,
    begun: Notify,
    saves: AtomicU32,
    may_save: Notify,
    /// Set if the task that would save has been cancelled, as by the end of the runtime.
    is_cancelled: AtomicBool,
    /// Set if it refuses to save.
    refuses: AtomicBool,
}

delegate!(HeldSnapshots, self => self.store; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases);

#[deny(clippy::missing_trait_methods)]
impl EventStore for HeldSnapshots {
    fn handler_progress(&self) -> Option<&dyn eventbus::port::HandlerProgress> {
        self.store.handler_progress()
    }

    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        self.store.transactions()
    }

    fn server_fault(&self, error: &(dyn std::error::Error + 'static)) -> Option<eventbus::port::ServerFault> {
        self.store.server_fault(error)
    }

    fn describe(&self) -> String {
        self.store.describe()
    }

    fn notes(&self) -> Option<&dyn Notes> {
        self.store.notes()
    }

    fn event_types(&self) -> Option<&dyn EventTypes> {
        self.store.event_types()
    }

    fn listings(&self) -> Option<&dyn Listings> {
        self.store.listings()
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        self.store.multi_stream_appends()
    }

    fn append_batches(&self) -> Option<&AppendBatches> {
        self.store.append_batches()
    }

    fn unique_values(&self) -> Option<&dyn UniqueValues> {
        self.store.unique_values()
    }

    fn boundaries(&self) -> Option<&dyn Boundaries> {
        self.store.boundaries()
    }
}

#[async_trait]
impl Snapshots for HeldSnapshots {
    async fn read_from_snapshot<'s>(&'s self, stream: &StreamId, fold: &Name) -> Result<SnapshotRead<'s>, ReadError> {
        self.store.read_from_snapshot(stream, fold).await
    }

    async fn save_snapshot(
        &self,
        stream: &StreamId,
        fold: &Name,
        snapshot: &StoredSnapshot,
    ) -> Result<bool, SnapshotError> {
        self.saves.fetch_add(1, Ordering::SeqCst);
        self.begun.notify_one();
        if self.is_cancelled.load(Ordering::SeqCst) {
            let task = tokio::spawn(std::future::pending::<()>());
            task.abort();
            return Err(SnapshotError::unavailable(fold, task.await.unwrap_err()));
        }
        if self.refuses.load(Ordering::SeqCst) {
            return Err(SnapshotError::refused(fold, "too large"));
        }
        self.may_save.notified().await;
        self.store.save_snapshot(stream, fold, snapshot).await
    }

    async fn remove_snapshot(&self, stream: &StreamId, fold: &Name) -> Result<bool, SnapshotError> {
        self.store.remove_snapshot(stream, fold).await
    }

    async fn remove_snapshots(&self, fold: &Name) -> Result<u64, SnapshotError> {
        self.store.remove_snapshots(fold).await
    }
}

/// Fails the test if the future waits for a snapshot that is held.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it waits for no snapshot")
}

#[tokio::test]
async fn saves_and_loads_do_not_wait_for_a_snapshot() {
    let held = Arc::new(HeldSnapshots::default());
    let ledgers = AggregateRepository::<Ledger>::new(Arc::clone(&held));
    let id = "1".parse().unwrap();
    soon(ledgers.upsert(&id, |_| Ok::<_, Never>(batch(1..=10)))).await.unwrap();
    soon(held.begun.notified()).await;
    soon(ledgers.update(&id, |_| Ok::<_, Never>(batch(11..=35)))).await.unwrap();
    assert_eq!(soon(ledgers.load(&id)).await.unwrap().version(), 35);
    assert_eq!(stored(&held.store, &ledgers, &id).await, None, "the first one is still being saved");
    held.may_save.notify_one();
    until("the first one is saved", async || stored(&held.store, &ledgers, &id).await == Some(10)).await;
}

/// A short program ends while its last snapshot is taken.
#[tokio::test]
async fn the_end_of_the_runtime_is_no_failure_of_a_snapshot() {
    let held = Arc::new(HeldSnapshots::default());
    held.is_cancelled.store(true, Ordering::SeqCst);
    let (log, ledgers) = (Lines::default(), AggregateRepository::<Ledger>::new(Arc::clone(&held)));
    let captured = log.capture("eventbus=info");
    ledgers.upsert(&"1".parse().unwrap(), |_| Ok::<_, Never>(batch(1..=10))).await.unwrap();
    until("the task has ended", async || !log.text().is_empty()).await;
    drop(captured);
    let text = log.text();
    assert!(
        text.contains(" INFO ") && text.contains("the process or its runtime ended while a snapshot was taken"),
        "{text}"
    );
    assert!(!text.contains("WARN") && !text.contains("unavailable"), "{text}");
}

/// Each attempt reads the whole stream once more.
#[tokio::test]
async fn a_snapshot_that_the_store_refuses_is_not_taken_again_at_each_load() {
    let held = Arc::new(HeldSnapshots::default());
    held.refuses.store(true, Ordering::SeqCst);
    let (log, ledgers) = (Lines::default(), AggregateRepository::<Ledger>::new(Arc::clone(&held)));
    let captured = log.capture("eventbus=warn");
    let (id, refused) = ("1".parse().unwrap(), || log.text().matches("no snapshot was taken").count());
    ledgers.upsert(&id, |_| Ok::<_, Never>(batch(1..=12))).await.unwrap();
    until("it was refused", async || refused() == 1).await;
    for _ in 0..5 {
        let _ = ledgers.load(&id).await.unwrap();
        tokio::task::yield_now().await;
    }
    ledgers.update(&id, |_| Ok::<_, Never>(batch(13..=20))).await.unwrap();
    until("the next one was refused", async || refused() == 2).await;
    drop(captured);
    assert_eq!(held.saves.load(Ordering::SeqCst), 2, "one attempt for each that was due");
}

#[tokio::test]
async fn a_state_that_json_cannot_hold_leaves_out_its_own_stream_with_one_warning() {
    let store = InMemoryEventStore::new();
    let ledgers = AggregateRepository::<Ledger>::new(store.clone());
    let (log, shares) = (Lines::default(), AggregateRepository::<Share>::new(store.clone()));
    let captured = log.capture("eventbus=warn");
    let (bad, good): (AggregateId, AggregateId) = ("bad".parse().unwrap(), "good".parse().unwrap());
    let stream = StreamId::parse("Ledger", "good").unwrap();
    for due in [10_u64, 20] {
        for (id, last) in [(&bad, 0), (&good, 1)] {
            let entries = [batch(1..=9), vec![entered(last)]].concat();
            ledgers.upsert(id, |_| Ok::<_, Never>(entries.clone())).await.unwrap();
            let _ = shares.load(id).await.unwrap();
        }
        until("that of the other stream is taken", async || {
            let read = store.read_from_snapshot(&stream, &fold("Share")).await.unwrap();
            read.snapshot.is_some_and(|snapshot| snapshot.version == due)
        })
        .await;
    }
    drop(captured);
    let text = log.text();
    assert_eq!(text.matches("no further snapshots of this stream are taken").count(), 1, "{text}");
    assert!(text.contains("Ledger/bad") && !text.contains("Ledger/good"), "{text}");
}

#[tokio::test]
async fn the_repositories_of_an_app_take_a_snapshot_of_a_stream_once_at_a_time() {
    let held = Arc::new(HeldSnapshots::default());
    let app = App::builder().store(Arc::clone(&held)).start().await.unwrap();
    let id = "1".parse().unwrap();
    for from in [1, 11, 21] {
        let ledgers = app.repository::<Ledger>();
        soon(ledgers.upsert(&id, |_| Ok::<_, Never>(batch(from..=from + 9)))).await.unwrap();
        if from == 1 {
            soon(held.begun.notified()).await;
        }
    }
    tokio::task::yield_now().await;
    assert_eq!(held.saves.load(Ordering::SeqCst), 1, "the first one is still being saved");
}

#[tokio::test]
async fn whatever_happens_to_a_snapshot_the_state_is_that_of_a_replay() {
    let store = InMemoryEventStore::new();
    let ledgers = AggregateRepository::<Ledger>::new(store.clone());
    let (id, stream) = ("1".parse().unwrap(), eventbus::StreamId::parse("Ledger", "1").unwrap());
    ledgers.upsert(&id, |_| Ok::<_, Never>(batch(1..=7))).await.unwrap();
    assert_eq!(ledgers.snapshot(&id).await.unwrap(), 7);
    let good = store.read_from_snapshot(&stream, &fold("Ledger")).await.unwrap().snapshot.unwrap();
    ledgers.update(&id, |_| Ok::<_, Never>(batch(8..=9))).await.unwrap();
    let replayed = ledgers.load_at(&id, 9.into()).await.unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..10_000 {
        let StoredSnapshot { mut version, mut data } = good.clone();
        match random.u8(..6) {
            0 => data.truncate(random.usize(..data.len())),
            1 => data = (0..random.usize(..100)).map(|_| random.u8(..)).collect(),
            2 => version = random.u64(1..=9).into(),
            3 => data.insert(random.usize(..data.len()), random.u8(..)),
            _ => {
                let at = random.usize(..data.len());
                data[at] ^= 1 << random.u8(..8);
            }
        }
        store.remove_snapshot(&stream, &fold("Ledger")).await.unwrap();
        assert!(store.save_snapshot(&stream, &fold("Ledger"), &StoredSnapshot { version, data }).await.unwrap());
        let loaded = ledgers.load(&id).await.unwrap();
        assert_eq!((loaded.state(), loaded.version()), (replayed.state(), replayed.version()), "round {round}");
    }
    assert_eq!(ledgers.snapshot(&id).await.unwrap(), 9, "a good one takes the place of a damaged one");
    assert_eq!(stored(&store, &ledgers, &id).await, Some(9));
}

#[tokio::test]
async fn snapshots_of_other_folds_streams_and_tenants_are_not_used() {
    let store = InMemoryEventStore::new();
    let (ledgers, counts) =
        (AggregateRepository::<Ledger>::new(store.clone()), AggregateRepository::<Count>::new(store.clone()));
    let (one, two): (AggregateId, AggregateId) = ("1".parse().unwrap(), "2".parse().unwrap());
    let of_tenant = ledgers.for_tenant(Uuid::from_u128(1));
    ledgers.upsert(&one, |_| Ok::<_, Never>(batch(1..=5))).await.unwrap();
    ledgers.upsert(&two, |_| Ok::<_, Never>(batch(6..=10))).await.unwrap();
    of_tenant.upsert(&one, |_| Ok::<_, Never>(batch(11..=15))).await.unwrap();
    ledgers.snapshot(&one).await.unwrap();
    assert_eq!(counts.load(&one).await.unwrap().balance, 5, "the other fold has none yet");
    counts.snapshot(&one).await.unwrap();
    assert_eq!((ledgers.load(&one).await.unwrap().balance, counts.load(&one).await.unwrap().balance), (15, 5));
    // the data of one snapshot in the place of others
    let stream = |id: &str| eventbus::StreamId::parse("Ledger", id).unwrap();
    let data = store.read_from_snapshot(&stream("1"), &fold("Ledger")).await.unwrap().snapshot.unwrap();
    store.save_snapshot(&stream("2"), &fold("Ledger"), &data).await.unwrap();
    let tenants = stream("1").with_tenant_id(Some(Uuid::from_u128(1)));
    store.save_snapshot(&tenants, &fold("Ledger"), &data).await.unwrap();
    store.remove_snapshot(&stream("1"), &fold("Count")).await.unwrap();
    store.save_snapshot(&stream("1"), &fold("Count"), &data).await.unwrap();
    assert_eq!(ledgers.load(&two).await.unwrap().balance, 40);
    assert_eq!(of_tenant.load(&one).await.unwrap().balance, 65);
    assert_eq!(counts.load(&one).await.unwrap().balance, 5);
    assert_eq!(ledgers.remove_snapshots().await.unwrap(), 3);
    assert_eq!(ledgers.load(&two).await.unwrap().balance, 40, "they are disposable");
}

#[tokio::test]
async fn what_has_no_snapshots_says_so() {
    let store = InMemoryEventStore::new();
    assert!(store.snapshots().is_some());
    let plain = AggregateRepository::<Plain>::new(store.clone());
    let id = "1".parse().unwrap();
    let error = plain.snapshot(&id).await.unwrap_err();
    assert!(matches!(error, TakeSnapshotError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("snapshot(every = 100)"), "{error}");
    let missing = AggregateRepository::<Ledger>::new(store).snapshot(&id).await.unwrap_err();
    assert!(matches!(missing, TakeSnapshotError::Load(error) if error.is_not_found()));
}
