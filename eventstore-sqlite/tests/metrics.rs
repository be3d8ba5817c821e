//! Metrics of an app on a file: concurrent writers, rows in transactions, and batches of the store.
#![allow(clippy::unwrap_used, reason = "tests only, though not all functions are marked as such")]

use std::time::{Duration, Instant};

use eventbus::{InMemoryEventBus, metrics::Metrics, port::Transactions as _, prelude::*};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction, SqliteTransactionError};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Tally)]
struct Counted {
    writer: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Counted))]
struct Tally {
    total: u64,
}

impl Apply for Tally {
    fn apply(&mut self, _event: &TallyEvent) {
        self.total += 1;
    }
}

const ADD: &str = "INSERT INTO sums VALUES (?1, 1) ON CONFLICT DO UPDATE SET events = events + 1";

#[handler(manual)]
async fn sum(_: &Counted, tx: &mut SqliteTransaction) -> Result<(), SqliteTransactionError> {
    tx.execute(ADD, ["handler"])?;
    Ok(())
}

#[derive(Debug)]
struct Sums;

#[projection(name = "sums", manual)]
impl Sums {
    fn counted(&self, _: &Counted, tx: &mut SqliteTransaction) -> Result<(), SqliteTransactionError> {
        tx.execute(ADD, ["projection"])?;
        Ok(())
    }
}

async fn rows(store: &SqliteEventStore, name: &str) -> u64 {
    let mut tx = store.begin().await.unwrap();
    let tx: &mut SqliteTransaction = tx.as_any_mut().downcast_mut().unwrap();
    let read = "SELECT coalesce(sum(events), 0) FROM sums WHERE name = ?1";
    tx.connection().unwrap().query_row(read, [name], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned).unwrap()
}

/// Appends events of one writer to an aggregate that all writers share; returns how often another one was first.
async fn write(tallies: AggregateRepository<Tally>, writer: u64, events: u64) -> u64 {
    let (id, mut conflicts) = ("shared".parse().unwrap(), 0);
    for _ in 0..events {
        loop {
            let mut tally = match tallies.find(&id).await.unwrap() {
                Some(tally) => tally,
                None => tallies.create_new(AggregateId::clone(&id)),
            };
            tally.record(Counted { writer });
            match tallies.save(&mut tally).await {
                Ok(_) => break,
                Err(error) if error.is_conflict() => conflicts += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    conflicts
}

fn number(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> u64 {
    metrics.number(name, labels).unwrap_or_else(|| panic!("no {name}")) as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_equal_the_rows_and_what_the_writers_saw() {
    const WRITERS: u64 = 8;
    const EVENTS: u64 = 50;
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::open(folder.path().join("metrics.db")).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let sql: &mut SqliteTransaction = tx.as_any_mut().downcast_mut().unwrap();
    sql.execute("CREATE TABLE sums (name TEXT PRIMARY KEY, events INTEGER NOT NULL)", ()).unwrap();
    tx.commit().await.unwrap();
    let app = App::builder().store(store.clone()).bus(InMemoryEventBus::new()).handler::<sum>().projection(Sums);
    let app = app.start().await.unwrap();

    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(app.repository::<Tally>(), writer, EVENTS))).collect();
    let mut conflicts = 0;
    for writer in writers {
        conflicts += writer.await.unwrap();
    }
    app.settled().await.unwrap();
    let stored = app.store().head().await.unwrap().get();
    assert_eq!(stored, WRITERS * EVENTS);
    app.projected::<Sums>(eventbus::Position::new(stored)).await.unwrap();

    let metrics = app.metrics().await;
    let appends = metrics.distribution("eventbus_append_seconds", &[("outcome", "appended")]).unwrap();
    assert_eq!(appends.count, stored);
    assert!(appends.sum > 0.0);
    assert_eq!(number(&metrics, "eventbus_append_conflicts_total", &[("aggregate", "Tally")]), conflicts);
    assert!(conflicts > 0, "the writers met");
    let runs = [("group", "sum"), ("handler", "sum"), ("outcome", "succeeded")];
    assert_eq!(metrics.distribution("eventbus_handler_seconds", &runs).unwrap().count, rows(&store, "handler").await);
    let sums = [("projection", "sums")];
    assert_eq!(number(&metrics, "eventbus_projection_events_total", &sums), rows(&store, "projection").await);
    assert_eq!(rows(&store, "projection").await, stored);
    assert_eq!(number(&metrics, "eventbus_projection_lag_seconds", &sums), 0);
    assert_eq!(number(&metrics, "eventbus_projection_owner", &sums), 1);
    assert_eq!(number(&metrics, "eventbus_relay_published_total", &[]), stored);

    // the writer counts a batch once its callers have their answers
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let metrics = app.metrics().await;
        let batches = metrics.distribution("eventbus_commit_appends", &[]).unwrap();
        assert!(batches.count <= stored && batches.sum as u64 <= stored);
        if batches.sum as u64 == stored {
            break;
        }
        assert!(Instant::now() < deadline, "{batches:?}");
        tokio::task::yield_now().await;
    }
}
