//! Handlers and projections wait for a database that is locked, full or out of memory: no event loses an attempt to it.
//!
//! The handlers here have one retry, so each of these faults outlasts the retry budget.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    App, BoxError, ExpectedVersion, Never, NewEvent, StreamId,
    health::{Health, HealthThresholds},
    port::DeadLetterFilter,
    prelude::*,
    projection::ProjectionStatus,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use eventstore_sqlite::{SqliteEventStore, SqliteEventStoreConfig, SqliteTransaction};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::sync::watch;
use workspace_tests::fire::faults::SmallDisk;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Paid {
    cents: i64,
}

/// Number of calls.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicU64>);

impl Calls {
    fn count(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Default)]
struct RowCalls(Calls);

/// Bytes of one row, so that a few rows fill a small disk.
const FILLING: usize = 4_000;

async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(120), "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn pay(app: &App, order: usize, count: usize) {
    let stream = StreamId::parse("Order", &format!("order-{order}")).unwrap();
    let events = (0..count).map(|_| NewEvent::from_event(&Paid { cents: 120 }).unwrap()).collect();
    app.store().append(&stream, ExpectedVersion::Any, events).await.unwrap();
}

/// Returns `true` if health reports that both wait for their database, since when and with which error.
fn both_wait(health: &Health, fault: &str) -> bool {
    let alerts = health.alerts(&HealthThresholds::default());
    ["`note`", "`rows`"].iter().all(|name| {
        alerts.iter().any(|alert| alert.starts_with(name) && alert.contains("since") && alert.contains(fault))
    })
}

async fn nothing_was_given_up(app: &App) {
    let dead_letters =
        app.bus().dead_letters().unwrap().list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap();
    assert!(dead_letters.letters.is_empty(), "{dead_letters:?}");
    let projections = app.projections().await.unwrap();
    assert!(projections.iter().all(|status| status.stopped.is_none()), "{projections:?}");
    // the reply to what was written last may be under way
    wait_until("nothing waits for its database", async || {
        let is_well = |status: &ProjectionStatus| status.trouble.is_none() && status.trouble_since.is_none();
        app.projections().await.unwrap().iter().all(is_well) && app.health().await.waiting.is_empty()
    })
    .await;
}

/// Returns a bus on a different server than the store, which the fault does not affect.
fn bus_elsewhere() -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: eventbus_test::redis_url().into(),
        stream_prefix: eventbus_test::unique_name("faults"),
        ..RedisEventBusConfig::default()
    }
}

mod postgres {
    use super::*;

    #[handler(manual, group = "notes", retries = 1)]
    async fn note(
        event: &Paid,
        meta: &Metadata,
        connection: &mut PgConnection,
        State(calls): State<Calls>,
    ) -> Result<(), sqlx::Error> {
        calls.count();
        let sql = "INSERT INTO public.notes (id, cents, filling) VALUES ($1, $2, $3)";
        let filling = filling(event.cents);
        sqlx::query(sql).bind(meta.event_id().to_string()).bind(event.cents).bind(filling).execute(connection).await?;
        Ok(())
    }

    #[derive(Default)]
    struct Rows;

    #[projection(name = "rows", manual)]
    impl Rows {
        async fn paid(
            &self,
            event: &Paid,
            meta: &Metadata,
            connection: &mut PgConnection,
            State(calls): State<RowCalls>,
        ) -> Result<(), BoxError> {
            calls.0.count();
            let sql = "INSERT INTO public.order_rows (id, cents, filling) VALUES ($1, $2, $3)";
            let query = sqlx::query(sql).bind(meta.event_id().to_string()).bind(event.cents);
            query.bind(filling(event.cents)).execute(connection).await?;
            Ok(())
        }
    }

    /// Returns a text that no compression makes smaller.
    fn filling(seed: i64) -> String {
        let mut random = fastrand::Rng::with_seed(seed.unsigned_abs());
        (0..FILLING).map(|_| random.alphanumeric()).collect()
    }

