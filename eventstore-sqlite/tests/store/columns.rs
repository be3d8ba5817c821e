//! What the columns hold, for people who read the tables.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use crate::common::{events, fresh_path, fresh_stream, open};
use eventbus::{
    ExpectedVersion, Name, Position, Uuid,
    delivery::DeliveryAttempts,
    port::{
        AppendEvents as _, Checkpoints as _, HandlerProgress as _, Leases as _, Snapshots as _, StoredSnapshot,
        Transactions as _,
        handler_progress::{DeliveryRow, ShardId, ShardSave},
    },
    store::{Handled, HandledCommand, MultiStreamAppend, MultiStreamAppends as _},
};
use eventstore_sqlite::SqliteEventStore;
use rusqlite::Connection;
use time::OffsetDateTime;

/// Returns each column that holds times, of each table.
fn time_columns(connection: &Connection) -> Vec<(String, String)> {
    let sql = "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c
               WHERE t.type = 'table' AND (c.name LIKE '%\\_at' ESCAPE '\\' OR c.name LIKE '%\\_since' ESCAPE '\\')";
    let mut columns = connection.prepare(sql).unwrap();
    let rows = columns.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Saves a dead letter of a handler.
async fn save_dead_row(store: &SqliteEventStore, dead_since: Option<OffsetDateTime>) {
    let name = Name::from_static("mail");
    assert!(store.create_handler(&name, Position::START).await.unwrap());
    let shard = ShardId { handler: name.clone(), number: 0 };
    let acquired = store.acquire_shards(&name, &[shard], Duration::ZERO).await.unwrap().remove(0);
    let row = DeliveryRow { position: 1.into(), attempts: DeliveryAttempts::default(), dead_since, is_held: false };
    let save = ShardSave {
        shard: acquired.shard,
        epoch: acquired.epoch,
        checkpoint: 1.into(),
        waiting: Vec::new(),
        started: Vec::new(),
        has_progressed: true,
        left: BTreeMap::new(),
        rows: vec![row],
        finished: Vec::new(),
        is_release: true,
    };
    store.save_shards(&name, None, &[save]).await.unwrap();
}

#[tokio::test]
async fn all_times_are_microseconds_since_1970() {
    let (path, name) = (fresh_path(), Name::from_static("reader"));
    let store = open(path.clone()).await;
    let imported = events(1).remove(0).with_original_recorded_at(SystemTime::now().into());
    let stored = store.append(&fresh_stream(), ExpectedVersion::Any, vec![imported]).await.unwrap();
    store.acquire_lease(&name, &name, Duration::from_secs(5)).await.unwrap().unwrap();
    store.save_checkpoint(&name, Position::new(1)).await.unwrap();
    let dead_since = Some(stored[0].metadata().occurred_at());
    save_dead_row(&store, dead_since).await;
    let mut transaction = store.begin().await.unwrap();
    assert!(transaction.is_first(&name, stored[0].metadata().stream(), stored[0].metadata().event_id()).await.unwrap());
    transaction.commit().await.unwrap();
    let key = "8e03978e".parse().unwrap();
    let command = HandledCommand { tenant_id: None, key, request: Uuid::nil(), answer: String::new() };
    let command = MultiStreamAppend { handled: Some(Handled::Command(command)), ..Default::default() };
    store.append_streams(command).await.unwrap();
    let snapshot = StoredSnapshot { version: stored[0].version(), data: Vec::new() };
    assert!(store.save_snapshot(stored[0].metadata().stream(), &name, &snapshot).await.unwrap());

    let connection = Connection::open(&path).unwrap();
    let columns = time_columns(&connection);
    assert!(columns.len() > 8, "{columns:?}");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    for (table, column) in columns {
        let newest: Option<i64> =
            connection.query_row(&format!("SELECT max({column}) FROM {table}"), [], |row| row.get(0)).unwrap();
        let column = format!("{table}.{column}");
        let newest = newest.unwrap_or_else(|| panic!("{column} is empty"));
        let off = i128::from(newest).abs_diff(now.cast_signed());
        assert!(off < 60_000_000, "{column} is {off} microseconds off");
    }
}

#[tokio::test]
async fn a_checkpoint_that_a_transaction_moves_has_the_time_of_that() {
    let (path, role) = (fresh_path(), Name::from_static("totals"));
    let store = open(path.clone()).await;
    let lease = store.acquire_lease(&role, &role, Duration::from_secs(60)).await.unwrap().unwrap();
    store.save_checkpoint(&role, Position::new(1)).await.unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.execute("UPDATE eventbus_checkpoints SET updated_at = 7", []).unwrap();
    let mut transaction = store.begin().await.unwrap();
    assert!(transaction.advance(&lease, Position::new(1), Position::new(2)).await.unwrap());
    transaction.commit().await.unwrap();
    let sql = "SELECT position, updated_at > 7 FROM eventbus_checkpoints";
    let moved: (i64, bool) = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(moved, (2, true));
}
