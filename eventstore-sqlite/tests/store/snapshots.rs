//! Snapshots that cannot be used: a read returns what it returns without them.

use std::path::{Path, PathBuf};

use crate::common::{events, fresh_path, fresh_stream, open};
use eventbus::{
    AggregateRepository, ExpectedVersion, Name, Never, RecordedEvent, StreamId, Version,
    port::{
        AppendEvents as _, Direction, EventStore as _, ReadError, ReadStream as _, RecordStream, SnapshotError,
        Snapshots as _, StoredSnapshot,
    },
    prelude::*,
};
use eventstore_sqlite::SqliteEventStore;
use futures_util::TryStreamExt as _;

const FOLD: Name = Name::from_static("Balance");

fn snapshot(version: u64) -> StoredSnapshot {
    StoredSnapshot { version: version.into(), data: version.to_string().into_bytes() }
}

fn change(path: &Path, sql: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

/// A store with five events of a stream, and a snapshot of it at version 3.
async fn with_snapshot() -> (SqliteEventStore, PathBuf, StreamId) {
    let (path, stream) = (fresh_path(), fresh_stream());
    let store = open(path.clone()).await;
    store.append(&stream, ExpectedVersion::NoStream, events(5)).await.unwrap();
    assert!(store.save_snapshot(&stream, &FOLD, &snapshot(3)).await.unwrap());
    (store, path, stream)
}

async fn read(
    store: &SqliteEventStore,
    stream: &StreamId,
) -> Result<(Option<StoredSnapshot>, Vec<RecordedEvent>), ReadError> {
    let read = store.read_from_snapshot(stream, &FOLD).await?;
    Ok((read.snapshot, read.events.try_collect().await?))
}

async fn all(events: RecordStream<'_>) -> Result<Vec<RecordedEvent>, String> {
    events.try_collect().await.map_err(|error: ReadError| error.to_string())
}

#[tokio::test]
async fn damaged_snapshot_is_absent_until_one_replaces_it() {
    for damage in ["version = -3", "version = 0", "version = 6", "version = 9223372036854775807"] {
        let (store, path, stream) = with_snapshot().await;
        let plain = all(store.read_stream(&stream, Version::FIRST, Direction::Forward)).await.unwrap();
        change(&path, &format!("UPDATE eventbus_snapshots SET {damage}"));
        assert_eq!(read(&store, &stream).await.unwrap(), (None, plain.clone()), "{damage}");
        assert!(store.save_snapshot(&stream, &FOLD, &snapshot(2)).await.unwrap(), "{damage}");
        assert_eq!(read(&store, &stream).await.unwrap(), (Some(snapshot(2)), plain[2..].to_vec()), "{damage}");
    }
}

#[tokio::test]
async fn store_without_the_table_reads_all_events_and_refuses_to_save() {
    let (store, path, stream) = with_snapshot().await;
    let plain = all(store.read_stream(&stream, Version::FIRST, Direction::Forward)).await.unwrap();
    for change_of_table in [
        // columns that STRICT would not accept
        "DROP TABLE eventbus_snapshots;
        CREATE TABLE eventbus_snapshots (stream_no, fold, version, taken_at, data, PRIMARY KEY (stream_no, fold));
        INSERT INTO eventbus_snapshots SELECT stream_no, 'Balance', 3, 0, 'text' FROM eventbus_streams",
        "DROP TABLE eventbus_snapshots",
    ] {
        change(&path, change_of_table);
        assert_eq!(read(&store, &stream).await.unwrap(), (None, plain.clone()), "{change_of_table}");
    }
    store.save_snapshot(&stream, &FOLD, &snapshot(4)).await.unwrap_err();
}

#[tokio::test]
async fn missing_event_behind_a_snapshot_is_an_error_and_one_before_it_is_not() {
    let (store, path, stream) = with_snapshot().await;
    let plain = all(store.read_stream(&stream, Version::FIRST, Direction::Forward)).await.unwrap();
    change(&path, "DELETE FROM eventbus_events WHERE version <= 3");
    assert_eq!(read(&store, &stream).await.unwrap(), (Some(snapshot(3)), plain[3..].to_vec()));
    change(&path, "DELETE FROM eventbus_events WHERE version = 4");
    let error = read(&store, &stream).await.unwrap_err().to_string();
    assert!(error.contains(&format!("event 4 of stream `{stream}`")), "{error}");
}

#[tokio::test]
async fn snapshots_are_refused_inside_a_transaction_of_the_same_task() {
    let (store, _, stream) = with_snapshot().await;
    let transactions = store.transactions().unwrap();
    let open = transactions.begin().await.unwrap();
    let error = store.save_snapshot(&stream, &FOLD, &snapshot(4)).await.unwrap_err();
    drop(open);
    assert!(matches!(error, SnapshotError::Refused { .. }) && !error.is_retryable(), "{error:?}");
    assert!(store.save_snapshot(&stream, &FOLD, &snapshot(4)).await.unwrap());
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Ledger)]
struct Entered {
    cents: u64,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Entered), snapshot(every = 100))]
struct Ledger {
    entered: Vec<u64>,
}

impl Apply for Ledger {
    fn apply(&mut self, LedgerEvent::Entered(event): &LedgerEvent) {
        self.entered.push(event.cents);
    }
}

fn enter<const N: usize>(cents: [u64; N]) -> impl Fn(&Ledger) -> Result<[Entered; N], Never> {
    move |_| Ok(cents.map(|cents| Entered { cents }))
}

#[tokio::test]
async fn kept_state_whose_event_was_archived_is_read_anew_from_a_snapshot() {
    let (path, id) = (fresh_path(), AggregateId::new());
    let ledgers = AggregateRepository::<Ledger>::new(open(path.clone()).await);
    let kept = ledgers.clone().with_cache(10);
    kept.upsert(&id, enter([1, 2, 3])).await.unwrap();
    ledgers.update(&id, enter([4, 5])).await.unwrap();
    ledgers.snapshot(&id).await.unwrap();
    ledgers.update(&id, enter([6])).await.unwrap();
    change(&path, "DELETE FROM eventbus_events WHERE version <= 4; UPDATE eventbus_streams SET archived_through = 4");
    assert_eq!(kept.load(&id).await.unwrap().entered, [1, 2, 3, 4, 5, 6]);
    kept.update(&id, enter([7])).await.unwrap();
    assert_eq!(kept.load(&id).await.unwrap().entered, [1, 2, 3, 4, 5, 6, 7]);
}

/// Each statement finds its rows by a key.
#[tokio::test]
async fn statements_search_along_keys() {
    let (_store, path, _) = with_snapshot().await;
    let connection = rusqlite::Connection::open(&path).unwrap();
    for sql in [
        include_str!("../../src/sql/load_snapshot.sql"),
        include_str!("../../src/sql/save_snapshot.sql"),
        include_str!("../../src/sql/forget_snapshot.sql"),
        include_str!("../../src/sql/forget_snapshots.sql"),
        include_str!("../../src/sql/snapshot_batch.sql"),
    ] {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let parameters = vec![rusqlite::types::Null; statement.parameter_count()];
        let plan = statement.query_map(rusqlite::params_from_iter(parameters), |row| row.get(3)).unwrap();
        let plan: Vec<String> = plan.collect::<Result<_, _>>().unwrap();
        let scans = plan.iter().filter(|step| step.starts_with("SCAN") && !step.contains("subquery"));
        assert_eq!(scans.count(), 0, "{sql}\n{plan:#?}");
    }
}