    struct Place {
        app: App,
        admin: PgConnection,
        calls: Calls,
        row_calls: RowCalls,
    }

    impl Place {
        async fn new(tables: &str, transaction_timeout: Duration) -> Self {
            let name = eventbus_test::unique_name("faults");
            let mut admin = PgConnection::connect(eventbus_test::postgres_url()).await.unwrap();
            run(&mut admin, &format!("CREATE DATABASE {name}")).await.unwrap();
            let database_url = eventbus_test::database_url_for(&name);
            let config = PgEventStoreConfig { database_url, transaction_timeout, ..Default::default() };
            Self::with(tables, config, None).await
        }

        /// Starts an app; without `bus` it has the in-process one.
        async fn with(tables: &str, config: PgEventStoreConfig, bus: Option<RedisEventBusConfig>) -> Self {
            let mut admin = PgConnection::connect(&config.database_url).await.unwrap();
            run(&mut admin, tables).await.unwrap();
            let store = PgEventStore::connect_with(config).await.unwrap();
            let (calls, row_calls) = (Calls::default(), RowCalls::default());
            let builder = App::builder().store(store).state(calls.clone()).state(row_calls.clone());
            let mut builder = builder.handler::<note>().handler::<sleeps>().projection(Rows);
            if let Some(config) = bus {
                builder = builder.bus(RedisEventBus::connect(config).await.unwrap());
            }
            let app = builder.wait_timeout(Duration::from_secs(120)).start().await.unwrap();
            Self { app, admin, calls, row_calls }
        }

        /// Pays five more events, and waits until both have failed `times` times and health says why.
        async fn both_fail(&mut self, times: u64, fault: &str) {
            let (notes, rows) = (self.calls.now() + times, self.row_calls.0.now() + times);
            pay(&self.app, 1, 5).await;
            let have_failed = async || self.calls.now() >= notes && self.row_calls.0.now() >= rows;
            wait_until(&format!("both have failed {times} times"), have_failed).await;
            self.both_wait_for(fault).await;
        }

        async fn both_wait_for(&self, fault: &str) {
            wait_until("health says so", async || both_wait(&self.app.health().await, fault)).await;
        }

        async fn count(&mut self, table: &str) -> i64 {
            let sql = format!("SELECT count(*) FROM public.{table}");
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.admin).await.unwrap()
        }

