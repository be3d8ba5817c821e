//! Metrics of processes that are killed: each counts its saves and handler runs by itself too, and compares. Gauges are
//! compared with the tables of the store and the keys of Redis.

use std::{
    io::Write as _,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use eventbus::{metrics::Metrics, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore};
use fastrand::Rng;
use redis::aio::MultiplexedConnection;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

use super::{HarnessError, database::Database, kills::Program, role::Role, run_summary::RunSummary};

/// Number of processes at any time, and of aggregates that they all write to.
const MEMBERS: u64 = 2;
const ACCOUNTS: u64 = 3;
/// Number of saves of a process that is not killed.
const LAST_SAVES: u64 = 60;
/// Number of events that a process handles at once.
const CONCURRENCY: usize = 4;
const LEASE: Duration = Duration::from_millis(500);
const REPORT_INTERVAL: Duration = Duration::from_millis(20);
const SAVE_INTERVAL: Duration = Duration::from_millis(5);
/// Time limit of each wait.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const REPORT: &str = "metered ";

/// How the handler treats an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Handling {
    Succeeds,
    /// Its first attempt fails.
    FailsOnce,
    /// It becomes a dead letter.
    Fails,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Entered {
    handling: Handling,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "MeteredAccount", events(Entered))]
struct Account;

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

/// What a process has counted by itself.
#[derive(Debug, Default)]
struct Counters {
    appended: AtomicU64,
    conflicts: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    permanent: AtomicU64,
}

/// Counts of saves and runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    appended: u64,
    conflicts: u64,
    succeeded: u64,
    failed: u64,
    permanent: u64,
}

impl Counts {
    fn read(counters: &Counters) -> Self {
        let [appended, conflicts, succeeded, failed, permanent] =
            [&counters.appended, &counters.conflicts, &counters.succeeded, &counters.failed, &counters.permanent]
                .map(|counter| counter.load(SeqCst));
        Self { appended, conflicts, succeeded, failed, permanent }
    }

    const fn saves(self) -> [u64; 2] {
        [self.appended, self.conflicts]
    }

    const fn runs(self) -> [u64; 3] {
        [self.succeeded, self.failed, self.permanent]
    }
}

/// What store and bus hold, as metrics show it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Gauges {
    head: u64,
    dead_letters: u64,
    pending: u64,
    consumers: u64,
    relay_lag: [f64; 2],
    projection_lag: [f64; 2],
}

/// What a process prints.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Report {
    /// Its own counts just before and just after its metrics were read.
    before: Counts,
    after: Counts,
    metered: Counts,
    gauges: Gauges,
    published: u64,
    projected: u64,
    is_leader: bool,
    is_owner: bool,
    has_saved_all: bool,
}

impl Report {
    fn new(before: Counts, metrics: &Metrics, after: Counts, has_saved_all: bool) -> Self {
        let number = |name: &str, labels: &[(&str, &str)]| metrics.number(name, labels).unwrap_or(f64::NAN);
        let (group, projection) = ([("group", "work")], [("projection", "entries")]);
        let count = |name: &str, labels: &[(&str, &str)]| number(name, labels) as u64;
        let lag = |of: &str, labels: &[(&str, &str)]| {
            ["events", "seconds"].map(|unit| number(&format!("eventbus_{of}_lag_{unit}"), labels))
        };
        let values = |name: &str, labels: &[(&str, &str)]| metrics.distribution(name, labels).map_or(0, |of| of.count);
        let runs = |outcome| {
            values("eventbus_handler_seconds", &[("group", "work"), ("handler", "work"), ("outcome", outcome)])
        };
        let appends = |outcome| values("eventbus_append_seconds", &[("outcome", outcome)]);
        Self {
            before,
            after,
            metered: Counts {
                appended: appends("appended"),
                conflicts: appends("conflict"),
                succeeded: runs("succeeded"),
                failed: runs("failed"),
                permanent: runs("permanent"),
            },
            gauges: Gauges {
                head: count("eventbus_feed_head", &[]),
                dead_letters: count("eventbus_dead_letters", &[]),
                pending: count("eventbus_group_pending", &group),
                consumers: count("eventbus_group_consumers", &group),
                relay_lag: lag("relay", &[]),
                projection_lag: lag("projection", &projection),
            },
            published: count("eventbus_relay_published_total", &[]),
            projected: count("eventbus_projection_events_total", &projection),
            is_leader: count("eventbus_relay_leader", &[]) == 1,
            is_owner: count("eventbus_projection_owner", &projection) == 1,
            has_saved_all,
        }
    }

