//! Handlers and projections that take the store's transaction, in an app on a clock that the test moves.
#![allow(clippy::unwrap_used, reason = "tests only, though not all functions are marked as such")]

use std::time::Duration;

use eventbus::{HandlerError, port::Transactions as _, prelude::*, testkit::TestApp};
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

#[tokio::test]
async fn handlers_and_projections_write_their_rows_once() {
    let store = SqliteEventStore::in_memory().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let sql: &mut SqliteTransaction = tx.as_any_mut().downcast_mut().unwrap();
    sql.execute("CREATE TABLE sums (name TEXT PRIMARY KEY, cents INTEGER NOT NULL)", ()).unwrap();
    tx.commit().await.unwrap();
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