        async fn everything_is_written_once(&mut self, events: i64) {
            self.app.settled().await.unwrap();
            assert_eq!((self.count("notes").await, self.count("order_rows").await), (events, events));
            nothing_was_given_up(&self.app).await;
        }
    }

    async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.map(drop)
    }

    const TABLES: &str = "CREATE TABLE notes (id text PRIMARY KEY, cents bigint, filling text);
         CREATE TABLE order_rows (id text PRIMARY KEY, cents bigint, filling text)";

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tables_that_are_locked_for_longer_than_every_budget_are_waited_for() {
        let mut place = Place::new(TABLES, Duration::from_millis(400)).await;
        pay(&place.app, 0, 5).await;
        place.everything_is_written_once(5).await;
        run(&mut place.admin, "BEGIN; LOCK TABLE notes, order_rows IN ACCESS EXCLUSIVE MODE").await.unwrap();
        place.both_fail(6, "SQLSTATE 55P03").await;
        let status = place.app.projections().await.unwrap().remove(0);
        assert!(status.stopped.is_none() && status.trouble.is_some() && status.trouble_since.is_some(), "{status:?}");
        run(&mut place.admin, "COMMIT").await.unwrap();
        place.everything_is_written_once(10).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_is_waited_for() {
        let disk = SmallDisk::mount(4).unwrap();
        let tablespace = eventbus_test::unique_name("small");
        let (tables, is_full) = match &disk {
            Some(disk) => {
                let mut admin = PgConnection::connect(eventbus_test::postgres_url()).await.unwrap();
                let folder: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut admin).await.unwrap();
                disk.give_to_owner_of(&folder).unwrap();
                let location = disk.path().display();
                run(&mut admin, &format!("CREATE TABLESPACE {tablespace} LOCATION '{location}'")).await.unwrap();
                let tables = TABLES.replace("text)", &format!("text) TABLESPACE {tablespace}"));
                let filler = "CREATE TABLE filler (filling text)";
                (format!("{tables}; {filler} TABLESPACE {tablespace}"), true)
            }
            None => {
                println!("no file system can be mounted here: the server says 53100 because a trigger raises it");
                let trigger = "CREATE TABLE disk (is_full boolean); INSERT INTO disk VALUES (false);
                     CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                       IF (SELECT is_full FROM public.disk) THEN
                         RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END IF;
                       RETURN NEW; END $$;
                     CREATE TRIGGER look BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION look();
                     CREATE TRIGGER look BEFORE INSERT ON order_rows FOR EACH ROW EXECUTE FUNCTION look()";
                (format!("{TABLES}; {trigger}"), false)
            }
        };
        let mut place = Place::new(&tables, Duration::from_secs(10)).await;
        pay(&place.app, 0, 5).await;
        place.everything_is_written_once(5).await;
        let (notes, rows) = (place.calls.now(), place.row_calls.0.now());
        if is_full {
            let fill = "INSERT INTO filler SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 60)";
            while run(&mut place.admin, fill).await.is_ok() {}
        } else {
            run(&mut place.admin, "UPDATE disk SET is_full = true").await.unwrap();
        }
        pay(&place.app, 1, 40).await;
        wait_until("both have failed six times", async || {
            place.calls.now() >= notes + 6 && place.row_calls.0.now() >= rows + 6
        })
        .await;
        wait_until("health says so", async || both_wait(&place.app.health().await, "SQLSTATE 53100")).await;
        let free = if is_full { "DROP TABLE filler" } else { "UPDATE disk SET is_full = false" };
        run(&mut place.admin, free).await.unwrap();
        place.everything_is_written_once(45).await;
        if is_full {
            place.app.shutdown(Duration::from_secs(30)).await.unwrap();
            run(&mut place.admin, "DROP TABLE notes, order_rows").await.unwrap();
            run(&mut place.admin, &format!("DROP TABLESPACE {tablespace}")).await.unwrap();
        }
    }

    /// Returns the SQLSTATE with which a server refuses connections; `None` if it accepts them.
    async fn refusal(url: &str) -> Option<String> {
        let error = PgConnection::connect(url).await.err()?;
        Some(error.as_database_error()?.code()?.into_owned())
    }

    /// Crashes the server while both are in a statement; it then refuses connections.
    async fn a_server_that_takes_no_connections_yet_is_waited_for(bus: Option<RedisEventBusConfig>) {
        let mut server = eventbus_test::private_postgres();
        let url = server.url().to_owned();
        let connect_timeout = Duration::from_millis(500);
        let config = PgEventStoreConfig { database_url: url.clone(), connect_timeout, ..Default::default() };
        let has_bus = bus.is_some();
        let mut place = Place::with(TABLES, config, bus).await;
        pay(&place.app, 0, 5).await;
        place.everything_is_written_once(5).await;
        run(&mut place.admin, "BEGIN; LOCK TABLE notes, order_rows IN ACCESS EXCLUSIVE MODE").await.unwrap();
        pay(&place.app, 1, 5).await;
        wait_until("both wait in a statement", async || {
            let waiting = "SELECT count(DISTINCT relation) FROM pg_locks WHERE NOT granted AND locktype = 'relation'";
            sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut place.admin).await.unwrap() == 2
        })
        .await;
        server.restart_refusing();
        // the in-process bus is in this database too and starts no handler again, so the alert still names the broken
        // connection
        let fault = if has_bus { "no connection" } else { "connection" };
        place.both_wait_for(fault).await;
        assert_eq!(refusal(&url).await.as_deref(), Some("57P03"));
        server.stop();
        server.start();
        place.admin = PgConnection::connect(&url).await.unwrap();
        place.everything_is_written_once(10).await;
        place.app.shutdown(Duration::from_secs(30)).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_the_bus_in_process_a_server_that_takes_no_connections_yet_is_waited_for() {
        a_server_that_takes_no_connections_yet_is_waited_for(None).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_the_bus_elsewhere_a_server_that_takes_no_connections_yet_is_waited_for() {
        a_server_that_takes_no_connections_yet_is_waited_for(Some(bus_elsewhere())).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tables_whose_files_cannot_be_opened_are_waited_for() {
        let server = eventbus_test::private_postgres();
        let config = PgEventStoreConfig { database_url: server.url().into(), ..Default::default() };
        let mut place = Place::with(TABLES, config, None).await;
        pay(&place.app, 0, 5).await;
        place.everything_is_written_once(5).await;
        let files = "SELECT current_setting('data_directory') || '/' || pg_relation_filepath(name)
             FROM (VALUES ('public.notes'), ('public.order_rows')) tables (name)";
        let files: Vec<String> = sqlx::query_scalar(files).fetch_all(&mut place.admin).await.unwrap();
        // writes all pages to disk
        run(&mut place.admin, "CHECKPOINT").await.unwrap();
        for file in &files {
            std::fs::rename(file, format!("{file}.away")).unwrap();
        }
        // sessions with open files could still use them
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        run(&mut place.admin, others).await.unwrap();
        place.both_fail(4, "SQLSTATE 58P01").await;
        for file in &files {
            std::fs::rename(format!("{file}.away"), file).unwrap();
        }
        place.everything_is_written_once(10).await;
        place.app.shutdown(Duration::from_secs(30)).await.unwrap();
    }

    /// The tables are on a second server, of which the app's server is a client: it reports that server's errors in
    /// class 08.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tables_on_another_server_that_takes_no_connections_are_waited_for() {
        let mut other = eventbus_test::private_postgres();
        let mut admin = PgConnection::connect(other.url()).await.unwrap();
        run(&mut admin, TABLES).await.unwrap();
        let columns = "(id text, cents bigint, filling text) SERVER other";
        let tables = format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '127.0.0.1', port '{}', dbname 'postgres');
             CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user 'postgres');
             CREATE FOREIGN TABLE notes {columns}; CREATE FOREIGN TABLE order_rows {columns}",
            other.port()
        );
        // the app's server is private as well, because it must reach the second one
        let server = eventbus_test::private_postgres();
        let config = PgEventStoreConfig { database_url: server.url().into(), ..Default::default() };
        let mut place = Place::with(&tables, config, None).await;
        pay(&place.app, 0, 5).await;
        place.everything_is_written_once(5).await;
        other.restart_refusing();
        assert_eq!(refusal(other.url()).await.as_deref(), Some("57P03"));
        place.both_fail(4, "SQLSTATE 08001").await;
        other.stop();
        other.start();
        place.everything_is_written_once(10).await;
        place.app.shutdown(Duration::from_secs(30)).await.unwrap();
    }

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Order")]
    struct Slept {}

    #[handler(manual, group = "sleepers", retries = 1)]
    async fn sleeps(_event: &Slept, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_sleep(60)").execute(connection).await.map(drop)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_statement_that_takes_too_long_is_the_events_own_failure() {
        let place = Place::new(TABLES, Duration::from_millis(200)).await;
        let stream = StreamId::parse("Order", "1").unwrap();
        let events = vec![NewEvent::from_event(&Slept {}).unwrap()];
        place.app.store().append(&stream, ExpectedVersion::Any, events).await.unwrap();
        wait_until("it is a dead letter", async || {
            let dead_letters = place
                .app
                .bus()
                .dead_letters()
                .unwrap()
                .list_dead_letters(&DeadLetterFilter::default(), None, 10)
                .await
                .unwrap();
            dead_letters.letters.len() == 1
        })
        .await;
        assert!(place.app.health().await.waiting.is_empty());
    }
}