    /// Returns `true` if the metrics count what the process has: a save is counted before the process itself counts it, a
    /// run after it.
    fn is_right(&self) -> bool {
        let Self { before, after, metered, .. } = self;
        let counted = [before, metered, after].map(|counts| counts.saves());
        let saves = (0..2).all(|of| (counted[0][of]..=counted[2][of] + 1).contains(&counted[1][of]));
        let counted = [before, metered, after].map(|counts| counts.runs());
        let least = |runs: u64| runs.saturating_sub(CONCURRENCY as u64);
        saves && (0..3).all(|of| (least(counted[0][of])..=counted[2][of]).contains(&counted[1][of]))
    }
}

#[handler(manual, group = "work")]
async fn work(event: &Entered, attempt: Attempt, State(counters): State<Arc<Counters>>) -> Result<(), HandlerError> {
    let (counter, result) = match event.handling {
        Handling::Fails => (&counters.permanent, Err(HandlerError::permanent("on purpose"))),
        Handling::FailsOnce if attempt.0 == 1 => (&counters.failed, Err("not yet".into())),
        Handling::FailsOnce | Handling::Succeeds => (&counters.succeeded, Ok(())),
    };
    counter.fetch_add(1, SeqCst);
    result
}

#[derive(Debug)]
struct Entries;

#[projection(
    name = "entries",
    manual,
    tables("entries"),
    key = "account",
    set_up = "CREATE TABLE IF NOT EXISTS entries (account TEXT PRIMARY KEY, events BIGINT NOT NULL)"
)]
impl Entries {
    async fn entered(&self, _: &Entered, id: &AggregateId, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        const ADD: &str =
            "INSERT INTO entries VALUES ($1, 1) ON CONFLICT (account) DO UPDATE SET events = entries.events + 1";
        sqlx::query(ADD).bind(id.as_str()).execute(connection).await.map(drop)
    }
}

/// A process that saves, relays, handles, projects, and prints its counts and metrics until it is killed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Member {
    store: String,
    prefix: String,
    name: String,
    saves: u64,
    seed: u64,
}

impl Role for Member {
    const VARIABLE: &'static str = "FIRE_METERED";

    async fn play(self) -> Result<(), HarnessError> {
        let counters = Arc::new(Counters::default());
        let store = PgEventStore::connect(&self.store).await?;
        let bus = RedisEventBus::connect(RedisEventBusConfig {
            redis_url: eventbus_test::redis_url().into(),
            stream_prefix: self.prefix.clone(),
            consumer_name: Some(self.name.clone()),
            concurrency: CONCURRENCY,
            block_ms: 50,
            pending_idle_ms: 1_000,
            retry_delay_ms: 20,
            ..RedisEventBusConfig::default()
        });
        let builder = App::builder().store(store).bus(bus.await?).state(Arc::clone(&counters));
        let builder = builder.relay_lease(LEASE).projection_lease(LEASE);
        let app = builder.handler::<work>().projection(Entries).start().await?;
        let mut saving = Box::pin(save(&app, &self, &counters));
        let reporting = async {
            loop {
                report(&app, &counters, false).await;
            }
        };
        tokio::select! {
            saved = &mut saving => saved?,
            () = reporting => {}
        }
        loop {
            report(&app, &counters, true).await;
        }
    }
}

async fn report(app: &App, counters: &Counters, has_saved_all: bool) {
    let before = Counts::read(counters);
    let metrics = app.metrics().await;
    let report = Report::new(before, &metrics, Counts::read(counters), has_saved_all);
    let line = serde_json::to_string(&report).unwrap_or_default();
    // the process that reads the output may have ended
    drop(writeln!(std::io::stdout(), "\n{REPORT}{line}"));
    tokio::time::sleep(REPORT_INTERVAL).await;
}

