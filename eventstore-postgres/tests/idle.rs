//! The statements of an app at rest: its number of projections does not matter. The tests are a program of their own, as
//! their clock is quick: a machine that is busy with other tests would answer late.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{add, connect, run, stream};
use eventbus::{
    InMemoryEventBus,
    app::AppBuilder,
    clock::{Clock, SharedClock, Sleep, SystemClock},
    prelude::*,
};
use eventbus_test::PrivatePostgres;
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig};
use time::OffsetDateTime;
use tokio::time::Instant;

/// A server that counts statements.
struct QuietServer {
    server: PrivatePostgres,
    /// In a database of its own, whose statements do not count.
    admin: PgConnection,
}

impl QuietServer {
    async fn start() -> Self {
        let settings = ["-c", "shared_preload_libraries=pg_stat_statements", "-c", "autovacuum=off", "-c", "fsync=off"];
        let server = eventbus_test::private_postgres_with(&settings);
        let mut admin = connect(server.url()).await;
        run(&mut admin, "CREATE EXTENSION pg_stat_statements").await;
        Self { server, admin }
    }
}

/// The measured time, on the clock of the app.
const WINDOW: Duration = Duration::from_secs(60);

/// Longer than the server may take to answer a renewal, on the clock of the app.
const LEASE: Duration = Duration::from_secs(20);

/// A clock on which time passes ten times as fast.
#[derive(Debug, Clone, Copy)]
struct QuickClock(Instant);

impl QuickClock {
    const SPEED: u32 = 10;

    fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for QuickClock {
    fn now(&self) -> OffsetDateTime {
        SystemClock.now()
    }

    fn instant(&self) -> Instant {
        self.0 + self.0.elapsed() * Self::SPEED
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        SystemClock.sleep_until(self.0 + deadline.saturating_duration_since(self.0) / Self::SPEED)
    }
}

#[handler(manual)]
async fn handled(_event: &RecordedEvent) {}

/// Adds each projection to an app: some in memory, some with rows in a table of all.
macro_rules! projections {
    ($($state:ident $state_name:tt $rows:ident $rows_name:tt),+ $(,)?) => {
        $(
            #[derive(Default)]
            struct $state(u64);

            #[projection(name = $state_name, manual)]
            impl $state {
                fn any(&mut self, _event: &RecordedEvent) {
                    self.0 += 1;
                }
            }

            #[derive(Default)]
            struct $rows;

            #[projection(name = $rows_name, tables("idle"), manual)]
            impl $rows {
                async fn any(&self, _event: &RecordedEvent, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
                    run(connection, "INSERT INTO idle VALUES (1)").await;
                    Ok(())
                }
            }
        )+

        /// Adds `number` projections in memory, and as many with rows.
        fn add_projections(mut app: AppBuilder, number: usize) -> AppBuilder {
            let mut added = 0;
            $(
                if added < number {
                    app = app.projection($state::default()).projection($rows);
                    added += 1;
                }
            )+
            assert_eq!(added, number);
            app
        }
    };
}

projections! {
    State1 "state-1" Rows1 "rows-1",
    State2 "state-2" Rows2 "rows-2",
    State3 "state-3" Rows3 "rows-3",
    State4 "state-4" Rows4 "rows-4",
    State5 "state-5" Rows5 "rows-5",
    State6 "state-6" Rows6 "rows-6",
    State7 "state-7" Rows7 "rows-7",
    State8 "state-8" Rows8 "rows-8",
    State9 "state-9" Rows9 "rows-9",
    State10 "state-10" Rows10 "rows-10",
}

/// The processes of an app at rest, in a database of its own: the first one feeds its projections.
struct IdleApp {
    database: &'static str,
    processes: Vec<(App, PgEventStore)>,
    before: BTreeMap<String, i64>,
    clock: SharedClock,
    since: Instant,
}

impl IdleApp {
    async fn start(server: &mut QuietServer, database: &'static str, projections: usize, processes: usize) -> Self {
        run(&mut server.admin, &format!("CREATE DATABASE {database}")).await;
        let (url, _) = server.server.url().rsplit_once('/').unwrap();
        let database_url = format!("{url}/{database}");
        run(&mut connect(&database_url).await, "CREATE TABLE idle (number bigint)").await;
        let config = PgEventStoreConfig { database_url, ..Default::default() };
        let (clock, mut running) = (SharedClock::new(QuickClock::new()), Vec::new());
        // one for all processes, as a bus on a server is
        let bus = InMemoryEventBus::new();
        for _ in 0..processes {
            let store: PgEventStore = common::open(config.clone()).await;
            if running.is_empty() {
                add(&store, &stream(), 3).await;
            }
            let app = App::builder().store(store.clone()).clock(clock.clone()).lease(LEASE);
            let app = app.bus(bus.clone()).handler::<handled>();
            let app = add_projections(app, projections).start().await.unwrap();
            app.settled().await.unwrap();
            running.push((app, store));
        }
        let before = statements(server, database).await;
        let since = clock.instant();
        Self { database, processes: running, before, clock, since }
    }

