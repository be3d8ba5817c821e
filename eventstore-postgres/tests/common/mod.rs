//! Helpers of the tests: a schema or a database of a test's own, and events.
//!
//! Invariant: schemas and databases are dropped with the value that made them, also when a test fails.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "as in any test")]

pub(crate) mod held;
pub(crate) mod proxy;

use std::{
    future::{Ready, ready},
    time::Duration,
};

use eventbus::{
    AggregateId, ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{AppendEvents as _, Direction, ReadFeed as _, ReadStream as _},
    testkit::ManualClock,
};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig, PgOnPoolConfig};
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, postgres::PgPoolOptions};

/// A schema of the test's own in the shared database: cheap.
pub(crate) struct TestSchema(String);

impl TestSchema {
    pub(crate) fn new() -> Self {
        Self(eventbus_test::unique_name("store"))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn config(&self) -> PgEventStoreConfig {
        PgEventStoreConfig {
            database_url: eventbus_test::postgres_url().into(),
            schema: self.0.clone(),
            ..Default::default()
        }
    }

    /// The configuration as a future, as the suites take it.
    pub(crate) fn place(&self) -> Ready<PgEventStoreConfig> {
        ready(self.config())
    }

    pub(crate) async fn store(&self) -> PgEventStore {
        open(self.config()).await
    }

    /// A store on a pool of the application, which has so many connections.
    pub(crate) async fn store_on_pool(&self, connections: u32) -> PgEventStore {
        let pool = PgPoolOptions::new().max_connections(connections).connect(eventbus_test::postgres_url()).await;
        let config = PgOnPoolConfig { schema: self.0.clone(), ..Default::default() };
        PgEventStore::on_with(pool.unwrap(), config).await.unwrap()
    }

    /// A store whose transactions are all stricter than it asks for.
    pub(crate) async fn store_of_repeatable_reads(&self) -> PgEventStore {
        // its task ends with the runtime of the test
        let database_url = proxy::Proxy::start_repeatable_read().await.url();
        open(PgEventStoreConfig { database_url, ..self.config() }).await
    }

    /// A connection that finds the tables without naming the schema.
    pub(crate) async fn connection(&self) -> PgConnection {
        let mut connection = connect(eventbus_test::postgres_url()).await;
        run(&mut connection, &format!("SET search_path TO {}", self.0)).await;
        connection
    }
}

impl Drop for TestSchema {
    fn drop(&mut self) {
        drop_with(format!("DROP SCHEMA IF EXISTS {} CASCADE", self.0));
    }
}

/// A database of the test's own, for settings and operations per database.
pub(crate) struct TestDatabase(String);

impl TestDatabase {
    pub(crate) async fn create(options: &str) -> Self {
        let name = eventbus_test::unique_name("store");
        let mut admin = connect(eventbus_test::postgres_url()).await;
        run(&mut admin, &format!("CREATE DATABASE {name} {options}")).await;
        Self(name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn url(&self) -> String {
        eventbus_test::database_url_for(&self.0)
    }

    pub(crate) fn config(&self) -> PgEventStoreConfig {
        PgEventStoreConfig { database_url: self.url(), ..Default::default() }
    }

    pub(crate) async fn connection(&self) -> PgConnection {
        let mut connection = connect(&self.url()).await;
        run(&mut connection, "SET search_path TO eventbus").await;
        connection
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        drop_with(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.0));
    }
}

/// Runs `sql` on a thread with a runtime of its own: `drop` cannot wait, and the test's runtime may be going down.
fn drop_with(sql: String) {
    let dropped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut admin = connect(eventbus_test::postgres_url()).await;
            // an open lock must not turn a failure into a hang
            run(&mut admin, "SET lock_timeout = '10s'").await;
            run(&mut admin, &sql).await;
        });
    });
    if dropped.join().is_err() && !std::thread::panicking() {
        panic!("the test left something behind");
    }
}

