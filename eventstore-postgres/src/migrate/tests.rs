use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use eventbus::{
    AggregateId, EventId, ExpectedVersion, Name, NewEvent, Position, StreamId, Version,
    port::{AppendEvents as _, Direction, ReadFeed as _, ReadStream as _},
};
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, postgres::PgPoolOptions};
use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::{PgEventStore, PgOnPoolConfig};

const INDEX_IS_VALID: &str =
    "EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('{schema}.events_actor_idx') AND indisvalid)";

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

const COLUMN: MigrationStep = MigrationStep::inside(
    KNOWN + 1,
    "source of events",
    MigrationKind::Additive,
    "ALTER TABLE {schema}.events ADD COLUMN IF NOT EXISTS source text;",
);
const INDEX: MigrationStep = MigrationStep::outside(
    KNOWN + 2,
    "events by actor",
    MigrationKind::Additive,
    &[
        "DROP INDEX CONCURRENTLY IF EXISTS {schema}.events_actor_idx",
        "CREATE INDEX CONCURRENTLY events_actor_idx ON {schema}.events (actor_id, position)",
    ],
    INDEX_IS_VALID,
);
const TABLE: MigrationStep = MigrationStep::inside(
    KNOWN + 3,
    "balances",
    MigrationKind::Additive,
    "CREATE TABLE IF NOT EXISTS {schema}.balances (name text PRIMARY KEY, state json NOT NULL);",
);

const FAILING: MigrationStep = MigrationStep::inside(
    KNOWN + 4,
    "division",
    MigrationKind::Additive,
    "CREATE TABLE {schema}.halves (half integer); SELECT 1 / 0;",
);

/// The steps of a newer release than this one.
const NEWER: &[MigrationStep] = &after_known::<3, { STEPS.len() + 3 }>([COLUMN, INDEX, TABLE]);
/// Those of it up to the new column.
const WITH_COLUMN: &[MigrationStep] = &after_known::<1, { STEPS.len() + 1 }>([COLUMN]);

/// Returns the versions of the steps up to one.
fn up_to(step: &MigrationStep) -> Vec<i32> {
    (1..=step.version().cast_signed()).collect()
}

/// A database of the test's own: an index made concurrently waits for all transactions of its database.
struct TestDatabase(eventbus_test::Postgres);

impl TestDatabase {
    fn create() -> Self {
        Self(eventbus_test::postgres())
    }

    fn config(&self) -> PgEventStoreConfig {
        PgEventStoreConfig { database_url: self.0.url().to_owned(), ..Default::default() }
    }

    /// Connects as the release with these steps.
    async fn connect(&self, steps: &[MigrationStep]) -> Result<PgEventStore, PgConnectError> {
        timeout(Duration::from_secs(60), PgEventStore::connect_as(self.config(), steps)).await.expect("it hangs")
    }

    /// Opens a store on a pool of one connection, as the release with these steps.
    async fn open_on_pool(
        &self,
        migration_timeout: Duration,
        steps: &[MigrationStep],
    ) -> Result<PgEventStore, PgConnectError> {
        let pool = PgPoolOptions::new().max_connections(1).connect(self.0.url()).await;
        let config =
            PgOnPoolConfig { notify: false, max_transactions: Some(0), migration_timeout, ..Default::default() };
        let opened = PgEventStore::on_as(pool.unwrap(), config, steps);
        timeout(Duration::from_secs(60), opened).await.expect("it hangs")
    }

    async fn open(&self, steps: &[MigrationStep]) -> PgEventStore {
        self.connect(steps).await.unwrap()
    }

    async fn connection(&self) -> PgConnection {
        let mut connection = PgConnection::connect(self.0.url()).await.unwrap();
        connection.execute("SET search_path TO eventbus").await.unwrap();
        connection
    }

