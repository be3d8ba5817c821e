//! Callers that are cancelled harm no further caller, and a repeated append settles their unknown outcomes.

use std::time::Duration;

use crate::common::{events, feed, fresh_path, fresh_stream, open, read};
use eventbus::{ExpectedVersion, RecordedEvent, port::AppendEvents as _};
use eventstore_sqlite::SqliteEventStore;
use tokio::task::JoinSet;

/// Completes after its task has been polled so many times.
async fn give_up(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

async fn callers_are_cut_off_at_random(store: SqliteEventStore) {
    let shared = fresh_stream();
    let mut callers = JoinSet::new();
    for caller in 0..16_usize {
        let (store, shared) = (store.clone(), shared.clone());
        callers.spawn(async move {
            let mut cut = 0;
            let mut acknowledged = Vec::new();
            for i in 0..24 {
                let own = fresh_stream();
                let (stream, expected) = match (caller + i) % 2 {
                    0 => (&shared, ExpectedVersion::Any),
                    _ => (&own, ExpectedVersion::NoStream),
                };
                // some have more events than a task inserts by itself, so that threads take part
                let given = events(if i % 8 == 7 { 150 } else { 1 + i % 3 });
                let mut patience = fastrand::usize(0..4);
                let recorded = loop {
                    tokio::select! {
                        biased;
                        recorded = store.append(stream, expected, given.clone()) => break recorded,
                        () = give_up(patience) => {}
                    }
                    cut += 1;
                    patience += fastrand::usize(0..50);
                };
                acknowledged.extend(recorded.unwrap());
            }
            (cut, acknowledged)
        });
    }
    let done = callers.join_all().await;
    let cut: usize = done.iter().map(|(cut, _)| cut).sum();
    assert!(cut > 0, "no caller was cut off");
    let mut acknowledged: Vec<RecordedEvent> = done.into_iter().flat_map(|(_, all)| all).collect();
    acknowledged.sort_by_key(RecordedEvent::position);
    assert_eq!(feed(&store).await, acknowledged, "each event once, as acknowledged");
    let versions: Vec<_> = read(&store, &shared).await.iter().map(|e| e.version().get()).collect();
    assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_are_cut_off_on_many_threads() {
    callers_are_cut_off_at_random(open(fresh_path()).await).await;
}

#[tokio::test]
async fn callers_are_cut_off_on_one_thread() {
    callers_are_cut_off_at_random(open(fresh_path()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_are_cut_off_in_memory() {
    callers_are_cut_off_at_random(SqliteEventStore::in_memory().await.unwrap()).await;
}

/// The end of a runtime ends its threads, but not the jobs of callers in a second one.
#[test]
fn a_runtime_that_ends_leaves_no_job_behind() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lasting = runtime();
    let store = lasting.block_on(open(fresh_path()));
    for _ in 0..50 {
        let ending = runtime();
        for _ in 0..8 {
            let store = store.clone();
            // more events than a task inserts by itself: a thread of this runtime inserts them
            ending.spawn(async move { store.append(&fresh_stream(), ExpectedVersion::Any, events(200)).await });
        }
        ending.block_on(tokio::task::yield_now());
        ending.shutdown_background();
        let stream = fresh_stream();
        let append = store.append(&stream, ExpectedVersion::NoStream, events(1));
        let patience = Duration::from_secs(30);
        let appended = lasting.block_on(async { tokio::time::timeout(patience, append).await });
        assert_eq!(appended.unwrap().unwrap().len(), 1);
    }
}
