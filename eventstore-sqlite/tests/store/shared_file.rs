//! Several handles and several processes on one file, and a process that is killed.
//!
//! The processes are second runs of this test binary, with their role in environment variables.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::common::{events, feed, fresh_path, fresh_stream, open, read};
use eventbus::{
    ExpectedVersion, Name, NewEvent, RecordedEvent, StreamId,
    port::{AppendError, AppendEvents as _, Leases as _, ReadFeed as _},
};
use eventbus_test::internal::Actor;
use eventstore_sqlite::{SqliteEventStore, SqliteEventStoreConfig};

const FILE: &str = "EVENTSTORE_SQLITE_TEST_FILE";
const STREAM: &str = "EVENTSTORE_SQLITE_TEST_STREAM";
const APPENDS: &str = "EVENTSTORE_SQLITE_TEST_APPENDS";
const APPENDS_AMONG_OTHERS: u64 = 40;
const OWNED: &str = "EVENTSTORE_SQLITE_TEST_OWNED";

/// Starts a process of writers on one stream; it prints the id of each event whose append was acknowledged.
fn start_writer(path: &Path, stream: &StreamId, appends: usize) -> Actor {
    let (path, appends) = (path.to_str().unwrap(), appends.to_string());
    let variables = [(FILE, path), (STREAM, stream.aggregate_id().as_str()), (APPENDS, &appends)];
    Actor::play("shared_file::writer_process", &variables)
}

