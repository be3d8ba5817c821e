//! Processes that share the handlers of one store, while they are killed, paused for longer than their leases, and while
//! the server of the store crashes: no event is lost, the runs of an aggregate begin in order, no event has two live owners,
//! and what a handler writes in the store's transaction takes effect once.

mod handlers;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{RecordedEvent, port::EventStore};
use eventbus_test::PrivatePostgres;
use fastrand::Rng;
use sqlx::{Connection as _, PgConnection};
use tokio::task::block_in_place;

use self::handlers::HANDLERS;
pub(in crate::fire) use self::handlers::Process;
use super::{
    HarnessError,
    auditor::Violation,
    database::execute_sql,
    kills::Program,
    place::Place,
    run_summary::RunSummary,
    runs::{AuditedHandler, Expected, Fleet, RunFile, Until, audit, load_events, wait_for_handlers},
};
use crate::stores;

const PAUSE_BETWEEN_FAULTS_MS: Range<u64> = 200..800;
/// The pause before the fault of a process that begins.
const BEGIN_MS: Range<u64> = 5..80;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Time limit for the successors of a paused process to take its shards.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
const EXPIRED_SQL: &str = "SELECT count(*) FROM eventbus.handler_shards WHERE expires_at <= clock_timestamp()";

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Set for processes on one SQLite file, which are only killed; unset for PostgreSQL.
    pub on_sqlite: bool,
    /// Number of processes at any time.
    pub processes: usize,
    /// Number of processes to kill.
    pub kills: u64,
    /// Number of processes to replace after SIGTERM, which is no fault: nothing is repeated.
    pub stops: u64,
    /// Number of times a process is paused until others own its shards.
    pub pauses: u64,
    /// Number of crashes of the PostgreSQL server.
    pub crashes: u64,
    /// The duration of the leases.
    pub lease: Duration,
    /// The seed of all random choices.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
    Pause,
    Crash,
}

/// Runs a plan.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(program: &Program, plan: Plan) -> Result<RunSummary, HarnessError> {
    let (began, file) = (Instant::now(), RunFile::create("processes"));
    let server = (!plan.on_sqlite).then(|| block_in_place(eventbus_test::private_postgres));
    let place = match &server {
        Some(server) => Place::Postgres(server.url().to_owned()),
        None => Place::Sqlite(stores::folder("processes")),
    };
    let store = place.open().await?;
    create_table(&place).await?;
    let mut test =
        Test { plan, place, server, fleet: Fleet::new(program, &file.0)?, random: Rng::with_seed(plan.seed) };
    for _ in 0..plan.processes {
        test.start(&file, true)?;
    }
    // the first faults find every shard owned
    wait_for_handlers(&*store, &names(), Until::Started(store.head().await?)).await?;
    test.inject_all(&file).await?;
    // a clean end is no fault: the next processes go on at once, and repeat nothing
    for _ in 0..plan.processes {
        test.fleet.stop(0).await?;
        test.start(&file, false)?;
    }
    let recovering = Instant::now();
    wait_for_handlers(&*store, &names(), Until::Finished).await?;
    let recovery = recovering.elapsed();
    while test.fleet.len() > 0 {
        test.fleet.stop(0).await?;
    }
    let mut figures = audit_all(&test, &file, &*store).await?;
    figures.slowest_recovery = Some(recovery);
    drop(store);
    if let Place::Sqlite(folder) = test.place {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(RunSummary { took: began.elapsed(), ..figures })
}

