//! Snapshots that cannot be used: a read returns what it returns without them; and saving one waits for no append.

use crate::common::{TestSchema, add, events, held::Held, read, run, stream, waiting_backend, within};
use eventbus::{
    ExpectedVersion, Name, RecordedEvent, StreamId,
    port::{AppendEvents as _, ReadError, SnapshotError, Snapshots as _, StoredSnapshot},
};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use futures_util::TryStreamExt as _;

const FOLD: Name = Name::from_static("Balance");

fn snapshot(version: u64) -> StoredSnapshot {
    StoredSnapshot { version: version.into(), data: version.to_string().into_bytes() }
}

/// A store with five events of a stream, and a snapshot of it at version 3.
struct WithSnapshot {
    store: PgEventStore,
    stream: StreamId,
    events: Vec<RecordedEvent>,
    schema: TestSchema,
}

impl WithSnapshot {
    async fn new() -> Self {
        let schema = TestSchema::new();
        let (store, stream) = (schema.store().await, stream());
        let events = add(&store, &stream, 5).await;
        assert!(store.save_snapshot(&stream, &FOLD, &snapshot(3)).await.unwrap());
        Self { store, stream, events, schema }
    }

    async fn change(&self, sql: &str) {
        run(&mut self.schema.connection().await, sql).await;
    }

    async fn read(&self) -> Result<(Option<StoredSnapshot>, Vec<RecordedEvent>), ReadError> {
        let read = self.store.read_from_snapshot(&self.stream, &FOLD).await?;
        Ok((read.snapshot, read.events.try_collect().await?))
    }

    /// Checks that a read returns what it returns without snapshots.
    async fn reads_all(&self, reason: &str) {
        assert_eq!(read(&self.store, &self.stream).await, self.events, "{reason}");
        assert_eq!(self.read().await.unwrap(), (None, self.events.clone()), "{reason}");
    }
}

#[tokio::test]
async fn damaged_snapshot_is_absent_until_one_replaces_it() {
    for damage in ["version = -3", "version = 0", "version = 6", "version = 9223372036854775807"] {
        let it = WithSnapshot::new().await;
        it.change(&format!("UPDATE snapshots SET {damage}")).await;
        it.reads_all(damage).await;
        assert!(it.store.save_snapshot(&it.stream, &FOLD, &snapshot(2)).await.unwrap(), "{damage}");
        assert_eq!(it.read().await.unwrap(), (Some(snapshot(2)), it.events[2..].to_vec()), "{damage}");
    }
}

#[tokio::test]
async fn table_that_cannot_be_read_is_no_error_of_a_read() {
    for change in [
        "ALTER TABLE snapshots ALTER data TYPE text USING 'text'",
        "ALTER TABLE snapshots ALTER data DROP NOT NULL; UPDATE snapshots SET data = NULL",
        "ALTER TABLE snapshots ALTER version TYPE text USING 'three'",
        "ALTER TABLE snapshots RENAME version TO of_version",
        "DROP TABLE snapshots",
    ] {
        let it = WithSnapshot::new().await;
        it.change(change).await;
        it.reads_all(change).await;
    }
    let it = WithSnapshot::new().await;
    it.change("DROP TABLE snapshots").await;
    let error = it.store.save_snapshot(&it.stream, &FOLD, &snapshot(4)).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Refused { .. }), "{error:?}");
    assert!(it.store.remove_snapshots(&FOLD).await.is_err());
}

#[tokio::test]
async fn missing_event_behind_a_snapshot_is_an_error_and_one_before_it_is_not() {
    let it = WithSnapshot::new().await;
    it.change("DELETE FROM events WHERE version <= 3").await;
    assert_eq!(it.read().await.unwrap(), (Some(snapshot(3)), it.events[3..].to_vec()));
    it.change("DELETE FROM events WHERE version = 4").await;
    let error = it.read().await.unwrap_err().to_string();
    assert!(error.contains(&format!("event 4 of stream `{}`", it.stream)), "{error}");
}

