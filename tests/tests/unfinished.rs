//! The in-process bus on a durable store: what is not finished is a row, and a restart delivers only that.
//!
//! The process that dies is this test binary again, told by its environment what to play.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; the process that dies reports by printing"
)]

use std::{
    collections::BTreeSet,
    env,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    ExpectedVersion, HandlerError, InMemoryEventBus, Name, NewEvent, Position, StreamId,
    port::{Append, DeadLetterFilter, DeadLetters, EventBus, EventStore, RetryPolicy, UnfinishedDeliveries},
    prelude::*,
    testkit::ManualClock,
};
use eventbus_redis::{RedisEventStore, RedisEventStoreConfig};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use eventstore_sqlite::SqliteEventStore;
use test_servers::Actor;

/// The aggregate whose first event fails.
const BAD: &str = "bad";
const GROUP: Name = Name::from_static("default");
const CHECKPOINT: Name = Name::from_static("group:default");
const QUARTER: Duration = Duration::from_secs(15 * 60);

/// What a handler was given: positions, in order.
#[derive(Clone, Default)]
struct Seen {
    positions: Arc<Mutex<Vec<u64>>>,
    is_mended: Arc<AtomicBool>,
}

impl Seen {
    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.positions.lock().unwrap())
    }

    fn count(&self) -> usize {
        self.positions.lock().unwrap().len()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {}

#[handler(manual)]
async fn note(_: &Deposited, meta: &Metadata, State(seen): State<Seen>) -> Result<(), HandlerError> {
    let fails = meta.aggregate_id().as_str() == BAD && !seen.is_mended.load(Ordering::SeqCst);
    let position = meta.position().map_or(0, Position::get);
    seen.positions.lock().map_err(|_| "poisoned")?.push(position);
    println!("{} {position}", if fails { "failed" } else { "handled" });
    if fails { Err(HandlerError::from("not mended yet")) } else { Ok(()) }
}

/// An app whose handler notes what it is given.
async fn app(store: Arc<dyn EventStore>, bus: &InMemoryEventBus, seen: &Seen) -> App {
    App::builder().store(store).bus(bus.clone()).state(seen.clone()).handler::<note>().start().await.unwrap()
}

/// Appends the event that fails, and one more of its aggregate, before and among events of others.
async fn fill(store: &dyn EventStore, others: usize) {
    let append = |aggregate: &str| Append {
        stream: StreamId::parse("Account", aggregate).unwrap(),
        expected: ExpectedVersion::Any,
        events: vec![NewEvent::new(Name::from_static("Deposited"), 1, "{}")],
    };
    let mut appends = vec![append(BAD)];
    appends.extend((0..others).map(|number| append(&format!("a{}", number % 100))));
    appends.insert(others / 2, append(BAD));
    for appends in appends.chunks(1_000) {
        for result in store.append_many(appends.to_vec()).await {
            result.unwrap();
        }
    }
}

/// The positions of the events of the aggregate that fails.
async fn bad(store: &dyn EventStore) -> Vec<u64> {
    use futures_util::TryStreamExt as _;
    let stream = StreamId::parse("Account", BAD).unwrap();
    let events: Vec<_> = store
        .read_stream(&stream, eventbus::Version::FIRST, eventbus::port::Direction::Forward)
        .try_collect()
        .await
        .unwrap();
    events.iter().filter_map(|event| event.position()).map(Position::get).collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// One event fails for an hour, ten thousand later ones succeed: a restart runs that one again, and the one parked behind
/// it, and none of the others.
async fn only_what_is_not_finished_runs_again(open: impl AsyncFn() -> Arc<dyn EventStore>) {
    const OTHERS: usize = 10_000;
    let clock = ManualClock::new();
    let retry =
        RetryPolicy { retry_for: Duration::MAX, max_retries: Some(1_000), first_delay: QUARTER, max_delay: QUARTER };
    let new_bus = || InMemoryEventBus::builder().retry(retry).clock(clock.clone()).build();
    let (store, bus, seen) = (open().await, new_bus(), Seen::default());
    fill(&*store, OTHERS).await;
    let bad = bad(&*store).await;
    let running = app(Arc::clone(&store), &bus, &seen).await;
    until("the others are handled", async || seen.count() == OTHERS + 1).await;
    for quarter in 1..=4 {
        until("it waits", async || bus.progress(&GROUP).await.unwrap().pending == 2).await;
        clock.advance(QUARTER * 2); // more than the delay with its jitter
        until("it has failed again", async || seen.count() == OTHERS + 1 + quarter).await;
    }
    until("all is saved", async || bus.progress(&GROUP).await.unwrap().pending == 2).await;
    let first: BTreeSet<_> = seen.take().into_iter().collect();
    assert_eq!((first.len(), first.contains(&bad[1])), (OTHERS + 1, false), "the second one of its aggregate waits");
    let head = store.head().await.unwrap();
    assert_eq!(store.load_checkpoint(&CHECKPOINT).await.unwrap(), Some(head), "the checkpoint has passed it");
    running.shutdown(Duration::from_secs(30)).await.unwrap();
    drop(store);

    seen.is_mended.store(true, Ordering::SeqCst);
    clock.advance(QUARTER * 2);
    let (store, bus) = (open().await, new_bus());
    let running = app(Arc::clone(&store), &bus, &seen).await;
    running.settled().await.unwrap();
    assert_eq!(seen.take(), bad, "in the order of their aggregate, and none of the {OTHERS} others");
    assert_eq!(store.waiting_deliveries(&GROUP).await.unwrap(), []);
    running.shutdown(Duration::from_secs(30)).await.unwrap();

    let (store, bus) = (open().await, new_bus());
    let running = app(store, &bus, &seen).await;
    running.settled().await.unwrap();
    assert_eq!(seen.take(), Vec::<u64>::new());
    running.shutdown(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_only_what_is_not_finished_runs_again() {
    let folder = folder();
    let path = folder.join("unfinished.db");
    only_what_is_not_finished_runs_again(async || Arc::new(SqliteEventStore::open(&path).await.unwrap()) as _).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_only_what_is_not_finished_runs_again() {
    let schema = test_servers::unique_name("unfinished");
    only_what_is_not_finished_runs_again(async || Arc::new(postgres(&schema).await) as _).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_only_what_is_not_finished_runs_again() {
    let prefix = test_servers::unique_name("unfinished");
    only_what_is_not_finished_runs_again(async || {
        let config = RedisEventStoreConfig {
            redis_url: test_servers::redis_url().into(),
            key_prefix: prefix.clone(),
            ..RedisEventStoreConfig::default()
        };
        Arc::new(RedisEventStore::connect(config).await.unwrap()) as _
    })
    .await;
}

fn folder() -> PathBuf {
    let folder = env::temp_dir().join(test_servers::unique_name("unfinished"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

async fn postgres(schema: &str) -> PgEventStore {
    let database_url = test_servers::postgres_url().to_owned();
    let config = PgEventStoreConfig { database_url, schema: schema.to_owned(), ..Default::default() };
    PgEventStore::connect_with(config).await.unwrap()
}

async fn opened(place: &str) -> Arc<dyn EventStore> {
    match place.strip_prefix("schema ") {
        Some(schema) => Arc::new(postgres(schema).await),
        None => Arc::new(SqliteEventStore::open(place).await.unwrap()),
    }
}

/// What the process that dies plays; does nothing in an ordinary run.
#[tokio::test]
async fn the_process_that_dies() {
    let Ok(place) = env::var("UNFINISHED_STORE") else {
        return;
    };
    Actor::end_with_parent();
    let retry = RetryPolicy { retry_for: Duration::MAX, ..RetryPolicy::default() };
    let bus = InMemoryEventBus::builder().retry(retry).build();
    let _app = app(opened(&place).await, &bus, &Seen::default()).await;
    std::future::pending().await
}

fn positions(printed: &[String], word: &str) -> Vec<u64> {
    let position = |line: &String| line.split_once(word)?.1.trim().parse().ok();
    printed.iter().filter_map(position).collect()
}

/// Wherever a process is killed: the next one delivers what is after the checkpoint or has a row, and nothing else.
async fn a_killed_process_leaves_its_rows(place: &str) {
    const OTHERS: usize = 600;
    let store = opened(place).await;
    fill(&*store, OTHERS).await;
    let (mut handled, mut open_rows): (BTreeSet<u64>, BTreeSet<u64>) = Default::default();
    let mut checkpoint = Position::START;
    let (mut killed, mut with_rows) = (0, 0);
    for part in [1, 120, 240, 480, 600] {
        let mut actor = Actor::play(
            "the_process_that_dies",
            &[("UNFINISHED_STORE", place), ("DATABASE_URL", test_servers::postgres_url())],
        );
        let mut printed = Vec::new();
        until("it has worked for a while", async || {
            printed.extend(actor.printed());
            assert!(!actor.has_ended(), "{printed:#?}");
            let now = positions(&printed, "handled ").into_iter().chain(handled.iter().copied());
            now.collect::<BTreeSet<_>>().len() >= part && !positions(&printed, "failed ").is_empty()
        })
        .await;
        printed.extend(actor.kill());
        killed += 1;
        let tried = positions(&printed, "handled ").into_iter().chain(positions(&printed, "failed "));
        for position in tried {
            let is_open = position > checkpoint.get() || open_rows.contains(&position);
            assert!(is_open, "{position} came again; the checkpoint is {checkpoint}, the rows are {open_rows:?}");
        }
        handled.extend(positions(&printed, "handled "));
        checkpoint = store.load_checkpoint(&CHECKPOINT).await.unwrap().unwrap_or_default();
        let rows = store.waiting_deliveries(&GROUP).await.unwrap();
        open_rows = rows.iter().map(|row| row.position.get()).collect();
        with_rows += usize::from(rows.iter().any(|row| row.position <= checkpoint));
    }
    assert!(with_rows > 0, "the checkpoint has passed what waits in none of {killed} processes");
    let (bus, seen) = (InMemoryEventBus::new(), Seen::default());
    seen.is_mended.store(true, Ordering::SeqCst);
    let running = app(Arc::clone(&store), &bus, &seen).await;
    running.settled().await.unwrap();
    let last = seen.take();
    for position in &last {
        assert!(*position > checkpoint.get() || open_rows.contains(position), "{position} came again at last");
    }
    let bad = bad(&*store).await;
    let of_bad: Vec<_> = last.iter().copied().filter(|position| bad.contains(position)).collect();
    assert_eq!(of_bad, bad, "in the order of their aggregate");
    handled.extend(last);
    assert_eq!(handled.len(), OTHERS + 2, "all are handled");
    assert_eq!(bus.dead_letters(&DeadLetterFilter::default(), None, 1).await.unwrap().letters.len(), 0);
    running.shutdown(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_a_killed_process_leaves_its_rows() {
    let folder = folder();
    a_killed_process_leaves_its_rows(folder.join("killed.db").to_str().unwrap()).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_a_killed_process_leaves_its_rows() {
    a_killed_process_leaves_its_rows(&format!("schema {}", test_servers::unique_name("killed"))).await;
}
