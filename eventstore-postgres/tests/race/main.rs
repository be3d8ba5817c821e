//! The feed under fire: slow, rolled back and killed writers, a foreign writing transaction, repeats and conflicts.
//!
//! A follower of the feed must see every event exactly once and in order. Beside it run readers that are
//! known to be wrong; they must lose events, which proves that the run can detect a loss.

#![allow(clippy::unwrap_used, reason = "as in any test")]

#[path = "../common/mod.rs"]
mod common;
mod readers;
mod verdict;
mod writers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{TestDatabase, connect, open, run, within};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use readers::WrongReader;
use sqlx::Connection as _;
use tokio::task::JoinSet;

/// They stand for processes: their writers share no statements.
const STORES: u32 = 8;
const WRITERS: u32 = 24;
const TIME: Duration = Duration::from_secs(6);

/// Writers are slow between taking their transaction id and drawing positions, and between that and their commit; some
/// roll back at the very end.
const SLOW_DOWN: &str = "
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_current_xact_id();
        IF random() < 0.3 THEN PERFORM pg_sleep(random() * 0.02); END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER slow_claim BEFORE INSERT OR UPDATE ON streams FOR EACH ROW EXECUTE FUNCTION dawdle();
    CREATE FUNCTION commit_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF random() < 0.3 THEN PERFORM pg_sleep(random() * 0.03); END IF;
        IF random() < 0.03 THEN RAISE 'rolled back at commit' USING ERRCODE = 'system_error'; END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION commit_late();
    CREATE TABLE foreign_rows (number integer);";

/// A writer in the middle of a statement, or any follower.
const KILL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = $1
      AND (state = 'active' OR application_name = 'follower') ORDER BY random() LIMIT 1";

const FOREIGN: &str = "BEGIN; INSERT INTO foreign_rows VALUES (1); SELECT pg_sleep(0.1 + random()); COMMIT";

/// The state that all tasks of the race share.
#[derive(Clone)]
struct Race(Arc<(String, AtomicBool)>);

impl Race {
    fn url(&self) -> &str {
        &self.0.0
    }

    fn is_over(&self) -> bool {
        self.0.1.load(Ordering::SeqCst)
    }

    fn end(&self) {
        self.0.1.store(true, Ordering::SeqCst);
    }

    /// A store whose backends are named `name`.
    async fn store(&self, name: &str) -> PgEventStore {
        let url = format!("{}?application_name={name}", self.url());
        let config = PgEventStoreConfig { database_url: url, max_connections: WRITERS, ..Default::default() };
        open(config).await
    }
}

/// Terminates a backend now and then; returns the numbers of terminated writers and followers.
async fn kill(race: Race) -> [usize; 2] {
    let mut connection = connect(race.url()).await;
    let mut kills = [0, 0];
    for round in 0.. {
        if race.is_over() {
            break;
        }
        let victim = usize::from(round % 8 == 7);
        let name = ["writer", "follower"][victim];
        let killed = sqlx::query_scalar::<_, bool>(KILL).bind(name).fetch_all(&mut connection);
        kills[victim] += killed.await.unwrap().len();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    kills
}

async fn write_elsewhere(race: Race) {
    let mut connection = connect(race.url()).await;
    run(&mut connection, "SET search_path TO eventbus").await;
    while !race.is_over() {
        run(&mut connection, FOREIGN).await;
    }
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_seen_once_and_in_order() {
    let database = TestDatabase::create("").await;
    let race = Race(Arc::new((database.url(), AtomicBool::new(false))));
    let mut stores = Vec::new();
    for _ in 0..STORES {
        stores.push(Arc::new(race.store("writer").await));
    }
    run(&mut database.connection().await, SLOW_DOWN).await;

    let follower = tokio::spawn(readers::follow(race.clone()));
    let wrong = WrongReader::ALL.map(|reader| tokio::spawn(reader.follow(race.clone())));
    let killer = tokio::spawn(kill(race.clone()));
    let foreign = tokio::spawn(write_elsewhere(race.clone()));
    let stores = stores.iter().cycle().take(WRITERS as usize);
    let writers: JoinSet<_> = stores.map(|store| writers::write(Arc::clone(store), TIME)).collect();
    let notes = within(writers.join_all()).await;

    race.end();
    let kills = killer.await.unwrap();
    foreign.await.unwrap();
    let seen = within(follower).await.unwrap();
    let truth = verdict::Truth::read(&mut database.connection().await).await;
    verdict::check_streams(&truth);
    verdict::check_answers(&truth, &notes);
    verdict::check_follower(&truth, &seen);

    let mut lost = Vec::new();
    for (reader, task) in WrongReader::ALL.into_iter().zip(wrong) {
        let seen = within(task).await.unwrap();
        lost.push((reader, truth.events.len() - seen));
    }
    eprintln!(
        "{} events, {kills:?} writers and followers killed, {}, lost by wrong readers: {lost:?}",
        truth.events.len(),
        writers::summary(&notes),
    );
    for (reader, lost) in lost {
        assert!(lost > 0, "{reader:?} lost nothing: the race does not tell right from wrong");
    }
    assert!(kills.iter().all(|kills| *kills > 0), "nobody was killed: {kills:?}");
    writers::check_variety(&notes);
}