#[tokio::test]
async fn saving_waits_for_no_append_and_no_append_for_it() {
    let mut held = Held::new().await;
    let store = held.schema.store().await;
    // the row of the stream is locked
    assert!(within(store.save_snapshot(&held.stream, &FOLD, &snapshot(1))).await.unwrap());
    let read = within(store.read_from_snapshot(&held.stream, &FOLD)).await.unwrap();
    assert_eq!(read.snapshot, Some(snapshot(1)));
    assert!(within(store.remove_snapshot(&held.stream, &FOLD)).await.unwrap());
    held.release().await;

    let mut saver = held.schema.connection().await;
    assert!(store.save_snapshot(&held.stream, &FOLD, &snapshot(1)).await.unwrap());
    run(&mut saver, "BEGIN; SELECT 1 FROM snapshots FOR UPDATE").await;
    within(store.append(&held.stream, ExpectedVersion::Any, events(1))).await.unwrap();
    run(&mut saver, "ROLLBACK").await;
}

/// A saver that waits for a concurrent one sees a version that the stream did not have when its statement began: that is
/// no damage.
#[tokio::test]
async fn saver_that_waited_does_not_take_a_later_snapshot_for_damage() {
    let it = WithSnapshot::new().await;
    let (mut concurrent, mut watcher) = (it.schema.connection().await, it.schema.connection().await);
    run(&mut concurrent, "BEGIN; UPDATE snapshots SET version = 6, data = '6'").await;
    let (store, stream) = (it.store.clone(), it.stream.clone());
    let saving = tokio::spawn(async move { store.save_snapshot(&stream, &FOLD, &snapshot(5)).await });
    waiting_backend(&mut watcher, &format!("\"{}\".snapshots", it.schema.name())).await;
    add(&it.store, &it.stream, 1).await;
    run(&mut concurrent, "COMMIT").await;
    assert!(!within(saving).await.unwrap().unwrap());
    assert_eq!(it.read().await.unwrap(), (Some(snapshot(6)), Vec::new()));
}

/// A locked table, for example by `VACUUM FULL`, holds a read up to the time limit of a statement, and fails none.
#[tokio::test]
async fn locked_table_fails_no_read() {
    let it = WithSnapshot::new().await;
    let statement_timeout = std::time::Duration::from_millis(200);
    let store = crate::common::open(PgEventStoreConfig { statement_timeout, ..it.schema.config() }).await;
    let mut holder = it.schema.connection().await;
    run(&mut holder, "BEGIN; LOCK TABLE snapshots").await;
    let read = within(store.read_from_snapshot(&it.stream, &FOLD)).await.unwrap();
    assert_eq!(read.snapshot, None);
    assert_eq!(read.events.try_collect::<Vec<_>>().await.unwrap(), it.events);
    let error = within(store.save_snapshot(&it.stream, &FOLD, &snapshot(4))).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    run(&mut holder, "ROLLBACK").await;
}

/// A snapshot is not worth a wait for the disk; an append is, also on the same connection.
#[tokio::test]
async fn saving_does_not_wait_for_the_disk_and_later_appends_do() {
    let schema = TestSchema::new();
    let store = crate::common::open(PgEventStoreConfig { max_connections: 1, ..schema.config() }).await;
    let stream = stream();
    add(&store, &stream, 1).await;
    let mut admin = schema.connection().await;
    // what each transaction that changes these tables has at its end
    run(
        &mut admin,
        "CREATE TABLE seen (name text, synchronous_commit text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             EXECUTE format('INSERT INTO %I.seen VALUES (%L, %L)', TG_TABLE_SCHEMA, TG_TABLE_NAME,
                 current_setting('synchronous_commit'));
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER note AFTER INSERT ON snapshots DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION note();
         CREATE CONSTRAINT TRIGGER note AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
    assert!(store.save_snapshot(&stream, &FOLD, &snapshot(1)).await.unwrap());
    add(&store, &stream, 1).await;
    let seen = sqlx::query_as("SELECT name, synchronous_commit FROM seen ORDER BY name");
    let seen: Vec<(String, String)> = seen.fetch_all(&mut admin).await.unwrap();
    let wanted = [("events", "on"), ("snapshots", "off")].map(|(table, set)| (table.to_owned(), set.to_owned()));
    assert_eq!(seen, wanted);
}