    async fn ask<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let sql = filled(sql);
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.connection().await).await.unwrap()
    }

    async fn applied(&self) -> Vec<i32> {
        self.ask("SELECT coalesce(array_agg(version ORDER BY version), '{}') FROM {schema}.migrations").await
    }
}

fn filled(sql: &str) -> String {
    Schema::new("eventbus").unwrap().fill_placeholders(sql)
}

fn new_event() -> NewEvent {
    NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#)
}

fn new_stream() -> StreamId {
    StreamId::new(Name::from_static("Account"), AggregateId::new())
}

async fn append(store: &PgEventStore, stream: &StreamId) -> EventId {
    let appended = store.append(stream, ExpectedVersion::Any, vec![new_event()]).await.unwrap();
    appended[0].metadata().event_id()
}

async fn add(store: &PgEventStore, stream: &StreamId) {
    let _ = append(store, stream).await;
}

async fn feed(store: &PgEventStore) -> HashSet<EventId> {
    let events = store.read_all(Position::START);
    events.map_ok(|event| event.metadata().event_id()).try_collect().await.unwrap()
}

/// Waits until a statement that contains `text` waits for a lock, and returns its backend.
async fn until_blocked(watcher: &mut PgConnection, text: &str) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
               AND query LIKE '%' || $1 || '%'";
    let blocked = async {
        loop {
            let found = sqlx::query_scalar(sql).bind(text).fetch_optional(&mut *watcher).await.unwrap();
            match found {
                Some(pid) => return pid,
                None => tokio::task::yield_now().await,
            }
        }
    };
    timeout(Duration::from_secs(30), blocked).await.expect("no statement waits")
}

#[tokio::test]
async fn an_older_release_goes_on_beside_additive_steps_of_a_newer_one() {
    let database = TestDatabase::create();
    let (older, stream) = (database.open(STEPS).await, new_stream());
    add(&older, &stream).await;
    let newer = database.open(NEWER).await;
    assert_eq!(database.applied().await, up_to(&TABLE));
    let started_later = database.open(STEPS).await;
    let unmigrated = PgEventStoreConfig { migrate: false, ..database.config() };
    let checking = PgEventStore::connect_as(unmigrated, STEPS).await.unwrap();
    for store in [&older, &newer, &started_later, &checking] {
        add(store, &stream).await;
        let all: Vec<_> = store.read_stream(&stream, Version::FIRST, Direction::Forward).try_collect().await.unwrap();
        assert_eq!(feed(store).await.len(), all.len());
    }
    assert_eq!(feed(&older).await.len(), 5);
    let kinds: Vec<String> = database.ask("SELECT array_agg(kind ORDER BY version) FROM {schema}.migrations").await;
    assert_eq!((&*kinds[0], kinds.len()), ("breaking", NEWER.len()));
    assert!(kinds[1..].iter().all(|kind| kind == "additive"), "{kinds:?}");
}

#[tokio::test]
async fn an_older_release_refuses_a_breaking_step_and_names_the_first() {
    let database = TestDatabase::create();
    let breaking = |version, name| MigrationStep::inside(version, name, MigrationKind::Breaking, "SELECT 1");
    let more = [breaking(KNOWN + 2, "numbered streams"), breaking(KNOWN + 3, "one more")];
    let steps = [WITH_COLUMN, &more].concat();
    database.open(&steps).await;
    let error = database.connect(STEPS).await.unwrap_err();
    let PgConnectError::SchemaTooNew { breaking, name, known, .. } = error else { panic!("{error:?}") };
    assert_eq!((breaking, &*name, known), (KNOWN + 2, "numbered streams", KNOWN));
    database.open(&steps).await;
}

