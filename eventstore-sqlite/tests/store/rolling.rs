//! Two releases of a projection with rows, one after the other on one file.

use std::time::{Duration, Instant};

use crate::common::fresh_path;
use eventbus::{BoxError, ExpectedVersion, NewEvent, StreamId, port::AppendEvents as _, prelude::*};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "RollingOrder", type = "RollingPlaced")]
struct Placed {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "RollingOrder", type = "RollingShipped")]
struct Shipped {}

const SET_UP: &str = "CREATE TABLE IF NOT EXISTS rolling_rows (what TEXT NOT NULL)";

fn insert(tx: &mut SqliteTransaction, what: &str) -> Result<(), BoxError> {
    tx.execute("INSERT INTO rolling_rows VALUES (?1)", [what])?;
    Ok(())
}

/// The projection as the older release has it.
struct OldRows;

#[projection(name = "rolling-rows", tables("rolling_rows"), set_up = SET_UP, manual)]
impl OldRows {
    async fn placed(&self, _event: &Placed, tx: &mut SqliteTransaction) -> Result<(), BoxError> {
        insert(tx, "placed")
    }
}

/// As the newer one has it, with a method that yields within its transaction.
struct NewRows;

#[projection(name = "rolling-rows", tables("rolling_rows"), set_up = SET_UP, manual)]
impl NewRows {
    async fn placed(&self, _event: &Placed, tx: &mut SqliteTransaction) -> Result<(), BoxError> {
        tokio::task::yield_now().await;
        insert(tx, "placed")
    }

    async fn shipped(&self, _event: &Shipped, tx: &mut SqliteTransaction) -> Result<(), BoxError> {
        insert(tx, "shipped")
    }
}

/// Fails if the store takes the statements of the rebuild for those of the transaction that feeds the rows: it refuses them
/// then, and the rebuild is tried again a minute later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missed_events_are_rebuilt_beside_a_backlog_that_is_fed() {
    let store = SqliteEventStore::open(fresh_path()).await.unwrap();
    let append = async |placed: usize, shipped: usize| {
        let mut events: Vec<_> = (0..placed).map(|_| NewEvent::from_event(&Placed {}).unwrap()).collect();
        events.extend((0..shipped).map(|_| NewEvent::from_event(&Shipped {}).unwrap()));
        let stream = StreamId::new(eventbus::Name::from_static("RollingOrder"), AggregateId::new());
        store.append(&stream, ExpectedVersion::NoStream, events).await.unwrap()
    };
    append(5, 5).await;
    let last = append(1, 0).await[0].position().unwrap();
    let old = App::builder().store(store.clone()).projection(OldRows).start().await.unwrap();
    drop(old.projected::<OldRows>(last).await.unwrap());
    old.shutdown(Duration::from_secs(30)).await.unwrap();

    append(5_000, 0).await;
    let new = App::builder().store(store.clone()).projection(NewRows).start().await.unwrap();
    let count = async |what: &'static str| {
        let count = move |connection: &eventstore_sqlite::rusqlite::Connection| -> Result<i64, BoxError> {
            let sql = "SELECT count(*) FROM rolling_rows WHERE what = ?1";
            Ok(connection.query_row(sql, [what], |row| row.get(0))?)
        };
        store.read(count).await.unwrap()
    };
    let began = Instant::now();
    while (count("placed").await, count("shipped").await) != (5_006, 5) {
        assert!(began.elapsed() < Duration::from_secs(50), "{} {}", count("placed").await, count("shipped").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    new.shutdown(Duration::from_secs(30)).await.unwrap();
}
