//! Handlers on durable stores: what is not finished survives the process, and a restart delivers only that.
//!
//! The killed process is a second run of this test binary, with its role in environment variables.

use std::{
    collections::BTreeSet,
    env,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventbus::{
    ExpectedVersion, HandlerError, Name, NewEvent, Position, StreamId,
    clock::SharedClock,
    port::{
        Append, EventStore, HandlerProgress,
        handler_progress::{DeliveryRow, ListedShard, ShardId},
    },
    prelude::*,
    testkit::ManualClock,
};
use eventbus_test::internal::Actor;
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use eventstore_sqlite::SqliteEventStore;

/// The aggregate whose first event fails.
const BAD: &str = "bad";
const QUARTER: Duration = Duration::from_secs(15 * 60);

/// The positions of the deliveries to a handler, in order.
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

#[handler(manual, retries = 1_000)]
async fn note(_: &Deposited, meta: &Metadata, State(seen): State<Seen>) -> Result<(), HandlerError> {
    let fails = meta.aggregate_id().as_str() == BAD && !seen.is_mended.load(Ordering::SeqCst);
    let position = meta.position().map_or(0, Position::get);
    seen.positions.lock().map_err(|_| "poisoned")?.push(position);
    println!("{} {position}", if fails { "failed" } else { "handled" });
    if fails { Err(HandlerError::from("not mended yet")) } else { Ok(()) }
}

/// Starts an app whose handler records its deliveries.
async fn app(store: Arc<dyn EventStore>, clock: impl Into<SharedClock>, seen: &Seen) -> App {
    App::builder().store(store).clock(clock).state(seen.clone()).handler::<note>().start().await.unwrap()
}

fn progress(store: &dyn EventStore) -> &dyn HandlerProgress {
    store.handler_progress().unwrap()
}

/// Returns the rows of a handler's events that wait, in order.
async fn rows(store: &dyn EventStore, handler: &'static str) -> Vec<DeliveryRow> {
    let shard = ShardId { handler: Name::from_static(handler), number: 0 };
    progress(store).live_rows(&[shard]).await.unwrap().into_values().flatten().collect()
}

/// Returns the progress of the only shard of the only handler.
async fn shard(store: &dyn EventStore) -> ListedShard {
    progress(store).list_handlers().await.unwrap().remove(0).shards.remove(0)
}

/// Appends the failing event and one more of its aggregate, before and among events of other aggregates.
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

/// Returns the positions of the failing aggregate's events.
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

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "timed out waiting until {what}");
}

