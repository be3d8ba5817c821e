//! Loads from snapshots on every store: damaged ones, and processes that are killed while they take them.
//!
//! A process is a second run of this test binary, with its role in environment variables.

use std::{env, path::Path, sync::Arc, time::Duration};

use eventbus::{
    AggregateRepository, InMemoryEventStore, Name, Never, StreamId,
    port::{EventStore, StoredSnapshot},
    prelude::*,
};
use eventbus_test::internal::Actor;
use workspace_tests::stores;

const ACCOUNTS: usize = 3;

/// The variable with the kind of the store and its place.
const STORE_VARIABLE: &str = "SNAPSHOTS_STORE";

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Moved {
    by: i64,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Moved), type = "Account", event = AccountEvent, snapshot(every = 2))]
struct Account {
    balance: i64,
    moves: Vec<i64>,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Moved(event): &AccountEvent) {
        self.balance += event.by;
        self.moves.push(event.by);
    }
}

/// The name of the fold, as the derive makes it.
fn fold() -> Name {
    Name::new("fold", concat!(module_path!(), "::Account")).unwrap()
}

fn stream(id: &AggregateId) -> StreamId {
    Account::stream(id)
}

fn ids() -> Vec<AggregateId> {
    (0..ACCOUNTS).map(|number| format!("account-{number}").parse().unwrap()).collect()
}

async fn open(place: &str) -> Arc<dyn EventStore> {
    match place.split_once(' ').unwrap() {
        ("postgres", schema) => Arc::new(stores::postgres(schema).await),
        ("redis", prefix) => Arc::new(stores::redis(prefix).await),
        (_, folder) => Arc::new(stores::sqlite(Path::new(folder)).await),
    }
}

/// Compares a load with the replay of all events, which `load_at` makes.
async fn equals_replay(accounts: &AggregateRepository<Account>, id: &AggregateId) {
    let loaded = accounts.load(id).await.unwrap();
    let replayed = accounts.load_at(id, loaded.version()).await.unwrap();
    assert_eq!((loaded.state(), loaded.version()), (replayed.state(), replayed.version()), "{id}");
}

/// Puts damaged, truncated, misplaced and foreign data in the place of a snapshot.
async fn damage_changes_no_state(store: Arc<dyn EventStore>, rounds: usize) {
    let accounts = AggregateRepository::<Account>::new(Arc::clone(&store));
    let id: AggregateId = "damaged".parse().unwrap();
    let append = |moves: std::ops::Range<i64>| moves.map(|by| Moved { by }).collect::<Vec<_>>();
    // one event, so that no snapshot is taken in the background
    accounts.upsert(&id, |_| Ok::<_, Never>(append(0..1))).await.unwrap();
    assert_eq!(accounts.snapshot(&id).await.unwrap(), 1);
    let snapshots = store.snapshots().unwrap();
    let good = snapshots.read_from_snapshot(&stream(&id), &fold()).await.unwrap().snapshot.unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..rounds {
        let mut data = good.data.clone();
        match random.u8(..4) {
            0 => data.truncate(random.usize(..data.len())),
            1 => data = (0..random.usize(..200)).map(|_| random.u8(..)).collect(),
            2 => data.insert(random.usize(..data.len()), random.u8(..)),
            _ => {
                let at = random.usize(..data.len());
                data[at] ^= 1 << random.u8(..8);
            }
        }
        snapshots.remove_snapshot(&stream(&id), &fold()).await.unwrap();
        let damaged = StoredSnapshot { version: 1.into(), data };
        assert!(snapshots.save_snapshot(&stream(&id), &fold(), &damaged).await.unwrap(), "round {round}");
        equals_replay(&accounts, &id).await;
    }
}

/// The role of the process that dies; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies() {
    let Ok(place) = env::var(STORE_VARIABLE) else {
        return;
    };
    let accounts = AggregateRepository::<Account>::new(open(&place).await);
    let writers: Vec<_> = ids()
        .into_iter()
        .map(|id| {
            let accounts = accounts.clone();
            tokio::spawn(async move {
                for by in 0.. {
                    accounts.upsert(&id, |_| Ok::<_, Never>(Moved { by })).await.unwrap();
                    equals_replay(&accounts, &id).await;
                    println!("saved");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Kills a process that takes a snapshot after every second event, again and again.
async fn kills_change_no_state(place: &str, kills: u64) {
    let store = open(place).await;
    let accounts = AggregateRepository::<Account>::new(Arc::clone(&store));
    let mut random = fastrand::Rng::with_seed(5);
    let mut from_snapshot = 0;
    for _ in 0..kills {
        let process = Actor::play("snapshots::a_process_that_dies", &[(STORE_VARIABLE, place)]);
        let process = tokio::task::spawn_blocking(move || {
            process.until(&["saved"]);
            process
        });
        let process = process.await.unwrap();
        // any time will do: the process takes snapshots all the time
        tokio::time::sleep(Duration::from_millis(random.u64(..60))).await;
        let printed = process.kill();
        assert!(!printed.iter().any(|line| line.contains("panicked")), "{printed:#?}");
        for id in ids() {
            if accounts.exists(&id).await.unwrap() {
                equals_replay(&accounts, &id).await;
                let read = store.snapshots().unwrap().read_from_snapshot(&stream(&id), &fold()).await.unwrap();
                from_snapshot += u64::from(read.snapshot.is_some());
            }
        }
    }
    assert!(from_snapshot > kills, "{from_snapshot} loads began with a snapshot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    damage_changes_no_state(Arc::new(InMemoryEventStore::new()), 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    let place = format!("postgres {}", eventbus_test::unique_name("snapshots"));
    damage_changes_no_state(open(&place).await, 300).await;
    kills_change_no_state(&place, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis() {
    let place = format!("redis {}", eventbus_test::unique_name("snapshots"));
    damage_changes_no_state(open(&place).await, 300).await;
    kills_change_no_state(&place, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() {
    let folder = stores::folder("snapshots");
    let place = format!("sqlite {}", folder.display());
    damage_changes_no_state(open(&place).await, 300).await;
    kills_change_no_state(&place, 8).await;
    std::fs::remove_dir_all(folder).unwrap();
}
