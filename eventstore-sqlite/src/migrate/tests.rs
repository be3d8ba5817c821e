use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use eventbus::{
    AggregateId, EventId, ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::{AppendEvents as _, ReadFeed as _},
};
use futures_util::TryStreamExt as _;
use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::{SqliteEventStore, location::DatabaseLocation};

/// The last step of this release.
const KNOWN: u32 = STEPS.len() as u32;

/// Returns the steps of this release and further ones.
const fn after_known<const MORE: usize, const ALL: usize>(more: [MigrationStep; MORE]) -> [MigrationStep; ALL] {
    let mut all = [STEPS[0]; ALL];
    let mut at = 0;
    while at < ALL {
        all[at] = if at < STEPS.len() { STEPS[at] } else { more[at - STEPS.len()] };
        at += 1;
    }
    all
}

/// Returns what a database of so many steps has noted.
fn additive_after_the_first(steps: usize) -> Vec<(i64, String)> {
    let kinds = std::iter::once("breaking").chain(std::iter::repeat_n("additive", steps - 1));
    (1..).zip(kinds.map(str::to_owned)).collect()
}

const COLUMN: MigrationStep = MigrationStep::new(
    KNOWN + 1,
    "source of events",
    MigrationKind::Additive,
    "ALTER TABLE eventbus_events ADD COLUMN source TEXT",
);
const INDEX: MigrationStep = MigrationStep::new(
    KNOWN + 2,
    "events by actor",
    MigrationKind::Additive,
    "CREATE INDEX eventbus_events_actor_idx ON eventbus_events (actor_id, position)",
);
const TABLE: MigrationStep = MigrationStep::new(
    KNOWN + 3,
    "balances",
    MigrationKind::Additive,
    "CREATE TABLE eventbus_balances (name TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID",
);
/// The steps of a newer release than this one.
const NEWER: &[MigrationStep] = &after_known::<3, { STEPS.len() + 3 }>([COLUMN, INDEX, TABLE]);

const fn breaking(version: u32, name: &'static str) -> MigrationStep {
    MigrationStep::new(version, name, MigrationKind::Breaking, "SELECT 1")
}

/// A file, which is removed with the directory that holds it.
struct TestFile {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl TestFile {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { path: directory.path().join("events.db"), _directory: directory }
    }

    /// Opens the file as the release with these steps.
    async fn open(&self, steps: &'static [MigrationStep]) -> Result<SqliteEventStore, SqliteConnectError> {
        let location = DatabaseLocation::from_path(&self.path).unwrap();
        SqliteEventStore::open_as(location, SqliteEventStoreConfig::default(), steps).await
    }

    fn applied(&self) -> Vec<(i64, String)> {
        let connection = Connection::open(&self.path).unwrap();
        query_rows::<_, rusqlite::Error>(
            &connection,
            "SELECT version, kind FROM eventbus_migrations ORDER BY version",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap()
    }
}

fn new_stream() -> StreamId {
    StreamId::new(Name::from_static("Account"), AggregateId::new())
}

async fn append(store: &SqliteEventStore, stream: &StreamId) -> EventId {
    let event = NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#);
    let appended = store.append(stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    appended[0].metadata().event_id()
}

async fn feed(store: &SqliteEventStore) -> HashSet<EventId> {
    let events = store.read_all(Position::START);
    events.map_ok(|event| event.metadata().event_id()).try_collect().await.unwrap()
}

#[tokio::test]
async fn an_older_release_goes_on_beside_additive_steps_of_a_newer_one() {
    let file = TestFile::new();
    let (older, stream) = (file.open(STEPS).await.unwrap(), new_stream());
    let mut stored = HashSet::from([append(&older, &stream).await]);
    let newer = file.open(NEWER).await.unwrap();
    assert_eq!(file.applied(), additive_after_the_first(NEWER.len()));
    let started_later = file.open(STEPS).await.unwrap();
    for store in [&older, &newer, &started_later] {
        stored.insert(append(store, &stream).await);
        assert_eq!(feed(store).await, stored);
    }
}

#[tokio::test]
async fn an_older_release_refuses_a_breaking_step_and_names_the_first() {
    const STEPS_WITH_BREAKING: &[MigrationStep] = &after_known::<3, { STEPS.len() + 3 }>([
        COLUMN,
        breaking(KNOWN + 2, "numbered streams"),
        breaking(KNOWN + 3, "one more"),
    ]);
    let file = TestFile::new();
    drop(file.open(STEPS_WITH_BREAKING).await.unwrap());
    let error = file.open(STEPS).await.unwrap_err();
    let SqliteConnectError::SchemaTooNew { breaking, name, known, .. } = error else { panic!("{error:?}") };
    assert_eq!((breaking, &*name, known), (i64::from(KNOWN) + 2, "numbered streams", KNOWN));
    drop(file.open(STEPS_WITH_BREAKING).await.unwrap());
}

#[tokio::test]
async fn a_step_that_fails_is_named_and_leaves_the_file_as_it_was() {
    const FAILING: &[MigrationStep] = &after_known::<2, { STEPS.len() + 2 }>([
        COLUMN,
        MigrationStep::new(
            KNOWN + 2,
            "nothing",
            MigrationKind::Additive,
            "CREATE TABLE eventbus_more (id TEXT); SELECT nothing",
        ),
    ]);
    let file = TestFile::new();
    drop(file.open(STEPS).await.unwrap());
    let error = file.open(FAILING).await.unwrap_err();
    assert!(matches!(error, SqliteConnectError::Migration { migration: "nothing", .. }), "{error:?}");
    assert_eq!(file.applied(), additive_after_the_first(STEPS.len()));
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'eventbus_more' OR sql LIKE '%source TEXT%'";
    let left: i64 = Connection::open(&file.path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

/// Two releases start at once, several handles of each as processes would have them, and append while the newer one
/// migrates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_migrate_and_append_at_the_same_time() {
    const WRITERS: usize = 16;
    let file = Arc::new(TestFile::new());
    let older = file.open(STEPS).await.unwrap();
    let (migrated, appends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut writers = JoinSet::new();
    let write = |writers: &mut JoinSet<_>, store: SqliteEventStore| {
        let (migrated, appends) = (Arc::clone(&migrated), Arc::clone(&appends));
        writers.spawn(async move {
            let (stream, mut stored) = (new_stream(), Vec::new());
            while !migrated.load(Ordering::Relaxed) || stored.len() < 10 {
                stored.push(append(&store, &stream).await);
                appends.fetch_add(1, Ordering::Relaxed);
            }
            stored
        });
    };
    for _ in 0..WRITERS {
        write(&mut writers, older.clone());
    }
    while appends.load(Ordering::Relaxed) < 100 {
        tokio::task::yield_now().await;
    }
    let starts: JoinSet<_> = [NEWER, STEPS, NEWER, NEWER, STEPS, NEWER]
        .into_iter()
        .map(|steps| {
            let file = Arc::clone(&file);
            async move { timeout(Duration::from_secs(60), file.open(steps)).await.expect("it hangs").unwrap() }
        })
        .collect();
    let stores = starts.join_all().await;
    assert_eq!(file.applied().len(), NEWER.len());
    for number in 0..WRITERS {
        write(&mut writers, stores[number % stores.len()].clone());
    }
    migrated.store(true, Ordering::Relaxed);
    let stored: HashSet<EventId> = writers.join_all().await.into_iter().flatten().collect();
    assert!(stored.len() >= 2 * 10 * WRITERS);
    for store in [&older, &stores[0]] {
        assert_eq!(feed(store).await, stored);
    }
}