/// The role of the writer process; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer_process() {
    let Ok(path) = env::var(FILE) else {
        return;
    };
    Actor::end_with_parent();
    let appends: usize = env::var(APPENDS).unwrap().parse().unwrap();
    let stream = StreamId::parse("Account", &env::var(STREAM).unwrap()).unwrap();
    let store = open(PathBuf::from(path)).await;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, stream) = (store.clone(), stream.clone());
            tokio::spawn(async move {
                for i in 0..appends {
                    let own = fresh_stream();
                    let stream = if (writer + i) % 2 == 0 { &stream } else { &own };
                    let given = events(1 + i % 2);
                    store.append(stream, ExpectedVersion::Any, given.clone()).await.unwrap();
                    acknowledge(&given);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Prints one line per append in one write: every printed event was acknowledged before.
fn acknowledge(events: &[NewEvent]) {
    let ids: Vec<_> = events.iter().map(|event| event.event_id().to_string()).collect();
    let line = format!("ack {}\n", ids.join(" "));
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// The ids of a line; none for a different line, or for one cut off by the death of its writer.
fn acknowledged(line: &str) -> Vec<String> {
    let ids = line.split_once("ack ").map(|(_, ids)| ids.split_whitespace());
    ids.into_iter().flatten().map(Into::into).collect()
}

fn ids(events: &[RecordedEvent]) -> Vec<String> {
    events.iter().map(|event| event.metadata().event_id().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_acknowledged_is_there() {
    for round in 0..5 {
        let (path, stream) = (fresh_path(), fresh_stream());
        let writer = start_writer(&path, &stream, usize::MAX);
        let mut seen: Vec<String> = Vec::new();
        while seen.len() < 100 + 50 * round {
            seen.extend(writer.until(&["ack "]).split_whitespace().map(Into::into));
        }
        // the remaining output; the last line may be cut off
        let mut rest = writer.kill();
        rest.pop();
        seen.extend(rest.iter().flat_map(|line| acknowledged(line)));

        let store = open(path).await;
        let stored = ids(&feed(&store).await);
        for id in &seen {
            assert_eq!(stored.iter().filter(|stored| *stored == id).count(), 1, "event {id}");
        }
        let versions: Vec<_> = read(&store, &stream).await.iter().map(|e| e.version().get()).collect();
        assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
        store.append(&stream, ExpectedVersion::Exact((versions.len() as u64).into()), events(1)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_share_a_file_without_losing_or_refusing_anything() {
    let (path, stream) = (fresh_path(), fresh_stream());
    let writers: Vec<_> = (0..3).map(|_| start_writer(&path, &stream, 150)).collect();
    let mut seen = Vec::new();
    for writer in writers {
        let (ended, lines) = writer.wait();
        assert!(ended.success(), "a writer was refused");
        seen.extend(lines.iter().flat_map(|line| acknowledged(line)));
    }
    let store = open(path).await;
    let mut stored = ids(&feed(&store).await);
    assert_eq!(stored.len(), 3 * 4 * 150 * 3 / 2);
    stored.sort();
    seen.sort();
    assert_eq!(stored, seen);
    let versions: Vec<_> = read(&store, &stream).await.iter().map(|e| e.version().get()).collect();
    assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
}

/// With SQLite's own pauses, a process that waits may miss those of the other one for seconds: in every second or third
/// round, while the other one stores tens of thousands of events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_writes_all_the_time_lets_others_write() {
    let mut by_others = 0;
    for _ in 0..6 {
        let (path, stream) = (fresh_path(), fresh_stream());
        let writer = start_writer(&path, &stream, usize::MAX);
        writer.until(&["ack "]);
        let store = open(path).await;
        let before = store.head().await.unwrap().get();
        for _ in 0..APPENDS_AMONG_OTHERS {
            store.append(&fresh_stream(), ExpectedVersion::NoStream, events(1)).await.unwrap();
        }
        by_others += store.head().await.unwrap().get() - before - APPENDS_AMONG_OTHERS;
    }
    assert!(by_others < 6 * APPENDS_AMONG_OTHERS * 50, "{by_others} events of others");
}

/// The role of a process that owns a lease again and again, and prints each epoch; returns at once in an ordinary run.
#[tokio::test]
async fn owner_process() {
    let (Ok(path), Ok(owned)) = (env::var(OWNED), env::var(APPENDS)) else {
        return;
    };
    Actor::end_with_parent();
    let store = open(PathBuf::from(&path)).await;
    let (role, owner) = (Name::from_static("relay"), Name::new("owner", std::process::id().to_string()).unwrap());
    let mut left: usize = owned.parse().unwrap();
    while left > 0 {
        let Some(lease) = store.acquire_lease(&role, &owner, Duration::from_secs(60)).await.unwrap() else {
            tokio::task::yield_now().await;
            continue;
        };
        // the owner is alone: no second process has made this file
        let mark = PathBuf::from(format!("{path}.owned"));
        std::fs::File::create_new(&mark).unwrap();
        assert!(store.renew_lease(&lease, Duration::from_secs(60)).await.unwrap());
        std::fs::remove_file(&mark).unwrap();
        std::io::stdout().lock().write_all(format!("\nepoch {}\n", lease.epoch).as_bytes()).unwrap();
        store.release_lease(&lease).await.unwrap();
        left -= 1;
    }
}

#[tokio::test]
async fn of_several_processes_one_owns_a_role() {
    let path = fresh_path();
    drop(open(path.clone()).await);
    let start = || Actor::play("shared_file::owner_process", &[(OWNED, path.to_str().unwrap()), (APPENDS, "60")]);
    let mut epochs = Vec::new();
    for owner in [start(), start(), start()] {
        let (ended, lines) = owner.wait();
        assert!(ended.success(), "two owned it, or one lost it");
        let own: Vec<u64> =
            lines.iter().filter_map(|line| line.strip_prefix("epoch ")).map(|epoch| epoch.parse().unwrap()).collect();
        assert!(own.is_sorted_by(|one, next| one < next));
        epochs.extend(own);
    }
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=180).collect::<Vec<_>>(), "each epoch is handed out once");
}

#[tokio::test]
async fn who_waits_too_long_for_another_connection_is_told_so() {
    let (path, stream) = (fresh_path(), fresh_stream());
    let impatient = SqliteEventStoreConfig { busy_timeout: Duration::from_millis(50), ..Default::default() };
    let store = SqliteEventStore::open_with(&path, impatient).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let given = events(1);
    let error = store.append(&stream, ExpectedVersion::NoStream, given.clone()).await.unwrap_err();
    assert!(matches!(error, AppendError::Unavailable(_)) && error.is_retryable(), "{error:?}");
    assert_eq!(feed(&store).await.len(), 0, "reading goes on meanwhile");
    other.execute_batch("ROLLBACK").unwrap();
    store.append(&stream, ExpectedVersion::NoStream, given).await.unwrap();
}

#[tokio::test]
async fn who_waits_long_enough_for_another_connection_is_served() {
    let (path, stream) = (fresh_path(), fresh_stream());
    let store = open(path.clone()).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let (store, stream) = (store.clone(), stream.clone());
            tokio::spawn(async move { store.append(&stream, ExpectedVersion::Any, events(2)).await })
        })
        .collect();
    // a single-threaded runtime: this task would not run if an append blocked its thread
    tokio::task::yield_now().await;
    other.execute_batch("COMMIT").unwrap();
    for append in waiting {
        append.await.unwrap().unwrap();
    }
    assert_eq!(read(&store, &stream).await.len(), 10);
}