pub(crate) async fn open(config: PgEventStoreConfig) -> PgEventStore {
    PgEventStore::connect_with(config).await.unwrap()
}

pub(crate) async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

pub(crate) async fn run(connection: &mut PgConnection, sql: &str) {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    connection.execute(sql).await.unwrap();
}

/// Waits until an append to `schema` waits for a lock, and returns the process id of its backend.
pub(crate) async fn blocked_backend(connection: &mut PgConnection, schema: &str) -> i32 {
    waiting_backend(connection, &format!("\"{schema}\".streams")).await
}

/// Waits until a backend of this database waits for a lock in a statement that contains `text`.
pub(crate) async fn waiting_backend(connection: &mut PgConnection, text: &str) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
               AND wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'";
    within(async {
        loop {
            let found = sqlx::query_scalar(sql).bind(text);
            if let Some(pid) = found.fetch_optional(&mut *connection).await.unwrap() {
                return pid;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Waits for at most a time limit.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    let waited = tokio::time::timeout(Duration::from_secs(60), future).await;
    waited.expect("the test hangs")
}

/// Moves the clock of a reader until it pauses for `longest` between two polls.
pub(crate) async fn at_rest(clock: &ManualClock, longest: Duration) {
    loop {
        let pause = clock.wait_for_sleeper(Duration::ZERO).await;
        if pause == longest {
            return;
        }
        clock.advance(pause);
    }
}

pub(crate) fn stream() -> StreamId {
    StreamId::new(Name::from_static("Account"), AggregateId::new())
}

pub(crate) fn event() -> NewEvent {
    NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#)
}

pub(crate) fn events(number: usize) -> Vec<NewEvent> {
    (0..number).map(|_| event()).collect()
}

pub(crate) async fn add(store: &PgEventStore, stream: &StreamId, number: usize) -> Vec<RecordedEvent> {
    let added = store.append(stream, ExpectedVersion::Any, events(number));
    added.await.unwrap()
}

pub(crate) async fn read(store: &PgEventStore, stream: &StreamId) -> Vec<RecordedEvent> {
    let events = store.read_stream(stream, Version::FIRST, Direction::Forward);
    events.try_collect().await.unwrap()
}

pub(crate) async fn feed(store: &PgEventStore) -> Vec<RecordedEvent> {
    store.read_all(Position::START).try_collect().await.unwrap()
}

/// Recounts the tags from `events.tags`; returns the differences to `tags` and to `tagged_events`.
pub(crate) async fn recount(connection: &mut PgConnection) -> Vec<String> {
    let sql = "
        WITH truth AS (
            SELECT s.tenant_id, u.tag, e.event_type, e.position
            FROM events e JOIN streams s ON s.stream_no = e.stream_no CROSS JOIN LATERAL unnest(e.tags) u(tag)
        ),
        counted AS (SELECT tenant_id, tag, event_type, count(*) AS events FROM truth GROUP BY 1, 2, 3),
        stored AS (
            SELECT t.tenant_id, t.tag, c.key AS event_type, c.value::bigint AS events
            FROM tags t CROSS JOIN LATERAL jsonb_each_text(t.counts) c WHERE c.key <> ''
        ),
        linked AS (
            SELECT t.tenant_id, t.tag, l.position FROM tagged_events l LEFT JOIN tags t ON t.tag_no = l.tag_no
        )
        SELECT format('%s %s: %s events, counted %s', tag, event_type, c.events, s.events)
        FROM counted c FULL JOIN stored s USING (tenant_id, tag, event_type)
        WHERE c.events IS DISTINCT FROM s.events
        UNION ALL
        SELECT format('%s at %s', tag, position)
        FROM truth t FULL JOIN linked l USING (tenant_id, tag, position)
        WHERE t.event_type IS NULL OR l IS NULL";
    sqlx::query_scalar(sql).fetch_all(connection).await.unwrap()
}

/// Number of migrations.
pub(crate) fn migrations() -> u32 {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    u32::try_from(files.count()).unwrap()
}