/// Saves events of a few aggregates, at which the processes meet.
async fn save(app: &App, member: &Member, counters: &Counters) -> Result<(), HarnessError> {
    let (accounts, mut random) = (app.repository::<Account>(), Rng::with_seed(member.seed));
    for _ in 0..member.saves {
        let id: AggregateId = random.u64(..ACCOUNTS).to_string().parse()?;
        let mut account = match accounts.find(&id).await? {
            Some(account) => account,
            None => accounts.create_new(id),
        };
        let handling = match random.u8(..40) {
            0 => Handling::Fails,
            1..5 => Handling::FailsOnce,
            _ => Handling::Succeeds,
        };
        account.record(Entered { handling });
        match accounts.save(&mut account).await {
            Ok(_) => counters.appended.fetch_add(1, SeqCst),
            Err(error) if error.is_conflict() => counters.conflicts.fetch_add(1, SeqCst),
            Err(error) => return Err(error.into()),
        };
        tokio::time::sleep(SAVE_INTERVAL).await;
    }
    Ok(())
}

struct MemberProcess {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    last: Option<Report>,
}

impl MemberProcess {
    fn start(program: &Program, member: &Member) -> Result<Self, HarnessError> {
        let mut child = program.in_role(member)?.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = child.stdout.take().ok_or("it is piped")?;
        Ok(Self { child, output: BufReader::new(output).lines(), last: None })
    }

    /// Returns the next report.
    async fn next(&mut self, failures: &mut Vec<String>) -> Result<Report, HarnessError> {
        let reading = async {
            while let Some(line) = self.output.next_line().await? {
                if let Some(report) = line.strip_prefix(REPORT) {
                    return Ok(serde_json::from_str::<Report>(report)?);
                }
            }
            Err::<_, HarnessError>("a process ended by itself".into())
        };
        let report = tokio::time::timeout(WAIT_TIMEOUT, reading).await.map_err(|_| "a process reports no more")??;
        if !report.is_right() {
            failures.push(format!("metrics differ from what the process has counted: {report:?}"));
        }
        self.last = Some(report);
        Ok(report)
    }
}

/// What the processes have done up to their last reports.
#[derive(Debug, Default)]
struct Totals {
    kills: u64,
    appended: u64,
    published: u64,
    projected: u64,
    failures: Vec<String>,
}

impl Totals {
    fn add(&mut self, report: Option<Report>) {
        let Some(Report { metered, published, projected, .. }) = report else { return };
        self.appended += metered.appended;
        self.published += published;
        self.projected += projected;
    }
}

/// Starts a process `kills` times, and kills it while it works.
async fn kill(program: &Program, member: Member, kills: u64) -> Result<Totals, HarnessError> {
    let (mut totals, mut random) = (Totals::default(), Rng::with_seed(member.seed));
    for _ in 0..kills {
        let member = Member { saves: u64::MAX, seed: random.u64(..), ..member.clone() };
        let mut process = MemberProcess::start(program, &member)?;
        process.next(&mut totals.failures).await?;
        let end = tokio::time::Instant::now() + Duration::from_millis(random.u64(100..600));
        while let Ok(report) = tokio::time::timeout_at(end, process.next(&mut totals.failures)).await {
            report?;
        }
        process.child.kill().await?;
        totals.kills += 1;
        totals.add(process.last);
    }
    Ok(totals)
}

/// The contents of store and bus, read without them.
#[derive(Debug, Default, PartialEq)]
struct Truth {
    events: u64,
    rows: u64,
    gauges: Gauges,
}

