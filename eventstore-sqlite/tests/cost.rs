//! The cost of operations: pages of the WAL, what the statements scan and sort, bytes of futures, allocations, ids.

#![allow(clippy::unwrap_used, reason = "as in any test")]

#[path = "../../eventstore-postgres/tests/cost/allocations.rs"]
mod allocations;
mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use allocations::{AppendCost, IdCounter};
use common::{events, fresh_path, fresh_stream, open};
use eventbus::{
    ExpectedVersion::Any,
    StreamId,
    clock::SharedClock,
    port::{Append, AppendEvents as _},
};
use eventstore_sqlite::{SqliteEventStore, SqliteEventStoreConfig};
use rusqlite::{Connection, functions::FunctionFlags};

/// A page of the database with its header, as the WAL holds it.
const FRAME_BYTES: u64 = 4_096 + 24;
const HEADER_BYTES: u64 = 32;

/// Returns the number of pages in the WAL, which grows until it has a thousand.
fn pages(database: &Path) -> u64 {
    let wal = database.with_extension("db-wal");
    (fs::metadata(wal).unwrap().len() - HEADER_BYTES) / FRAME_BYTES
}

async fn append_at_once(store: &SqliteEventStore, streams: &[StreamId]) {
    let append = |stream: &StreamId| Append { stream: stream.clone(), expected: Any, events: events(1) };
    let appended = store.append_many(streams.iter().map(append).collect()).await;
    assert!(appended.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_commit_writes_few_pages() {
    const APPENDS: u64 = 50;
    let (path, known) = (fresh_path(), [fresh_stream()]);
    let store = open(path.clone()).await;
    append_at_once(&store, &known).await;
    let mut written = pages(&path);
    let mut pages_since_last = || {
        let before = std::mem::replace(&mut written, pages(&path));
        written - before
    };
    for _ in 0..APPENDS {
        append_at_once(&store, &known).await;
    }
    let known_stream = pages_since_last();
    for _ in 0..APPENDS {
        append_at_once(&store, &[fresh_stream()]).await;
    }
    let new_stream = pages_since_last();
    let streams: Vec<_> = (0..APPENDS).map(|_| fresh_stream()).collect();
    append_at_once(&store, &streams).await;
    let at_once = pages_since_last();
    // 203, 252 and 12 when the bounds were written: a page each of the events, their two keys and the streams, for a
    // new stream of its identity too, and splits
    let written = [known_stream, new_stream, at_once];
    assert!(known_stream <= 210 && new_stream <= 260 && at_once <= 14, "{written:?} pages");
}

/// Statements that scan a table, or sort: small tables, the schema, and the streams of a window.
const EXCEPTIONS: [&str; 12] = [
    "applied_migrations",
    "copies_have_parents",
    "count_versions",
    "event_types",
    "foreign_table",
    "has_table",
    "list_handlers",
    "list_members",
    "list_paused",
    "migration_columns",
    "newest_migration",
    "store_id",
];

/// The other statements find their rows by a key, and read them in the order of an index; also with the statistics that
/// `ANALYZE` of an application makes.
#[tokio::test]
async fn statements_scan_no_table_and_sort_no_rows() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    append_at_once(&store, &[fresh_stream()]).await;
    let connection = Connection::open(&path).unwrap();
    // as the connections of the store have it
    connection.create_scalar_function("eventbus_has_slot", 4, FunctionFlags::default(), |_| Ok(true)).unwrap();
    assert_only_costly(&connection, &EXCEPTIONS.into());
    for stream in (0..10).map(|_| fresh_stream()) {
        store.append(&stream, Any, events(1_000)).await.unwrap();
    }
    connection.execute_batch("ANALYZE").unwrap();
    assert_only_costly(&connection, &EXCEPTIONS.into());
}

/// Fails if the statements that scan a table or sort are not exactly the exceptions.
fn assert_only_costly(connection: &Connection, exceptions: &BTreeSet<&str>) {
    let (mut planned, mut costly) = (0, BTreeMap::new());
    for (name, sql) in statements() {
        // the tables of shadows and of the migrations are in no other database
        let Ok(mut plan) = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")) else { continue };
        planned += 1;
        let mut steps = plan.raw_query().mapped(|row| row.get::<_, String>(3)).map(Result::unwrap);
        let is_of_rows =
            |step: &str| !["CONSTANT ROW", "VIRTUAL TABLE", "(subquery"].iter().any(|kind| step.contains(kind));
        let is_costly = |step: &String| step.contains("TEMP B-TREE") || (step.starts_with("SCAN") && is_of_rows(step));
        if let Some(step) = steps.find(is_costly) {
            costly.insert(name, step);
        }
    }
    assert!(planned > 50, "only {planned} statements were planned");
    let found: BTreeSet<_> = costly.keys().map(String::as_str).collect();
    assert_eq!(found, *exceptions, "{costly:#?}");
}

#[test]
fn an_append_holds_few_bytes() {
    let runtime = allocations::runtime();
    let store = runtime.block_on(open(fresh_path()));
    // 1,096 bytes, 3,820 bytes and 13 allocations when the bounds were written; 648 bytes of these without the feature
    // `opentelemetry`, which other crates of this workspace turn on; fewer if the disk is so slow that a thread commits
    let bound = AppendCost { future_bytes: 1_210, held_bytes: 4_300, allocations: 15 };
    allocations::of_save(&runtime, &store).assert_at_most(bound);
    // 816, 2,440 and 9
    let bound = AppendCost { future_bytes: 900, held_bytes: 2_800, allocations: 10 };
    allocations::of_append(&runtime, &store).assert_at_most(bound);
}

#[test]
fn an_append_that_waits_holds_few_bytes() {
    let runtime = allocations::runtime();
    let store = runtime.block_on(open(fresh_path()));
    let held = allocations::held_by_each_of_many(&runtime, &store);
    // 988 to 1,260 when the bound was written
    assert!(held <= 1_500, "{held} bytes for each append");
}

#[test]
fn an_event_is_read_with_few_allocations() {
    let runtime = allocations::runtime();
    let store = runtime.block_on(open(fresh_path()));
    let [of_load, of_rebuild] = allocations::of_reads(&runtime, &store);
    // 0.003 and 1.017 when the bounds were written; the rows are read and decoded on other threads
    assert!(of_load <= 0.01 && of_rebuild <= 1.2, "{of_load} for an event of a load, {of_rebuild} of a rebuild");
}

#[tokio::test]
async fn a_save_draws_an_id_for_each_event_and_one_for_all() {
    let counter = IdCounter::default();
    let config = SqliteEventStoreConfig { clock: SharedClock::new(counter.clone()), ..Default::default() };
    let store = SqliteEventStore::open_with(fresh_path(), config).await.unwrap();
    allocations::assert_ids_of_saves(&counter, store).await;
}

/// Returns the texts of all statements, by the names of their files.
fn statements() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sql");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let named =
        files.map(|file| (file.file_stem().unwrap().to_string_lossy().into(), fs::read_to_string(&file).unwrap()));
    named.collect()
}