    /// Returns the statements since the start, and their number.
    async fn statements(&self, server: &mut QuietServer) -> (BTreeMap<String, i64>, u64) {
        let mut statements = statements(server, self.database).await;
        for (text, calls) in &mut statements {
            *calls -= self.before.get(text).copied().unwrap_or_default();
        }
        statements.retain(|_, calls| *calls > 0);
        let number = statements.values().sum::<i64>();
        (statements, number.cast_unsigned())
    }
}

/// Returns how often the server has run each statement of a database.
async fn statements(server: &mut QuietServer, database: &str) -> BTreeMap<String, i64> {
    let sql = "SELECT query, sum(calls)::bigint FROM pg_stat_statements
        WHERE dbid = (SELECT oid FROM pg_database WHERE datname = $1) GROUP BY query";
    let rows: Vec<(String, i64)> = sqlx::query_as(sql).bind(database).fetch_all(&mut server.admin).await.unwrap();
    rows.into_iter().collect()
}

#[tokio::test]
async fn an_app_at_rest_asks_once_a_second_at_most() {
    let mut server = QuietServer::start().await;
    // beside the one that feeds the projections, a process stands by
    let cases = [("few", 1, 1, 1), ("many", 10, 1, 1), ("standby", 10, 2, 5)];
    let mut apps = Vec::new();
    for (database, projections, processes, a_second) in cases {
        apps.push((IdleApp::start(&mut server, database, projections, processes).await, a_second));
    }
    for (app, a_second) in &apps {
        // no synchronisation: the time in which statements are counted
        app.clock.sleep_until(app.since + WINDOW).await;
        let (statements, number) = app.statements(&mut server).await;
        let most = app.clock.elapsed(app.since).as_secs() * a_second;
        assert!(
            (1..=most).contains(&number),
            "{number} statements of {}, 1 to {most} were allowed: {statements:#?}",
            app.database
        );
    }
}

#[tokio::test]
async fn what_a_process_appends_is_published_without_a_read_of_the_feed() {
    const EVENTS: u64 = 200;
    let mut server = QuietServer::start().await;
    let app = IdleApp::start(&mut server, "own_appends", 0, 1).await;
    let (running, store) = &app.processes[0];
    for _ in 0..EVENTS {
        let position = add(store, &stream(), 1).await[0].position();
        running.published(position).await.unwrap();
    }
    let (mut statements, _) = app.statements(&mut server).await;
    statements.retain(|text, _| text.contains(".events") && !text.contains("INSERT"));
    let reads = statements.values().sum::<i64>().cast_unsigned();
    // the polls of an app at rest go on, and a busy machine lets some of them find events
    let most = app.clock.elapsed(app.since).as_secs() + EVENTS / 4;
    assert!(reads <= most, "{reads} reads for {EVENTS} events, {most} were allowed: {statements:#?}");
}