impl Truth {
    async fn read(
        database: &mut PgConnection,
        redis: &mut MultiplexedConnection,
        prefix: &str,
    ) -> Result<Self, HarnessError> {
        const READ: &str = "SELECT count(*), coalesce(max(position), 0) FROM events";
        const ROWS: &str = "SELECT coalesce(sum(events), 0)::bigint FROM public.entries";
        let (events, head): (i64, i64) = sqlx::query_as(READ).fetch_one(&mut *database).await?;
        let rows: i64 = sqlx::query_scalar(ROWS).fetch_one(&mut *database).await?;
        let dead_letters = redis::cmd("XLEN").arg(format!("{prefix}:stream_dlq")).query_async(redis).await?;
        let stream = format!("{prefix}:stream");
        let (pending, ..): (u64, redis::Value, redis::Value, redis::Value) =
            redis::cmd("XPENDING").arg(&stream).arg("work").query_async(redis).await?;
        let gauges = Gauges {
            head: head.try_into()?,
            dead_letters,
            pending,
            consumers: MEMBERS,
            relay_lag: [0.0; 2],
            projection_lag: [0.0; 2],
        };
        Ok(Self { events: events.try_into()?, rows: rows.try_into()?, gauges })
    }
}

/// Kills processes while they work, then lets the last ones finish, and compares the metrics of all of them.
///
/// # Errors
/// If the run itself fails; wrong metrics are in the summary.
pub async fn run(program: &Program, kills: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let begin = Instant::now();
    let database = Database::create().await?;
    let prefix = eventbus_test::unique_name("metered");
    let member = |number: u64| Member {
        store: database.url().into(),
        prefix: prefix.clone(),
        name: format!("member-{number}"),
        saves: LAST_SAVES,
        seed: seed * MEMBERS + number,
    };
    // the first one creates the tables
    drop(PgEventStore::connect(database.url()).await?);
    let killing = (0..MEMBERS).map(|number| kill(program, member(number), kills / MEMBERS));
    let mut totals = Totals::default();
    for killed in futures_util::future::try_join_all(killing).await? {
        totals.kills += killed.kills;
        totals.appended += killed.appended;
        totals.published += killed.published;
        totals.projected += killed.projected;
        totals.failures.extend(killed.failures);
    }
    let last: Result<Vec<_>, _> = (0..MEMBERS).map(|number| MemberProcess::start(program, &member(number))).collect();
    let (mut last, mut store) = (last?, database.connection("auditor").await?);
    let mut redis = eventbus_test::internal::redis_connection(eventbus_test::redis_url()).await;
    let settling = Instant::now();
    let truth = loop {
        let mut reports = Vec::new();
        for process in &mut last {
            reports.push(process.next(&mut totals.failures).await?);
        }
        let truth = Truth::read(&mut store, &mut redis, &prefix).await?;
        let is_done = |report: &Report| report.has_saved_all && report.metered == report.after;
        let leaders = reports.iter().filter(|report| report.is_leader).count();
        let owners = reports.iter().filter(|report| report.is_owner).count();
        let agree = reports.iter().all(|report| is_done(report) && report.gauges == truth.gauges);
        if agree && (leaders, owners) == (1, 1) && truth.gauges.pending == 0 && truth.rows == truth.events {
            break truth;
        }
        if settling.elapsed() > WAIT_TIMEOUT {
            totals.failures.push(format!("metrics differ from store and bus: {truth:?}, {reports:?}"));
            break truth;
        }
    };
    for process in &last {
        totals.add(process.last);
    }
    for (what, counted) in
        [("appended", totals.appended), ("published", totals.published), ("projected", totals.projected)]
    {
        // a process that is killed takes along what it did since its last report
        if counted > truth.events || counted == 0 {
            totals.failures.push(format!("{counted} events {what} of {}", truth.events));
        }
    }
    let description = format!(
        "counted until the last reports: {} appended, {} published, {} projected; {} dead letters",
        totals.appended, totals.published, totals.projected, truth.gauges.dead_letters
    );
    drop((last, store));
    database.remove().await?;
    Ok(RunSummary {
        events: truth.events,
        faults: totals.kills,
        description,
        slowest_recovery: Some(settling.elapsed()),
        took: begin.elapsed(),
        failures: totals.failures,
        ..RunSummary::new("metrics")
    })
}