/// One event fails for an hour, and ten thousand later ones succeed: a restart runs the failing one and the one blocked
/// behind it again, and no further one.
async fn only_what_is_not_finished_runs_again(open: impl AsyncFn() -> Arc<dyn EventStore>) {
    const OTHERS: usize = 10_000;
    let (clock, store, seen) = (ManualClock::new(), open().await, Seen::default());
    fill(&*store, OTHERS).await;
    let bad = bad(&*store).await;
    let running = app(Arc::clone(&store), clock.clone(), &seen).await;
    until("the other events are handled", async || seen.count() == OTHERS + 1).await;
    for failures in 1..=4 {
        until("it waits", async || {
            let rows = rows(&*store, "note").await;
            rows.first().is_some_and(|row| row.attempts.attempts == failures && row.attempts.next_at.is_some())
        })
        .await;
        clock.advance(QUARTER); // more than the delay with its jitter
        until("it has failed again", async || seen.count() == OTHERS + 1 + failures as usize).await;
    }
    let head = store.head().await.unwrap();
    until("the checkpoint has passed it", async || {
        let shard = shard(&*store).await;
        shard.checkpoint == head && (shard.waiting, shard.started) == (1, 0)
    })
    .await;
    let first: BTreeSet<_> = seen.take().into_iter().collect();
    assert_eq!((first.len(), first.contains(&bad[1])), (OTHERS + 1, false), "the second one of its aggregate waits");
    running.shutdown(Duration::from_secs(30)).await.unwrap();
    drop(store);

    seen.is_mended.store(true, Ordering::SeqCst);
    clock.advance(QUARTER);
    let store = open().await;
    let running = app(Arc::clone(&store), clock.clone(), &seen).await;
    running.settled().await.unwrap();
    assert_eq!(seen.take(), bad, "in the order of their aggregate, and none of the {OTHERS} other events");
    assert_eq!(rows(&*store, "note").await, []);
    running.shutdown(Duration::from_secs(30)).await.unwrap();

    let running = app(open().await, clock, &seen).await;
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
    let schema = eventbus_test::unique_name("unfinished");
    only_what_is_not_finished_runs_again(async || Arc::new(postgres(&schema).await) as _).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_only_what_is_not_finished_runs_again() {
    let prefix = eventbus_test::unique_name("unfinished");
    only_what_is_not_finished_runs_again(async || {
        let config = RedisEventStoreConfig {
            redis_url: eventbus_test::redis_url().into(),
            key_prefix: prefix.clone(),
            ..RedisEventStoreConfig::default()
        };
        Arc::new(RedisEventStore::connect(config).await.unwrap()) as _
    })
    .await;
}

pub(crate) fn folder() -> PathBuf {
    let folder = env::temp_dir().join(eventbus_test::unique_name("unfinished"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

async fn postgres(schema: &str) -> PgEventStore {
    let database_url = eventbus_test::postgres_url().to_owned();
    let config = PgEventStoreConfig { database_url, schema: schema.to_owned(), ..Default::default() };
    PgEventStore::connect_with(config).await.unwrap()
}

pub(crate) async fn opened(place: &str) -> Arc<dyn EventStore> {
    match place.strip_prefix("schema ") {
        Some(schema) => Arc::new(postgres(schema).await),
        None => Arc::new(SqliteEventStore::open(place).await.unwrap()),
    }
}

/// The role of the process that dies; returns at once in an ordinary run.
#[tokio::test]
async fn the_process_that_dies() {
    let Ok(place) = env::var("UNFINISHED_STORE") else {
        return;
    };
    Actor::end_with_parent();
    let builder = App::builder().store(opened(&place).await).lease(Duration::from_secs(1));
    let _app = builder.state(Seen::default()).handler::<note>().start().await.unwrap();
    std::future::pending().await
}

fn positions(printed: &[String], word: &str) -> Vec<u64> {
    let position = |line: &String| line.split_once(word)?.1.trim().parse().ok();
    printed.iter().filter_map(position).collect()
}

/// After kills at several moments all events are handled, and those of an aggregate whose first one fails in order.
async fn a_killed_process_leaves_what_it_has_not_finished(place: &str) {
    const OTHERS: usize = 600;
    let store = opened(place).await;
    fill(&*store, OTHERS).await;
    let bad = bad(&*store).await;
    let mut handled: BTreeSet<u64> = BTreeSet::new();
    for part in [1, 120, 240, 480, 600] {
        let mut actor = Actor::play(
            "unfinished::the_process_that_dies",
            &[("UNFINISHED_STORE", place), ("DATABASE_URL", eventbus_test::postgres_url())],
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
        let by_this = positions(&printed, "handled ");
        assert!(by_this.iter().all(|position| !bad.contains(position)), "the second one waits behind the first");
        handled.extend(by_this);
    }
    let rows = rows(&*store, "note").await;
    assert_eq!(rows.first().map(|row| row.position.get()), Some(bad[0]), "the failing event has a row");
    let seen = Seen::default();
    seen.is_mended.store(true, Ordering::SeqCst);
    let running = app(Arc::clone(&store), SharedClock::SYSTEM, &seen).await;
    running.settled().await.unwrap();
    let last = seen.take();
    let of_bad: Vec<_> = last.iter().copied().filter(|position| bad.contains(position)).collect();
    assert_eq!(of_bad, bad, "in the order of their aggregate");
    handled.extend(last);
    assert_eq!(handled.len(), OTHERS + 2, "all are handled");
    assert_eq!(progress(&*store).count_dead_rows(1).await.unwrap(), 0);
    running.shutdown(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_a_killed_process_leaves_what_it_has_not_finished() {
    let folder = folder();
    a_killed_process_leaves_what_it_has_not_finished(folder.join("killed.db").to_str().unwrap()).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_a_killed_process_leaves_what_it_has_not_finished() {
    a_killed_process_leaves_what_it_has_not_finished(&format!("schema {}", eventbus_test::unique_name("killed"))).await;
}

/// The aggregate whose event ends its process.
const KILLER: &str = "killer";

#[handler(manual, concurrency = 4)]
async fn work(_: &Deposited, meta: &Metadata) {
    let position = meta.position().map_or(0, Position::get);
    println!("began {position}");
    if meta.aggregate_id().as_str() == KILLER {
        std::process::abort();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    println!("handled {position}");
}

/// The role of a process with default settings that ends, by itself or killed; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_ends() {
    let Ok(place) = env::var("ENDING_STORE") else {
        return;
    };
    Actor::end_with_parent();
    let app = App::builder().store(opened(&place).await).lease(Duration::from_secs(1)).handler::<work>();
    if env::var("ENDING_CLOCK").unwrap() == "machine" {
        let _app = app.start().await.unwrap();
        return std::future::pending().await;
    }
    // about twenty times as fast
    let clock = ManualClock::new();
    let _app = app.clock(clock.clone()).start().await.unwrap();
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        clock.advance(Duration::from_millis(20));
    }
}

fn ending(place: &str, clock: &str) -> Actor {
    let variables = [("ENDING_STORE", place), ("ENDING_CLOCK", clock), ("DATABASE_URL", eventbus_test::postgres_url())];
    Actor::play("unfinished::the_process_that_ends", &variables)
}

async fn deposit(store: &dyn EventStore, aggregates: impl IntoIterator<Item = String>) {
    for aggregate in aggregates {
        let stream = StreamId::parse("Account", &aggregate).unwrap();
        let event = NewEvent::new(Name::from_static("Deposited"), 1, "{}");
        store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
}

/// An event that ends its process, first beside other events, then five times alone, while there is always more work.
async fn an_event_that_ends_its_process_becomes_a_dead_letter(place: &str) {
    let store = opened(place).await;
    deposit(&*store, (0..20).map(|number| format!("a{number}"))).await;
    deposit(&*store, [KILLER.to_owned()]).await;
    let killer = 21;
    deposit(&*store, (20..40).map(|number| format!("a{number}"))).await;
    let (mut handled, mut ends, mut alone) = (BTreeSet::new(), 0, 0);
    // keeps the process busy
    let (others, is_over) = (Arc::new(AtomicUsize::new(40)), Arc::new(AtomicBool::new(false)));
    let depositing = tokio::spawn({
        let (store, others, is_over) = (Arc::clone(&store), Arc::clone(&others), Arc::clone(&is_over));
        async move {
            while !is_over.load(Ordering::SeqCst) {
                let number = others.fetch_add(1, Ordering::SeqCst);
                deposit(&*store, [format!("a{number}")]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let dead = async || progress(&*store).dead_rows(None, 10).await.unwrap();
    loop {
        let mut actor = ending(place, "fast");
        until("it has ended, or the event is a dead letter", async || actor.has_ended() || !dead().await.is_empty())
            .await;
        if !actor.has_ended() {
            is_over.store(true, Ordering::SeqCst);
            depositing.await.unwrap();
            let printed = std::cell::RefCell::new(Vec::new());
            until("the other events are handled", async || {
                printed.borrow_mut().extend(actor.printed());
                let last: BTreeSet<_> = positions(&printed.borrow(), "handled ").into_iter().collect();
                last.union(&handled).count() == others.load(Ordering::SeqCst)
            })
            .await;
            printed.borrow_mut().extend(actor.kill());
            println!("{ends} ends");
            handled.extend(positions(&printed.borrow(), "handled "));
            break;
        }
        let printed = actor.wait().1;
        let by_this: BTreeSet<_> = positions(&printed, "handled ").into_iter().collect();
        let in_flight: BTreeSet<_> = positions(&printed, "began ").into_iter().collect();
        let in_flight: Vec<_> = in_flight.difference(&by_this).copied().collect();
        handled.extend(by_this);
        ends += 1;
        assert!(in_flight.contains(&killer), "{printed:#?}");
        let rows = rows(&*store, "work").await;
        let counted: Vec<_> = rows.iter().filter(|row| row.attempts.ended_alone > 0).collect();
        assert!(counted.iter().all(|row| row.position.get() == killer), "other events are suspected: {counted:?}");
        let before = std::mem::replace(&mut alone, counted.first().map_or(0, |row| row.attempts.ended_alone));
        // an event alone does not wait for the rest for ever
        assert!(alone == before || in_flight == [killer], "end {ends} counts, and it ran beside {in_flight:?}");
        assert!((before..=before + 1).contains(&alone), "{before} ends alone before end {ends}, {alone} after it");
        assert!(ends < 20, "after {ends} ends, {alone} of them alone, it is no dead letter");
    }
    assert_eq!(alone, 5);
    let dead = dead().await;
    assert_eq!(dead.iter().map(|dead| dead.position.get()).collect::<Vec<_>>(), [killer]);
    assert!(dead[0].attempts.errors().contains("the process ended 5 times while this event alone was handled"));
    assert_eq!(handled.len(), others.load(Ordering::SeqCst), "all other events are handled");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_an_event_that_ends_its_process_becomes_a_dead_letter() {
    let folder = folder();
    an_event_that_ends_its_process_becomes_a_dead_letter(folder.join("ends.db").to_str().unwrap()).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_an_event_that_ends_its_process_becomes_a_dead_letter() {
    let place = format!("schema {}", eventbus_test::unique_name("ends"));
    an_event_that_ends_its_process_becomes_a_dead_letter(&place).await;
}

/// Processes killed at any moment lose no event, and make none a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_processes_that_are_killed_at_random_make_no_dead_letters() {
    const EVENTS: usize = 600;
    let folder = folder();
    let path = folder.join("random.db");
    let place = path.to_str().unwrap();
    let store = opened(place).await;
    deposit(&*store, (0..EVENTS).map(|number| format!("a{number}"))).await;
    let mut handled = BTreeSet::new();
    for kill in 1..=10 {
        let (actor, mut printed, enough) = (ending(place, "fast"), Vec::new(), kill * 17 % 40);
        until("it has worked for a while", async || {
            printed.extend(actor.printed());
            positions(&printed, "handled ").len() > enough
        })
        .await;
        printed.extend(actor.kill());
        handled.extend(positions(&printed, "handled "));
    }
    let last = ending(place, "fast");
    let mut printed = Vec::new();
    until("all are handled", async || {
        printed.extend(last.printed());
        handled.extend(positions(&printed, "handled "));
        handled.len() == EVENTS && rows(&*store, "work").await.is_empty()
    })
    .await;
    last.kill();
    assert_eq!(progress(&*store).count_dead_rows(1).await.unwrap(), 0);
    std::fs::remove_dir_all(folder).unwrap();
}