/// The names of the handlers; all take the only type of the load.
fn names() -> [(&'static str, &'static [&'static str]); 3] {
    HANDLERS.map(|(name, ..)| (name, &["Deposited"][..]))
}

/// A test with its processes.
struct Test {
    plan: Plan,
    place: Place,
    server: Option<PrivatePostgres>,
    fleet: Fleet,
    random: Rng,
}

impl Test {
    fn start(&mut self, file: &RunFile, writes: bool) -> Result<(), HarnessError> {
        let (seed, place, lease) = (self.random.u64(..), self.place.clone(), self.plan.lease);
        let role = |number| Process { number, place, runs: file.0.clone(), lease, writes, seed };
        self.fleet.start(role).map(drop)
    }

    /// Injects all faults of the plan in random order, with a pause before each. Half of
    /// them hit the newest process soon after its start.
    async fn inject_all(&mut self, file: &RunFile) -> Result<(), HarnessError> {
        let of_kind = |fault, count| std::iter::repeat_n(fault, usize::try_from(count).unwrap_or_default());
        let Plan { kills, stops, pauses, crashes, .. } = self.plan;
        let faults =
            of_kind(Fault::Kill, kills).chain(of_kind(Fault::Stop, stops)).chain(of_kind(Fault::Pause, pauses));
        let mut faults: Vec<_> = faults.chain(of_kind(Fault::Crash, crashes)).collect();
        self.random.shuffle(&mut faults);
        for fault in faults {
            let is_of_new = self.random.bool();
            let pause = self.random.u64(if is_of_new { BEGIN_MS } else { PAUSE_BETWEEN_FAULTS_MS });
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let places = self.fleet.len();
            let place = if is_of_new { places - 1 } else { self.random.usize(..places) };
            match fault {
                Fault::Kill => {
                    self.fleet.kill(place).await?;
                    self.start(file, true)?;
                }
                Fault::Stop => {
                    self.fleet.stop(place).await?;
                    self.start(file, true)?;
                }
                Fault::Pause => self.pause(place).await?,
                Fault::Crash => self.crash()?,
            }
        }
        Ok(())
    }

    /// Pauses a process until others own its shards.
    async fn pause(&mut self, place: usize) -> Result<(), HarnessError> {
        let mut connection = PgConnection::connect(self.server.as_ref().ok_or("no server")?.url()).await?;
        let paused = Instant::now();
        self.fleet.pause(place).await?;
        // the time of a lease from the last renewal, and a heartbeat of the successors
        tokio::time::sleep(self.plan.lease).await;
        while sqlx::query_scalar::<_, i64>(EXPIRED_SQL).fetch_one(&mut connection).await? > 0 {
            if paused.elapsed() > self.plan.lease + TAKEOVER_TIMEOUT {
                return Err("the shards of a paused process are not taken over".into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.fleet.resume(place).await
    }

    fn crash(&mut self) -> Result<(), HarnessError> {
        let server = self.server.as_mut().ok_or("no server")?;
        self.fleet.record_server(false)?;
        block_in_place(|| {
            server.stop();
            server.start();
        });
        self.fleet.record_server(true)
    }
}

async fn create_table(place: &Place) -> Result<(), HarnessError> {
    match place {
        Place::Postgres(url) => {
            let mut connection = PgConnection::connect(url).await?;
            execute_sql(&mut connection, "CREATE TABLE booked (id bigserial PRIMARY KEY, event bigint NOT NULL)").await
        }
        Place::Sqlite(folder) => {
            let connection = rusqlite::Connection::open(folder.join("events.db"))?;
            let sql = "CREATE TABLE booked (id INTEGER PRIMARY KEY AUTOINCREMENT, event INTEGER NOT NULL)";
            Ok(connection.execute(sql, ()).map(drop)?)
        }
        Place::Redis(_) => Err("no table on Redis".into()),
    }
}

/// Reads the events of the rows that `book` wrote, in the order in which it wrote them.
async fn load_booked(place: &Place) -> Result<Vec<u64>, HarnessError> {
    const SQL: &str = "SELECT event FROM booked ORDER BY id";
    let events: Vec<i64> = match place {
        Place::Postgres(url) => sqlx::query_scalar(SQL).fetch_all(&mut PgConnection::connect(url).await?).await?,
        Place::Sqlite(folder) => {
            let connection = rusqlite::Connection::open(folder.join("events.db"))?;
            let mut statement = connection.prepare(SQL)?;
            let events = statement.query_map((), |row| row.get(0))?;
            events.collect::<Result<_, _>>()?
        }
        Place::Redis(_) => return Err("no table on Redis".into()),
    };
    Ok(events.into_iter().map(i64::cast_unsigned).collect())
}

async fn audit_all(test: &Test, file: &RunFile, store: &dyn EventStore) -> Result<RunSummary, HarnessError> {
    let events = load_events(store).await?;
    let of_event = |event: &RecordedEvent| Expected {
        event: event.position().map_or(0, |position| position.get()),
        line: Arc::from(event.metadata().stream().to_string()),
    };
    let expected: Vec<_> = events.iter().map(of_event).collect();
    let handlers = HANDLERS.map(|(name, concurrency, is_transactional)| AuditedHandler {
        name,
        concurrency,
        is_transactional,
        expected: expected.clone(),
    });
    let mut audited = audit(&file.entries()?, &handlers);
    check_effects(&expected, &load_booked(&test.place).await?, &mut audited.report);
    let dead = store.handler_progress().ok_or("the store keeps no progress")?.count_dead_rows(u64::MAX >> 1).await?;
    if dead > 0 {
        audited.failures.push(format!("{dead} events are dead letters"));
    }
    let Plan { on_sqlite, processes, kills, stops, pauses, crashes, .. } = test.plan;
    let store = if on_sqlite { "one SQLite file" } else { "PostgreSQL" };
    Ok(RunSummary {
        events: events.len() as u64,
        faults: kills + pauses + crashes,
        description: format!(
            "{processes} processes on {store}: {kills} killed, {stops} stopped, {pauses} paused, {crashes} crashes of the \
             server; {} runs, {} failed, {} repeated after a fault, {} late in a paused process",
            audited.runs, audited.failed, audited.repeated, audited.late
        ),
        report: audited.report,
        failures: audited.failures,
        ..RunSummary::new("processes")
    })
}

/// Checks that each event has one row, and that the rows of an aggregate are in the order of its events.
fn check_effects(expected: &[Expected], booked: &[u64], report: &mut super::auditor::Report) {
    let lines: std::collections::HashMap<u64, &str> =
        expected.iter().map(|expected| (expected.event, &*expected.line)).collect();
    let (mut seen, mut last) = (std::collections::HashSet::new(), std::collections::HashMap::new());
    for event in booked {
        let Some(line) = lines.get(event) else {
            report.add(Violation::UnknownEffect, || format!("a row of event {event}"));
            continue;
        };
        if !seen.insert(*event) {
            report.add(Violation::Repeated, || format!("two rows of event {event}"));
        }
        if let Some(before) = last.insert(*line, *event).filter(|before| before > event) {
            report.add(Violation::Reordered, || format!("the row of event {event} is after that of {before}"));
        }
    }
    for event in lines.keys().filter(|event| !seen.contains(*event)) {
        report.add(Violation::Skipped, || format!("no row of event {event}"));
    }
}
