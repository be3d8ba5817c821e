//! Handlers and projections that take the store's transaction, in an app on a clock that the test moves.
#![allow(clippy::unwrap_used, reason = "tests only, though not all functions are marked as such")]

use std::time::Duration;

use eventbus::{
    ExpectedVersion, HandlerError, NewEvent, Position, StreamId,
    app::ReplayError,
    port::{AppendEvents as _, Transactions as _},
    prelude::*,
    testkit::{ManualClock, TestApp},
};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Placed {
    cents: i64,
}

const ADD: &str = "INSERT INTO sums VALUES (?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + excluded.cents";

#[handler(manual)]
async fn sum(event: &Placed, tx: &mut SqliteTransaction, attempt: Attempt) -> Result<(), HandlerError> {
    tx.execute(ADD, ("handler", event.cents))?;
    match attempt.0 {
        1 => Err(HandlerError::retry_after(Duration::from_hours(2), "not yet")),
        _ => Ok(()),
    }
}

#[handler(manual)]
async fn add(event: &Placed, tx: &mut SqliteTransaction) -> Result<(), HandlerError> {
    tx.execute(ADD, ("replay", event.cents))?;
    Ok(())
}

#[derive(Debug)]
struct Sums;

#[projection(name = "sums", manual)]
impl Sums {
    fn placed(&self, event: &Placed, tx: &mut SqliteTransaction) -> Result<(), HandlerError> {
        tx.execute(ADD, ("projection", event.cents))?;
        Ok(())
    }
}

async fn sum_of(store: &SqliteEventStore, name: &str) -> i64 {
    let mut tx = store.begin().await.unwrap();
    let tx: &mut SqliteTransaction = tx.as_any_mut().downcast_mut().unwrap();
    let read = "SELECT coalesce(sum(cents), 0) FROM sums WHERE name = ?1";
    tx.connection().unwrap().query_row(read, [name], |row| row.get(0)).unwrap()
}

async fn execute(store: &SqliteEventStore, statement: &str) {
    let mut tx = store.begin().await.unwrap();
    let sql: &mut SqliteTransaction = tx.as_any_mut().downcast_mut().unwrap();
    sql.execute(statement, ()).unwrap();
    tx.commit().await.unwrap();
}

async fn store_with_sums() -> SqliteEventStore {
    let store = SqliteEventStore::in_memory().await.unwrap();
    execute(&store, "CREATE TABLE sums (name TEXT PRIMARY KEY, cents INTEGER NOT NULL)").await;
    store
}

#[tokio::test]
async fn handlers_and_projections_write_their_rows_once() {
    let store = store_with_sums().await;
    let of_app = store.clone();
    let app = TestApp::start(move || App::builder().store(of_app.clone()).handler::<sum>().projection(Sums)).await;
    app.save("o-1", [Placed { cents: 100 }, Placed { cents: 20 }]).await;
    app.settle().await;
    assert_eq!((sum_of(&store, "handler").await, sum_of(&store, "projection").await), (0, 120));
    app.advance(Duration::from_hours(1)).await;
    assert_eq!((app.handled::<sum>(), sum_of(&store, "handler").await), (0, 0));
    app.advance(Duration::from_hours(3)).await;
    assert_eq!((app.handled::<sum>(), sum_of(&store, "handler").await), (2, 120));
    app.deliver_again().await;
    assert_eq!((app.handled::<sum>(), sum_of(&store, "handler").await), (4, 120));
}

#[tokio::test]
async fn a_replay_tells_what_was_handled_before_and_ends_if_no_transaction_begins() {
    let (store, manual) = (store_with_sums().await, ManualClock::new());
    let placed = [1, 2].map(|cents| NewEvent::from_event(&Placed { cents }).unwrap()).to_vec();
    store.append(&StreamId::parse("Order", "o-1").unwrap(), ExpectedVersion::NoStream, placed).await.unwrap();
    let replay = || {
        let app = App::builder().store(store.clone()).clock(manual.clone()).handler::<add>();
        async move { app.replay("add", Position::START, None, drop).await }
    };
    for (events, skipped) in [(2, 0), (0, 2)] {
        let replayed = replay().await.unwrap();
        assert_eq!((replayed.events, replayed.skipped, sum_of(&store, "replay").await), (events, skipped, 3));
    }
    execute(&store, "DROP TABLE eventbus_deliveries").await;
    let mut replaying = std::pin::pin!(replay());
    let error = loop {
        tokio::select! {
            ended = &mut replaying => break ended.unwrap_err(),
            waits = manual.wait_for_sleeper(Duration::from_millis(1)) => manual.advance(waits),
        }
    };
    let error = error.into_inner().downcast::<ReplayError>().unwrap();
    let ReplayError::Failed { position, reason, .. } = *error else { panic!("{error}") };
    assert!(position.get() == 1 && reason.contains("cannot begin a transaction: "), "{reason}");
    assert!(reason.contains("eventbus_deliveries"), "{reason}");
}
