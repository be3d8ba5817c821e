//! Handlers that read the store: two processes on one store share the events, and one that is killed is replaced.
//!
//! Each process is a second run of this test binary, with its role in environment variables.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::Arc,
    time::Duration,
};

use eventbus::{ExpectedVersion, Name, NewEvent, StreamId, port::EventStore, prelude::*};
use eventbus_test::internal::Actor;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::unfinished::{folder, opened, until};

const AGGREGATES: usize = 20;
const EVENTS: usize = 15;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Parcel")]
struct Moved {}

#[handler(manual, concurrency = 4)]
async fn track(_: &Moved, meta: &Metadata) {
    let (aggregate, version) = (meta.aggregate_id(), meta.version());
    println!("began {aggregate} {version}");
    tokio::time::sleep(Duration::from_millis(3)).await;
    println!("ended {aggregate} {version}");
}

/// The role of a process with the handler; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_tracks() {
    let Ok(place) = env::var("TRACKED_STORE") else {
        return;
    };
    Actor::end_with_parent();
    let app = App::builder().store(opened(&place).await).handler::<track>();
    let _app = app.start().await.unwrap();
    std::future::pending().await
}

/// What a process has printed.
struct Process {
    actor: Actor,
    printed: Vec<String>,
}

impl Process {
    fn start(place: &str) -> Self {
        let variables = [("TRACKED_STORE", place), ("DATABASE_URL", eventbus_test::postgres_url())];
        let actor = Actor::play("handlers_on_store::the_process_that_tracks", &variables);
        Self { actor, printed: Vec::new() }
    }

    /// Returns the events that the process has begun or ended, in order.
    fn runs(&mut self, word: &str) -> Vec<(String, u64)> {
        self.printed.extend(self.actor.printed());
        let run = |line: &String| {
            let (aggregate, version) = line.split_once(word)?.1.trim().split_once(' ')?;
            Some((aggregate.to_owned(), version.parse().ok()?))
        };
        self.printed.iter().filter_map(run).collect()
    }

    fn kill(mut self) -> Vec<(String, u64)> {
        self.printed.extend(self.actor.kill());
        let run = |line: &String| {
            let (aggregate, version) = line.split_once("ended ")?.1.trim().split_once(' ')?;
            Some((aggregate.to_owned(), version.parse().ok()?))
        };
        self.printed.iter().filter_map(run).collect()
    }
}

async fn move_parcels(store: &dyn EventStore) {
    for number in 0..AGGREGATES * EVENTS {
        let stream = StreamId::parse("Parcel", &format!("p{}", number % AGGREGATES)).unwrap();
        let event = NewEvent::new(Name::from_static("Moved"), 1, "{}");
        store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
}

/// In one process, the runs of an aggregate begin in the order of its events.
fn assert_in_order(runs: &[(String, u64)]) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for (aggregate, version) in runs {
        let before = last.insert(aggregate, *version);
        assert!(before.is_none_or(|before| before < *version), "{aggregate}: {version} began after {before:?}");
    }
}

async fn each_event_is_handled_by_one_process_and_a_killed_one_is_replaced(place: &str) {
    let store = opened(place).await;
    let (mut one, mut other) = (Process::start(place), Process::start(place));
    let progress = store.handler_progress().unwrap();
    until("a process owns the handler", async || {
        progress.list_handlers().await.unwrap().iter().any(|listed| listed.shards[0].owner.is_some())
    })
    .await;
    move_parcels(&*store).await;
    until("a third is handled", async || {
        one.runs("ended ").len() + other.runs("ended ").len() > AGGREGATES * EVENTS / 3
    })
    .await;
    let (owner, mut standby) = match one.runs("began ").is_empty() {
        true => (other, one),
        false => (one, other),
    };
    assert_eq!(standby.runs("began "), [], "one process has the only shard");
    let mut ended = owner.kill();
    let all = AGGREGATES * EVENTS;
    until("the other process has handled the rest", async || {
        let now: BTreeSet<_> = ended.iter().cloned().chain(standby.runs("ended ")).collect();
        now.len() == all
    })
    .await;
    assert_in_order(&standby.runs("began "));
    ended.extend(standby.runs("ended "));
    let repeated = ended.len() - all;
    // four run at once, and what ended within the last 20 ms is not saved
    assert!(repeated <= 4 * 8, "{repeated} events were handled twice");
    until("the progress is saved", async || {
        let listed = progress.list_handlers().await.unwrap();
        let shard = &listed[0].shards[0];
        (shard.waiting, shard.started, listed[0].waiting_rows) == (0, 0, 0)
            && shard.checkpoint == store.head().await.unwrap()
    })
    .await;
    drop(standby.kill());
    drop(Arc::clone(&store));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_each_event_is_handled_by_one_process_and_a_killed_one_is_replaced() {
    let folder = folder();
    let place = folder.join("tracked.db");
    each_event_is_handled_by_one_process_and_a_killed_one_is_replaced(place.to_str().unwrap()).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_each_event_is_handled_by_one_process_and_a_killed_one_is_replaced() {
    let place = format!("schema {}", eventbus_test::unique_name("tracked"));
    each_event_is_handled_by_one_process_and_a_killed_one_is_replaced(&place).await;
}

#[tokio::test]
async fn on_postgres_a_handler_has_a_lease_of_10_s_by_default() {
    let schema = eventbus_test::unique_name("tracked");
    let store = opened(&format!("schema {schema}")).await;
    let app = App::builder().store(Arc::clone(&store)).handler::<track>().start().await.unwrap();
    until("it owns the handler", async || {
        let listed = store.handler_progress().unwrap().list_handlers().await.unwrap();
        listed.iter().any(|listed| listed.shards[0].owner.is_some())
    })
    .await;
    let mut connection = sqlx::PgConnection::connect(eventbus_test::postgres_url()).await.unwrap();
    let lease = format!("SELECT extract(epoch FROM expires_at - renewed_at)::float8 FROM {schema}.handler_shards");
    let seconds: Vec<f64> = sqlx::query_scalar(AssertSqlSafe(lease)).fetch_all(&mut connection).await.unwrap();
    assert_eq!(seconds, [10.0]);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn an_idle_app_on_sqlite_writes_nothing() {
    let folder = folder();
    let path = folder.join("idle.db");
    let store = opened(path.to_str().unwrap()).await;
    move_parcels(&*store).await;
    let app = App::builder().store(Arc::clone(&store)).handler::<track>().start().await.unwrap();
    app.settled().await.unwrap();
    until("the progress is saved", async || {
        let progress = store.handler_progress().unwrap().list_handlers().await.unwrap().remove(0);
        progress.shards[0].checkpoint == store.head().await.unwrap()
    })
    .await;
    let written = || [&path, &folder.join("idle.db-wal")].map(|file| std::fs::read(file).unwrap());
    let before = written();
    // the time of several heartbeats
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(before == written());
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}