mod sqlite {
    use super::*;

    #[handler(manual, group = "notes", retries = 1)]
    async fn note(
        event: &Paid,
        meta: &Metadata,
        tx: &mut SqliteTransaction,
        State(calls): State<Calls>,
    ) -> Result<(), BoxError> {
        calls.count();
        let sql = "INSERT INTO notes VALUES (?1, ?2, zeroblob(60000))";
        tx.execute(sql, (meta.event_id().to_string(), event.cents))?;
        Ok(())
    }

    #[derive(Default)]
    struct Rows;

    #[projection(name = "rows", manual)]
    impl Rows {
        async fn paid(
            &self,
            event: &Paid,
            meta: &Metadata,
            tx: &mut SqliteTransaction,
            State(calls): State<RowCalls>,
        ) -> Result<(), BoxError> {
            calls.0.count();
            let sql = "INSERT INTO order_rows VALUES (?1, ?2, zeroblob(60000))";
            tx.execute(sql, (meta.event_id().to_string(), event.cents))?;
            Ok(())
        }
    }

    async fn tell(store: &SqliteEventStore, sql: &str) {
        let mut transaction = store.begin_transaction().await.unwrap();
        transaction.connection().unwrap().execute_batch(sql).unwrap();
        transaction.commit().await.unwrap();
    }