/// Two releases start at once, several processes of each, and append while the newer one migrates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_migrate_and_append_at_the_same_time() {
    const WRITERS: usize = 16;
    let database = Arc::new(TestDatabase::create());
    let older = database.open(STEPS).await;
    let rows = 20_000;
    fill(&database, rows).await;

    let (migrated, appends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut writers = JoinSet::new();
    let write = |writers: &mut JoinSet<_>, store: PgEventStore| {
        let (migrated, appends) = (Arc::clone(&migrated), Arc::clone(&appends));
        writers.spawn(async move {
            let (mut stream, mut stored) = (new_stream(), Vec::new());
            while !migrated.load(Ordering::Relaxed) || stored.len() < 10 {
                stored.push(append(&store, &stream).await);
                appends.fetch_add(1, Ordering::Relaxed);
                if stored.len() % 5 == 0 {
                    stream = new_stream();
                }
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
    let before = appends.load(Ordering::Relaxed);
    // four processes of the newer release, and two of the older one, start at once
    let starts: JoinSet<_> = [NEWER, STEPS, NEWER, NEWER, STEPS, NEWER]
        .into_iter()
        .map(|steps| {
            let database = Arc::clone(&database);
            async move { database.open(steps).await }
        })
        .collect();
    let stores = starts.join_all().await;
    assert_eq!(database.applied().await, up_to(&TABLE));
    let meanwhile = appends.load(Ordering::Relaxed) - before;
    assert!(meanwhile > 10, "{meanwhile} appends while the newer release migrated");
    for number in 0..WRITERS {
        write(&mut writers, stores[number % stores.len()].clone());
    }
    migrated.store(true, Ordering::Relaxed);
    let stored: Vec<EventId> = writers.join_all().await.concat();
    let found = feed(&stores[0]).await;
    assert_eq!(found.len(), stored.len() + rows);
    assert!(stored.iter().all(|id| found.contains(id)), "an append is gone");
    assert!(database.ask::<bool>(&format!("SELECT {INDEX_IS_VALID}")).await);
    let indexed: i64 = database.ask("SELECT count(*) FROM {schema}.events WHERE actor_id IS NULL").await;
    assert_eq!(usize::try_from(indexed).unwrap(), found.len());
}

/// Stores many events by SQL, so that making an index takes a while.
async fn fill(database: &TestDatabase, rows: usize) {
    let sql = format!(
        "INSERT INTO streams (stream_no, version, recorded_at, tenant_id, aggregate_id, aggregate_type)
         SELECT -n, 1, now(), '00000000-0000-0000-0000-000000000000', n, 'Old' FROM generate_series(1, {rows}) n;
         INSERT INTO events (position, stream_no, version, occurred_at, recorded_at, event_id, correlation_id,
             schema_version, event_type, payload)
         SELECT nextval('events_position_seq'), -n, 1, now(), now(), gen_random_uuid(), gen_random_uuid(), 1, 'Old', '{{}}'
         FROM generate_series(1, {rows}) n"
    );
    database.connection().await.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
}

#[tokio::test]
async fn an_index_whose_making_was_interrupted_is_made_again() {
    let database = TestDatabase::create();
    add(&database.open(STEPS).await, &new_stream()).await;
    let (mut holder, mut watcher) = (database.connection().await, database.connection().await);
    // a transaction with an old snapshot, for which the index has to wait
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    let interrupt = async {
        let backend = until_blocked(&mut watcher, "CREATE INDEX CONCURRENTLY").await;
        let ended = sqlx::query("SELECT pg_terminate_backend($1)").bind(backend);
        ended.execute(&mut watcher).await.unwrap();
    };
    let (connected, ()) = tokio::join!(database.connect(NEWER), interrupt);
    let error = connected.expect_err("its index was interrupted");
    assert!(matches!(error, PgConnectError::Unreachable { .. }), "{error:?}");
    holder.execute("ROLLBACK").await.unwrap();
    let left: bool = database
        .ask("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{schema}.events_actor_idx')")
        .await;
    assert!(!left, "an invalid index is left");
    assert_eq!(database.applied().await, up_to(&COLUMN));

    database.open(NEWER).await;
    assert!(database.ask::<bool>(&format!("SELECT {INDEX_IS_VALID}")).await);
    assert_eq!(database.applied().await, up_to(&TABLE));
}

#[tokio::test]
async fn a_process_that_loses_the_lock_stops() {
    let database = TestDatabase::create();
    database.open(WITH_COLUMN).await;
    let (mut holder, mut watcher) = (database.connection().await, database.connection().await);
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    let end_lock = async {
        let builder = until_blocked(&mut watcher, "CREATE INDEX CONCURRENTLY").await;
        let lock = "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                    WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND d.datname = current_database()";
        assert!(sqlx::query_scalar::<_, bool>(lock).fetch_one(&mut watcher).await.unwrap());
        builder
    };
    let (connected, builder) = tokio::join!(database.connect(NEWER), end_lock);
    let error = connected.expect_err("it goes on without the lock");
    assert!(matches!(error, PgConnectError::Unreachable { .. }), "{error:?}");
    assert_eq!(database.applied().await, up_to(&COLUMN));
    // its statement would otherwise run on, beside that of the next process
    let end = sqlx::query("SELECT pg_terminate_backend($1, 60000)").bind(builder);
    end.execute(&mut watcher).await.unwrap();
    let (opened, _) = tokio::join!(database.open(NEWER), holder.execute("ROLLBACK"));
    add(&opened, &new_stream()).await;
    assert!(database.ask::<bool>(&format!("SELECT {INDEX_IS_VALID}")).await);
}

#[tokio::test]
async fn an_index_that_was_made_and_not_recorded_is_kept() {
    let database = TestDatabase::create();
    database.open(NEWER).await;
    let index = "SELECT to_regclass('{schema}.events_actor_idx')::oid::bigint";
    let before: i64 = database.ask(index).await;
    let forget = format!("DELETE FROM migrations WHERE version = {}", INDEX.version());
    database.connection().await.execute(sqlx::raw_sql(AssertSqlSafe(forget))).await.unwrap();
    database.open(NEWER).await;
    assert_eq!((database.ask::<i64>(index).await, database.applied().await), (before, up_to(&TABLE)));
}

#[tokio::test]
async fn a_step_outside_of_a_transaction_may_take_longer_than_a_statement_of_the_store() {
    let database = TestDatabase::create();
    let slow = MigrationStep::outside(
        KNOWN + 1,
        "a slow index",
        MigrationKind::Additive,
        &["SELECT pg_sleep(2)", "CREATE INDEX CONCURRENTLY events_actor_idx ON {schema}.events (actor_id)"],
        INDEX_IS_VALID,
    );
    let config = PgEventStoreConfig { statement_timeout: Duration::from_millis(500), ..database.config() };
    PgEventStore::connect_as(config, &after_known::<1, { STEPS.len() + 1 }>([slow])).await.unwrap();
    assert_eq!(database.applied().await, up_to(&slow));
}

#[tokio::test]
async fn a_step_that_did_not_have_its_effect_is_not_recorded() {
    let database = TestDatabase::create();
    let without_effect = MigrationStep::outside(2, "no index", MigrationKind::Additive, &["SELECT 1"], INDEX_IS_VALID);
    let error = database.connect(&[STEPS[0], without_effect]).await.unwrap_err();
    assert!(matches!(error, PgConnectError::MigrationFailed { version: 2, .. }), "{error:?}");
    assert_eq!(database.applied().await, [1]);
}

#[tokio::test]
async fn a_step_that_fails_is_named_and_changes_nothing_while_the_steps_before_it_stay() {
    let database = TestDatabase::create();
    let failing = MigrationStep::inside(
        KNOWN + 2,
        "division",
        MigrationKind::Additive,
        "CREATE TABLE {schema}.halves (half integer); SELECT 1 / 0;",
    );
    let error = database.connect(&[WITH_COLUMN, &[failing]].concat()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("migration {} `division` of schema `eventbus` failed", KNOWN + 2));
    assert!(!error.is_retryable());
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "division by zero");
    assert_eq!(database.applied().await, up_to(&COLUMN));
    assert!(database.ask::<bool>("SELECT to_regclass('{schema}.halves') IS NULL").await);
}

#[tokio::test]
async fn a_process_that_waits_in_vain_names_the_one_that_migrates() {
    let database = TestDatabase::create();
    let mut holder = database.connection().await;
    holder.execute("SET application_name = 'orders-7'").await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut holder).await.unwrap();
    let lock = filled("BEGIN; SELECT pg_advisory_xact_lock(1702260324, {namespace})");
    holder.execute(sqlx::raw_sql(AssertSqlSafe(lock))).await.unwrap();
    let waiting = PgEventStoreConfig { migration_timeout: Duration::from_millis(150), ..database.config() };
    let error = PgEventStore::connect_as(waiting, STEPS).await.unwrap_err();
    let PgConnectError::MigrationBlocked { holder: named, waited, .. } = &error else { panic!("{error:?}") };
    assert!(named.starts_with(&format!("backend {pid} (`orders-7`, in a transaction for ")), "{error}");
    assert!(*waited >= Duration::from_millis(150));
    assert!(error.is_retryable());
    // an administrator's script does not wait either, as it would wait in a statement
    let refused =
        database.connection().await.execute(sqlx::raw_sql(AssertSqlSafe(script_of(STEPS)))).await.unwrap_err();
    assert!(refused.to_string().contains("a different session migrates this schema"), "{refused}");

    let (connected, _) = tokio::join!(database.connect(STEPS), holder.execute("ROLLBACK"));
    add(&connected.unwrap(), &new_stream()).await;
}

/// Writers wait behind a step that waits for a table, so that it must soon give way.
#[tokio::test]
async fn a_step_that_waits_for_a_table_lets_writers_pass_and_names_who_has_locked_it() {
    let database = TestDatabase::create();
    let (older, stream) = (database.open(STEPS).await, new_stream());
    add(&older, &stream).await;
    let (mut holder, mut watcher) = (database.connection().await, database.connection().await);
    holder.execute("SET application_name = 'reports'; BEGIN; SELECT 1 FROM eventbus.events").await.unwrap();
    let waiting = PgEventStoreConfig { migration_timeout: Duration::from_secs(2), ..database.config() };
    let writing = async {
        until_blocked(&mut watcher, "ADD COLUMN").await;
        timeout(Duration::from_secs(30), add(&older, &stream)).await.expect("a writer waits for the step");
        add(&older, &stream).await;
    };
    let (connected, ()) = tokio::join!(PgEventStore::connect_as(waiting, NEWER), writing);
    let error = connected.unwrap_err();
    let PgConnectError::MigrationBlocked { holder: named, .. } = &error else { panic!("{error:?}") };
    assert!(named.contains("`reports`"), "{error}");
    let (connected, _) = tokio::join!(database.connect(NEWER), holder.execute("ROLLBACK"));
    add(&connected.unwrap(), &stream).await;
    assert_eq!(feed(&older).await.len(), 4);
}

fn script_of(steps: &[MigrationStep]) -> String {
    script(&Schema::new("eventbus").unwrap(), steps)
}

/// Runs a script statement by statement, as `psql` does without `ON_ERROR_STOP`; returns the errors.
async fn run_script(connection: &mut PgConnection, script: &str) -> Vec<String> {
    let (mut errors, mut statement) = (Vec::new(), String::new());
    for line in script.lines() {
        statement.push_str(line);
        statement.push('\n');
        if line.ends_with(';') && statement.matches("$$").count() % 2 == 0 {
            let sql = std::mem::take(&mut statement);
            errors.extend(connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.err().map(|e| e.to_string()));
        }
    }
    assert_eq!(statement.trim(), "");
    errors
}

#[tokio::test]
async fn an_administrator_may_run_all_steps_by_hand_and_again() {
    let database = TestDatabase::create();
    let mut admin = database.connection().await;
    for _ in 0..2 {
        assert_eq!(run_script(&mut admin, &script_of(NEWER)).await, [""; 0]);
        assert_eq!(database.applied().await, up_to(&TABLE));
        assert!(database.ask::<bool>(&format!("SELECT {INDEX_IS_VALID}")).await);
    }
    let held = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                WHERE l.locktype = 'advisory' AND d.datname = current_database()";
    assert_eq!(database.ask::<i64>(held).await, 0, "the script releases its locks");
    let by_hand = PgEventStoreConfig { migrate: false, ..database.config() };
    let store = PgEventStore::connect_as(by_hand, NEWER).await.unwrap();
    add(&store, &new_stream()).await;
}

#[tokio::test]
async fn a_script_that_goes_on_after_an_error_records_neither_that_step_nor_a_later_one() {
    let database = TestDatabase::create();
    database.open(WITH_COLUMN).await;
    fill(&database, 2).await;
    let unique = MigrationStep::outside(
        KNOWN + 2,
        "a key that rows break",
        MigrationKind::Additive,
        &["CREATE UNIQUE INDEX CONCURRENTLY events_actor_idx ON {schema}.events (event_type)"],
        INDEX_IS_VALID,
    );
    let errors =
        run_script(&mut database.connection().await, &script_of(&[WITH_COLUMN, &[unique, TABLE]].concat())).await;
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(database.applied().await, up_to(&COLUMN));
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_pool_of_one_connection_runs_steps_in_transactions_and_refuses_the_first_outside_of_one() {
    let database = TestDatabase::create();
    let stream = new_stream();
    add(&database.open_on_pool(LONG, WITH_COLUMN).await.unwrap(), &stream).await;
    assert_eq!(database.applied().await, up_to(&COLUMN));
    let error = database.open_on_pool(LONG, NEWER).await.unwrap_err();
    assert!(
        matches!(error, PgConnectError::NotMigrated { found, needed, .. } if (found, needed) == (KNOWN + 1, KNOWN + 3)),
        "{error:?}"
    );
    assert!(error.to_string().contains("run `PgEventStore::migrate`"), "{error}");
    database.open(NEWER).await;
    add(&database.open_on_pool(LONG, NEWER).await.unwrap(), &stream).await;
    let error = database.open_on_pool(LONG, &[NEWER, &[FAILING]].concat()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("migration {} `division` of schema `eventbus` failed", KNOWN + 4));
    assert_eq!(database.applied().await, up_to(&TABLE));
}

#[tokio::test]
async fn a_pool_of_one_connection_that_waits_in_vain_names_who_holds_it_up() {
    let database = TestDatabase::create();
    database.open(STEPS).await;
    let lock = filled("SELECT pg_advisory_xact_lock(1702260324, {namespace})");
    for held in [&*lock, "LOCK TABLE events IN SHARE MODE"] {
        let mut holder = database.connection().await;
        holder.execute("SET application_name = 'orders-7'; BEGIN").await.unwrap();
        holder.execute(sqlx::raw_sql(AssertSqlSafe(held.to_owned()))).await.unwrap();
        let error = database.open_on_pool(Duration::from_millis(150), WITH_COLUMN).await.unwrap_err();
        let PgConnectError::MigrationBlocked { holder: named, .. } = &error else { panic!("{error:?}") };
        assert!(named.contains("`orders-7`"), "{error}");
    }
    let mut holder = database.connection().await;
    holder.execute(sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {lock}")))).await.unwrap();
    let (opened, _) = tokio::join!(database.open_on_pool(LONG, WITH_COLUMN), holder.execute("ROLLBACK"));
    add(&opened.unwrap(), &new_stream()).await;
    assert_eq!(database.applied().await, up_to(&COLUMN));
}
