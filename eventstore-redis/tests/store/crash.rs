//! Servers and connections die during concurrent appends; each acknowledged event is stored, once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use eventbus::{
    ExpectedVersion, NewEvent, Position,
    port::{AppendEvents as _, ReadFeed as _},
};
use futures_util::TryStreamExt as _;
use tokio::task::JoinSet;

use crate::{
    common::{
        store::{config_on, open},
        until,
    },
    events, order,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_are_repeated_over_crashes_are_stored_once_and_in_order() {
    const WRITERS: usize = 4;
    const APPENDS: usize = 150;
    let mut server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    let done = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, done) = (store.clone(), Arc::clone(&done));
        writers.spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..APPENDS {
                let given = events(2);
                ids.extend(given.iter().map(NewEvent::event_id));
                loop {
                    match store.append(&order(&(writer % 3).to_string()), ExpectedVersion::Any, given.clone()).await {
                        Ok(recorded) => {
                            assert_eq!(recorded.len(), 2);
                            break;
                        }
                        Err(error) => assert!(error.is_retryable(), "{error:?}"),
                    }
                    tokio::task::yield_now().await;
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            ids
        });
    }
    for round in 1..=5 {
        until("they write", async || done.load(Ordering::Relaxed) > round * 60).await;
        server.stop();
        server.start();
    }
    let mut times = HashMap::new();
    while let Some(ids) = writers.join_next().await {
        times.extend(ids.unwrap().into_iter().map(|id| (id, 0)));
    }
    let feed: Vec<_> = store.read_all(Position::START).try_collect().await.unwrap();
    let mut versions = HashMap::new();
    for (event, position) in feed.iter().zip(1_u64..) {
        assert_eq!(event.position().unwrap(), position, "positions have no gaps");
        let version = versions.entry(event.metadata().stream().clone()).or_insert(0_u64);
        *version += 1;
        assert_eq!(event.version(), *version);
        *times.get_mut(&event.metadata().event_id()).unwrap() += 1;
    }
    assert_eq!(times.len(), WRITERS * APPENDS * 2);
    assert!(times.values().all(|&times| times == 1));
}
