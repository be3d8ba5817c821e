//! Reactions of handlers, on every store that outlives its process: each event is reacted to once, though the processes
//! die before and after each step.
//!
//! A process is a second run of this test binary, with its role in environment variables.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests; the process that dies prints")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::Path,
    sync::Arc,
    time::Duration,
};

use eventbus::{
    AggregateRepository, Never, Position,
    port::{EventStore, FeedFilter},
    prelude::*,
};
use futures_util::TryStreamExt as _;
use test_servers::Actor;
use workspace_tests::{
    fire::failpoints::{CrashPoint, FailPointStore, FailPoints},
    stores,
};

const ROUNDS: u64 = 12;
const ORDERS: u64 = 15;
const TALLIES: u64 = 4;

/// The variables with the kind of the store and its place, and with the fail point.
const STORE_VARIABLE: &str = "REACTIONS_STORE";
const CRASH_VARIABLE: &str = "REACTIONS_CRASH";

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct Placed {
    number: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Placed))]
struct Order;

impl Apply for Order {
    fn apply(&mut self, _event: &OrderEvent) {}
}

/// What a reaction saves to each of two tallies, with the state that it saw.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Tally)]
struct Counted {
    number: u64,
    seen: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Counted))]
struct Tally {
    counted: u64,
}

impl Apply for Tally {
    fn apply(&mut self, _event: &TallyEvent) {
        self.counted += 1;
    }
}

/// The two tallies that count an order.
fn tallies(number: u64) -> [AggregateId; 2] {
    [number % TALLIES, (number + 1) % TALLIES].map(|tally| format!("tally-{tally}").parse().unwrap())
}

#[handler(manual)]
async fn count(event: &Placed, tallies_of: Repository<Tally>) -> eventbus::Result<()> {
    for tally in tallies(event.number) {
        let counted = |tally: &Tally| Ok::<_, Never>(Counted { number: event.number, seen: tally.counted });
        tallies_of.upsert(&tally, counted).await?;
    }
    Ok(())
}

async fn open(place: &str) -> Arc<dyn EventStore> {
    match place.split_once(' ').unwrap() {
        ("postgres", schema) => Arc::new(stores::postgres(schema).await),
        ("redis", prefix) => Arc::new(stores::redis(prefix).await),
        (_, folder) => Arc::new(stores::sqlite(Path::new(folder)).await),
    }
}

/// The role of the process that dies; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies() {
    let Ok(place) = env::var(STORE_VARIABLE) else {
        return;
    };
    let crash = env::var(CRASH_VARIABLE).ok().map(|crash| serde_json::from_str::<CrashPoint>(&crash).unwrap());
    let store = FailPointStore::new(open(&place).await, FailPoints::new(crash));
    let lease = Duration::from_millis(200);
    let app = App::builder().store(store).relay_lease(lease).handler::<count>().start().await.unwrap();
    println!("started");
    app.settled().await.unwrap();
    println!("settled");
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}

/// Runs a process until it dies or has handled everything; returns `true` if it has.
async fn run_process(place: &str, crash: Option<CrashPoint>, killed_after: Option<Duration>) -> bool {
    let crash = crash.map(|crash| serde_json::to_string(&crash).unwrap());
    let mut variables = vec![(STORE_VARIABLE, place)];
    variables.extend(crash.as_deref().map(|crash| (CRASH_VARIABLE, crash)));
    let mut process = Actor::play("a_process_that_dies", &variables);
    if let Some(delay) = killed_after {
        tokio::time::sleep(delay).await; // any time will do
        if !process.has_ended() {
            return process.kill().iter().any(|line| line.contains("settled"));
        }
    }
    let (_, printed) = tokio::task::spawn_blocking(move || process.wait()).await.unwrap();
    assert!(!printed.iter().any(|line| line.contains("panicked")), "{printed:#?}");
    printed.iter().any(|line| line.contains("settled"))
}

async fn every_order_is_counted_once(place: &str) {
    let store = open(place).await;
    let orders = AggregateRepository::<Order>::new(Arc::clone(&store));
    let mut random = fastrand::Rng::with_seed(11);
    let mut deaths = 0;
    for round in 0..ROUNDS {
        for number in round * ORDERS..(round + 1) * ORDERS {
            orders.upsert(&AggregateId::new(), |_| Ok::<_, Never>(Placed { number })).await.unwrap();
        }
        let crash = CrashPoint { point: "multi_stream".into(), after: round % 2 == 0, nth: random.u64(1..ORDERS) };
        let settled = match round % 3 {
            2 => run_process(place, None, Some(Duration::from_millis(random.u64(100..400)))).await,
            _ => run_process(place, Some(crash), None).await,
        };
        deaths += u64::from(!settled);
    }
    assert!(deaths >= ROUNDS / 2, "{deaths} processes died");
    assert!(run_process(place, None, None).await, "the last process handles the rest");

    let head = store.head().await.unwrap();
    let events: Vec<_> = store.read_feed(Position::START, head, &FeedFilter::all()).try_collect().await.unwrap();
    let causes: BTreeMap<u64, _> =
        events.iter().filter_map(|event| Some((event.decode::<Placed>().ok()?.number, event.metadata()))).collect();
    let mut counted: BTreeSet<(u64, String)> = BTreeSet::new();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for event in &events {
        let Ok(effect) = event.decode::<Counted>() else { continue };
        let tally = event.metadata().aggregate_id().to_string();
        assert!(counted.insert((effect.number, tally.clone())), "order {} is counted twice", effect.number);
        let before = seen.entry(tally).or_default();
        assert_eq!(effect.seen, *before, "a reaction decided on another state than that before it");
        *before += 1;
        let cause = causes[&effect.number];
        assert_eq!(event.metadata().causation_id(), Some(cause.event_id().as_uuid()));
        assert_eq!(event.metadata().correlation_id(), cause.correlation_id());
    }
    let due: BTreeSet<_> =
        (0..ROUNDS * ORDERS).flat_map(|number| tallies(number).map(|tally| (number, tally.to_string()))).collect();
    assert_eq!(counted, due, "each order is counted by both tallies");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    every_order_is_counted_once(&format!("postgres {}", test_servers::unique_name("reactions"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis() {
    every_order_is_counted_once(&format!("redis {}", test_servers::unique_name("reactions"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() {
    let folder = stores::folder("reactions");
    every_order_is_counted_once(&format!("sqlite {}", folder.display())).await;
    std::fs::remove_dir_all(folder).unwrap();
}
