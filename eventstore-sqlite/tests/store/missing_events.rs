//! Events that other software removed: they are found, and the feed stops there.

use std::{path::Path, sync::Mutex, time::Duration};

use crate::common::{fresh_path, open};
use eventbus::{
    BoxError, ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId,
    port::{AppendEvents as _, MissingEvent},
    prelude::*,
    projection::{RebuildError, Rebuilt},
    testkit::event_store::{
        feed_stops_at_a_missing_event, filtered_feed_omits_a_missing_event, missing_ends_of_streams_are_found,
        missing_event_fails_at_its_position, missing_events_are_found,
    },
};
use eventstore_sqlite::SqliteTransaction;

async fn remove(path: &Path, event: &RecordedEvent) {
    let position = event.position().unwrap_or_default().as_i64();
    let mut tx = open(path.to_owned()).await.begin_transaction().await.unwrap();
    tx.execute("DELETE FROM eventbus_events WHERE position = ?1", [position]).unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn the_suite_holds_for_removed_events() {
    let path = fresh_path();
    missing_events_are_found(open(path.clone()).await, async |event| remove(&path, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_removed_ends_of_streams() {
    let path = fresh_path();
    missing_ends_of_streams_are_found(open(path.clone()).await, async |event| remove(&path, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_the_feed() {
    let path = fresh_path();
    feed_stops_at_a_missing_event(open(path.clone()).await, async |event| remove(&path, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_the_filtered_feed() {
    let path = fresh_path();
    filtered_feed_omits_a_missing_event(open(path.clone()).await, async |event| remove(&path, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_events_at_positions() {
    let path = fresh_path();
    missing_event_fails_at_its_position(open(path.clone()).await, async |event| remove(&path, event).await).await;
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Paid {
    cents: i64,
}

#[derive(Default)]
struct InMemory(Vec<i64>);

#[projection(name = "in-memory", manual)]
impl InMemory {
    fn paid(&mut self, event: &Paid) {
        self.0.push(event.cents);
    }
}

#[derive(Default)]
struct Elsewhere(Mutex<Vec<i64>>);

#[projection(name = "elsewhere", manual)]
impl Elsewhere {
    fn paid(&self, event: &Paid) {
        self.0.lock().unwrap().push(event.cents);
    }
}

struct Rows;

#[projection(name = "rows", manual, tables("paid"), key = "id")]
impl Rows {
    async fn paid(&self, event: &Paid, meta: &Metadata, tx: &mut SqliteTransaction) -> Result<(), BoxError> {
        tx.execute("INSERT INTO paid VALUES (?1, ?2)", (meta.aggregate_id().as_str(), event.cents))?;
        Ok(())
    }
}

fn check_refusal(refused: Result<Rebuilt, RebuildError>, wanted: &MissingEvent) {
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, RebuildError::MissingEvent { missing, .. } if missing == wanted), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains(&wanted.to_string()) && said.contains("restore it"), "{said}");
}

#[tokio::test]
async fn a_rebuild_refuses_a_store_with_a_missing_event_and_leaves_everything_as_it_was() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    let (one, two) = (StreamId::parse("Order", "1").unwrap(), StreamId::parse("Order", "2").unwrap());
    for (stream, cents) in [(&one, 1), (&one, 2), (&two, 3), (&one, 4), (&two, 5)] {
        let event = NewEvent::from_event(&Paid { cents }).unwrap();
        store.append(stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("CREATE TABLE paid (id TEXT, cents INTEGER)").unwrap();
    let app = App::builder().store(store).projection_with(InMemory::default).projection_with(Elsewhere::default);
    let app = app.projection(Rows).start().await.unwrap();
    let last = Position::new(5);
    let rows = || -> Vec<i64> {
        let mut statement = raw.prepare("SELECT cents FROM paid ORDER BY cents").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let check_unchanged = async || {
        assert_eq!(app.projected::<InMemory>(last).await.unwrap().0, [1, 2, 3, 4, 5]);
        assert_eq!(*app.projected::<Elsewhere>(last).await.unwrap().0.lock().unwrap(), [1, 2, 3, 4, 5]);
        drop(app.projected::<Rows>(last).await.unwrap());
        assert_eq!(rows(), [1, 2, 3, 4, 5]);
    };
    check_unchanged().await;
    raw.execute_batch(
        "CREATE TABLE copy AS SELECT * FROM eventbus_events;
         DELETE FROM eventbus_events WHERE position = 2",
    )
    .unwrap();
    let missing = MissingEvent { stream: one.clone(), version: 2.into() };
    check_refusal(app.rebuild::<InMemory>().await, &missing);
    check_refusal(app.rebuild::<Elsewhere>().await, &missing);
    check_refusal(app.rebuild::<Rows>().await, &missing);
    check_refusal(app.rebuild_aggregate::<Rows>(&one).await, &missing);
    check_unchanged().await;
    let of_another = app.rebuild_aggregate::<Rows>(&two).await.unwrap();
    assert_eq!(of_another.events, 2, "no event of this aggregate is missing");
    raw.execute_batch("INSERT INTO eventbus_events SELECT * FROM copy WHERE position = 2").unwrap();
    assert_eq!(app.rebuild::<InMemory>().await.unwrap().events, 5);
    assert_eq!(app.rebuild::<Rows>().await.unwrap().events, 5);
    assert_eq!(app.rebuild_aggregate::<Rows>(&one).await.unwrap().events, 3);
    check_unchanged().await;
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}