    async fn ask(store: &SqliteEventStore, sql: &str) -> i64 {
        let mut transaction = store.begin_transaction().await.unwrap();
        transaction.connection().unwrap().query_row(sql, (), |row| row.get(0)).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_is_waited_for() {
        let folder = std::env::temp_dir().join(eventbus_test::unique_name("faults"));
        std::fs::create_dir_all(&folder).unwrap();
        let store = SqliteEventStore::open(folder.join("orders.db")).await.unwrap();
        for table in ["notes", "order_rows"] {
            tell(&store, &format!("CREATE TABLE {table} (id TEXT PRIMARY KEY, cents INTEGER, filling BLOB)")).await;
        }
        let (calls, row_calls) = (Calls::default(), RowCalls::default());
        let builder = App::builder().store(store.clone()).state(calls.clone()).state(row_calls.clone());
        let builder = builder.handler::<note>().projection(Rows).wait_timeout(Duration::from_secs(120));
        let app = builder.start().await.unwrap();
        pay(&app, 0, 5).await;
        app.settled().await.unwrap();
        // room for events and records of deliveries, not for rows
        let pages = ask(&store, "SELECT page_count FROM pragma_page_count").await + 8;
        tell(&store, &format!("PRAGMA max_page_count = {pages}")).await;
        let (notes, rows) = (calls.now(), row_calls.0.now());
        pay(&app, 1, 5).await;
        wait_until("both have failed six times", async || calls.now() >= notes + 6 && row_calls.0.now() >= rows + 6)
            .await;
        wait_until("health says so", async || both_wait(&app.health().await, "SQLITE_FULL")).await;
        tell(&store, "PRAGMA max_page_count = 1073741823").await;
        app.settled().await.unwrap();
        nothing_was_given_up(&app).await;
        for table in ["notes", "order_rows"] {
            assert_eq!(ask(&store, &format!("SELECT count(*) FROM {table}")).await, 10, "{table}");
        }
        app.shutdown(Duration::from_secs(30)).await.unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_that_another_connection_has_locked_for_longer_than_every_limit_is_waited_for() {
        const LOCKED: Duration = Duration::from_secs(15); // three times the lock timeout of a connection by default
        let folder = std::env::temp_dir().join(eventbus_test::unique_name("faults"));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("orders.db");
        let store = SqliteEventStore::open(&file).await.unwrap();
        for table in ["notes", "order_rows"] {
            tell(&store, &format!("CREATE TABLE {table} (id TEXT PRIMARY KEY, cents INTEGER, filling BLOB)")).await;
        }
        let (calls, row_calls) = (Calls::default(), RowCalls::default());
        let builder = App::builder().store(store.clone()).state(calls.clone()).state(row_calls.clone());
        let builder = builder.handler::<note>().projection(Rows).wait_timeout(Duration::from_secs(120));
        let app = builder.start().await.unwrap();
        let config = SqliteEventStoreConfig { transaction_timeout: Duration::from_secs(300), ..Default::default() };
        let other = SqliteEventStore::open_with(&file, config).await.unwrap();

        // locked while both have events to handle
        let (mut events, mut orders) = (0, 0);
        let lock = loop {
            pay(&app, orders, 40).await;
            (events, orders) = (events + 40, orders + 1);
            let mut lock = other.begin_transaction().await.unwrap();
            let mut count = |table: &str| -> i64 {
                let sql = format!("SELECT count(*) FROM {table}");
                lock.connection().unwrap().query_row(&sql, (), |row| row.get(0)).unwrap()
            };
            if count("notes") < events && count("order_rows") < events {
                break lock;
            }
            drop(lock);
            assert!(orders < 100, "they are faster than the lock");
        };
        let began = Instant::now();
        // the handler waits for the lock behind the projection, and has no fault of its own
        wait_until("health says so", async || {
            let alerts = app.health().await.alerts(&HealthThresholds::default());
            let of_rows = |alert: &String| alert.starts_with("`rows`") && alert.contains("SQLITE_BUSY");
            began.elapsed() >= LOCKED && alerts.iter().any(of_rows)
        })
        .await;
        drop(lock);
        app.settled().await.unwrap();
        nothing_was_given_up(&app).await;
        for table in ["notes", "order_rows"] {
            assert_eq!(ask(&store, &format!("SELECT count(*) FROM {table}")).await, events, "{table}");
        }
        app.shutdown(Duration::from_secs(30)).await.unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

mod redis_store {
    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Note)]
    struct Noted {
        cents: i64,
    }

    /// The notes of all payments.
    #[derive(Debug, Default, Aggregate)]
    #[aggregate(events(Noted))]
    struct Note {
        cents: i64,
    }

    impl Apply for Note {
        fn apply(&mut self, NoteEvent::Noted(noted): &NoteEvent) {
            self.cents += noted.cents;
        }
    }

    /// Would be a dead letter after one failure that counts.
    #[handler(manual, group = "notes", retries = 0)]
    async fn note(
        event: &Paid,
        notes: Repository<Note>,
        State(calls): State<Calls>,
        State(gate): State<Gate>,
    ) -> Result<(), HandlerError> {
        calls.count();
        gate.pass().await;
        let noted = Noted { cents: event.cents };
        notes.upsert(&"all".parse()?, |_| Ok::<_, Never>(noted.clone())).await?;
        Ok(())
    }

    /// The handler waits here in the middle of an event.
    #[derive(Clone)]
    struct Gate(Arc<watch::Sender<bool>>);

    impl Gate {
        fn open() -> Self {
            Self(Arc::new(watch::Sender::new(true)))
        }

        fn set(&self, is_open: bool) {
            self.0.send_replace(is_open);
        }

        async fn pass(&self) {
            // fails only if the sender is gone, but `self` holds it
            let _ = self.0.subscribe().wait_for(|is_open| *is_open).await;
        }
    }

    #[derive(Debug, Default)]
    struct Rows {
        cents: i64,
    }

    #[projection(name = "rows", manual)]
    impl Rows {
        fn paid(&mut self, event: &Paid) {
            self.cents += event.cents;
        }
    }

    struct Place {
        server: eventbus_test::PrivateRedis,
        app: App,
        gate: Gate,
        calls: Calls,
    }

    impl Place {
        /// Starts a scenario in which both have handled five events; without `bus` the app has the in-process one.
        async fn new(server: eventbus_test::PrivateRedis, bus: Option<RedisEventBusConfig>) -> Self {
            let config = RedisEventStoreConfig { redis_url: server.url().into(), ..Default::default() };
            let store = RedisEventStore::connect(config).await.unwrap();
            let (calls, gate) = (Calls::default(), Gate::open());
            let builder = App::builder().store(store.clone()).state(calls.clone()).state(gate.clone());
            let mut builder = builder.handler::<note>().projection_with(Rows::default);
            if let Some(config) = bus {
                builder = builder.bus(RedisEventBus::connect(config).await.unwrap());
            }
            let app = builder.wait_timeout(Duration::from_secs(120)).start().await.unwrap();
            pay(&app, 0, 5).await;
            app.settled().await.unwrap();
            Self { server, app, gate, calls }
        }

        /// Makes the handler wait in the middle of the first of five more events.
        async fn begin(&self) {
            let notes = self.calls.now();
            self.gate.set(false);
            pay(&self.app, 1, 5).await;
            wait_until("the handler is in an event", async || self.calls.now() > notes).await;
        }

        async fn the_handler_waits_for(&self, fault: &str) {
            wait_until("health says so", async || {
                let alerts = self.app.health().await.alerts(&HealthThresholds::default());
                alerts
                    .iter()
                    .any(|alert| alert.starts_with("`note`") && alert.contains("since") && alert.contains(fault))
            })
            .await;
        }

        async fn everything_is_written_once(self) {
            self.app.settled().await.unwrap();
            nothing_was_given_up(&self.app).await;
            let notes = self.app.repository::<Note>().load(&"all".parse().unwrap()).await.unwrap();
            let rows = self.app.projection::<Rows>().unwrap().read().await.cents;
            assert_eq!((notes.cents, notes.version().get(), rows), (1_200, 10, 1_200));
            self.app.shutdown(Duration::from_secs(30)).await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_without_memory_is_waited_for() {
        let place = Place::new(eventbus_test::private_redis(), None).await;
        let mut admin = eventbus_test::internal::redis_connection(place.server.url()).await;
        let set = async |admin: &mut redis::aio::MultiplexedConnection, memory: &str| {
            let mut set = redis::cmd("CONFIG");
            set.arg("SET").arg("maxmemory").arg(memory).arg("maxmemory-policy").arg("noeviction");
            set.query_async::<()>(admin).await.unwrap();
        };
        place.begin().await;
        set(&mut admin, "1").await;
        place.gate.set(true);
        // the handler is called again and again, as each call ends without a commit
        let calls = place.calls.now();
        wait_until("the handler has failed four times", async || place.calls.now() >= calls + 4).await;
        place.the_handler_waits_for("OOM").await;
        set(&mut admin, "0").await;
        place.everything_is_written_once().await;
    }

    /// Restarts the server, which then loads its data, while the handler is in an event.
    async fn a_server_that_loads_its_data_is_waited_for(bus: impl FnOnce(&str) -> Option<RedisEventBusConfig>) {
        let server = eventbus_test::private_redis();
        let bus = bus(server.url());
        let mut place = Place::new(server, bus).await;
        place.begin().await;
        place.server.restart_loading();
        place.gate.set(true);
        place.the_handler_waits_for("LOADING").await;
        place.server.finish_loading();
        place.everything_is_written_once().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_the_bus_in_process_a_server_that_loads_its_data_is_waited_for() {
        a_server_that_loads_its_data_is_waited_for(|_| None).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_the_bus_there_too_a_server_that_loads_its_data_is_waited_for() {
        let bus = |url: &str| Some(RedisEventBusConfig { redis_url: url.into(), ..RedisEventBusConfig::default() });
        a_server_that_loads_its_data_is_waited_for(bus).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_the_bus_elsewhere_a_server_that_loads_its_data_is_waited_for() {
        a_server_that_loads_its_data_is_waited_for(|_| Some(bus_elsewhere())).await;
    }
}
