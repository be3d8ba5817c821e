//! Four processes with eight writers each, which decide on kept states: every decision saw the replay of the events
//! before its own, on every store that processes share.
//!
//! A process is a second run of this test binary, with its role in environment variables.

use std::{env, path::Path, sync::Arc};

use eventbus::{AggregateRepository, Never, UpdateError, port::EventStore, prelude::*};
use eventbus_test::internal::Actor;
use workspace_tests::stores;

const PROCESSES: usize = 4;
const WRITERS: usize = 8;
const UPDATES: usize = 30;
const ACCOUNTS: usize = 6;

/// The variable with the kind of the store and its place.
const STORE_VARIABLE: &str = "CACHED_WRITERS_STORE";

/// A change of a balance, with the state that the decision saw.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Moved {
    by: i64,
    seen_balance: i64,
    seen_moves: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Aggregate)]
#[aggregate(events(Moved))]
struct Account {
    balance: i64,
    moves: u64,
    /// Set if an event was decided on a different state than that of the events before it.
    is_broken: bool,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Moved(event): &AccountEvent) {
        self.is_broken |= (event.seen_balance, event.seen_moves) != (self.balance, self.moves);
        self.balance += event.by;
        self.moves += 1;
    }
}

impl Account {
    fn move_by(&self, by: i64) -> Moved {
        Moved { by, seen_balance: self.balance, seen_moves: self.moves }
    }
}

fn id(number: usize) -> AggregateId {
    format!("account-{number}").parse().unwrap()
}

async fn open(place: &str) -> Arc<dyn EventStore> {
    match place.split_once(' ').unwrap() {
        ("postgres", schema) => Arc::new(stores::postgres(schema).await),
        ("redis", prefix) => Arc::new(stores::redis(prefix).await),
        (_, folder) => Arc::new(stores::sqlite(Path::new(folder)).await),
    }
}

/// Writes until done, with fewer states kept than there are accounts.
async fn write(accounts: AggregateRepository<Account>, uncached: AggregateRepository<Account>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..UPDATES {
        let id = id(random.usize(..ACCOUNTS));
        let by = random.i64(-100..100);
        match accounts.upsert(&id, |account| Ok::<_, Never>(account.move_by(by))).await {
            Err(UpdateError::Save(error)) if error.is_conflict() => {} // every retry was late
            saved => drop(saved.unwrap()),
        }
        if random.u8(..8) == 0 {
            let loaded = accounts.load(&id).await.unwrap();
            let replayed = uncached.load_at(&id, loaded.version()).await.unwrap();
            assert_eq!(loaded.state(), replayed.state(), "{id} at version {}", loaded.version());
        }
    }
}

/// The role of the processes; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_writes() {
    let Ok(place) = env::var(STORE_VARIABLE) else {
        return;
    };
    let store = open(&place).await;
    let uncached = AggregateRepository::<Account>::new(Arc::clone(&store));
    let accounts = AggregateRepository::<Account>::new(store).with_cache(ACCOUNTS - 2);
    let seed = u64::from(std::process::id());
    let writers: Vec<_> = (0..WRITERS as u64)
        .map(|number| tokio::spawn(write(accounts.clone(), uncached.clone(), seed * 100 + number)))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn every_decision_sees_the_replay(place: &str) {
    let store = open(place).await;
    let processes: Vec<_> = (0..PROCESSES)
        .map(|_| Actor::play("cached_writers::a_process_that_writes", &[(STORE_VARIABLE, place)]))
        .collect();
    for process in processes {
        let (status, printed) = tokio::task::spawn_blocking(|| process.wait()).await.unwrap();
        assert!(status.success(), "{printed:#?}");
    }
    let accounts = AggregateRepository::<Account>::new(store);
    let mut moves = 0;
    for number in 0..ACCOUNTS {
        let account = accounts.load(&id(number)).await.unwrap();
        assert!(!account.is_broken, "an event of account {number} was decided on a stale state");
        moves += account.moves;
    }
    let most = (PROCESSES * WRITERS * UPDATES) as u64;
    assert!(moves > most / 2 && moves <= most, "{moves} of {most} updates were saved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    every_decision_sees_the_replay(&format!("postgres {}", eventbus_test::unique_name("cached"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis() {
    every_decision_sees_the_replay(&format!("redis {}", eventbus_test::unique_name("cached"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_sqlite_file() {
    let folder = stores::folder("cached");
    every_decision_sees_the_replay(&format!("sqlite {}", folder.display())).await;
    std::fs::remove_dir_all(folder).unwrap();
}
