//! Metrics of processes that are killed: each counts its saves and handler runs by itself too, and compares. Gauges are
//! compared with the tables of the store and the keys of Redis, as are the events that the last processes have appended,
//! published and projected: those are not killed, so that no part of their counts is lost.

use std::{
    collections::HashMap,
    io::Write as _,
    ops::AddAssign,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use eventbus::{metrics::Metrics, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig};
use fastrand::Rng;
use redis::{FromRedisValue as _, aio::MultiplexedConnection};
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
/// The name of the processes' sessions in PostgreSQL.
const SESSIONS: &str = "metered";

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
    retried: AtomicU64,
}

/// Counts of saves and runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    appended: u64,
    conflicts: u64,
    succeeded: u64,
    failed: u64,
    permanent: u64,
    /// Runs that were not the first attempt of their delivery, however they ended.
    retried: u64,
}

impl Counts {
    fn read(counters: &Counters) -> Self {
        let Counters { appended, conflicts, succeeded, failed, permanent, retried } = counters;
        let [appended, conflicts, succeeded, failed, permanent, retried] =
            [appended, conflicts, succeeded, failed, permanent, retried].map(|counter| counter.load(SeqCst));
        Self { appended, conflicts, succeeded, failed, permanent, retried }
    }

    const fn saves(self) -> [u64; 2] {
        [self.appended, self.conflicts]
    }

    const fn runs(self) -> [u64; 4] {
        [self.succeeded, self.failed, self.permanent, self.retried]
    }
}

/// What store and bus hold, as metrics show it; `None` has no sample, as the store or the bus did not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Gauges {
    head: u64,
    dead_letters: u64,
    pending: u64,
    unread: Option<u64>,
    consumers: u64,
    relay_lag: [Option<f64>; 2],
    projection_lag: [Option<f64>; 2],
}

/// Numbers of events that were appended, published and projected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    appended: u64,
    published: u64,
    projected: u64,
}

impl Progress {
    fn since(self, start: Self) -> Self {
        Self {
            appended: self.appended - start.appended,
            published: self.published - start.published,
            projected: self.projected - start.projected,
        }
    }

    const fn is_at_most(self, other: Self) -> bool {
        self.appended <= other.appended && self.published <= other.published && self.projected <= other.projected
    }

    /// Returns `true` if each appended event is published and projected, and none twice.
    const fn is_complete(self) -> bool {
        self.appended == self.published && self.appended == self.projected
    }
}

impl AddAssign for Progress {
    fn add_assign(&mut self, other: Self) {
        self.appended += other.appended;
        self.published += other.published;
        self.projected += other.projected;
    }
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
        let (group, projection) = ([("group", "work")], [("projection", "entries")]);
        let count = |name: &str, labels: &[(&str, &str)]| metrics.number(name, labels).unwrap_or_default() as u64;
        let lag = |of: &str, labels: &[(&str, &str)]| {
            ["events", "seconds"].map(|unit| metrics.number(&format!("eventbus_{of}_lag_{unit}"), labels))
        };
        let values = |name: &str, labels: &[(&str, &str)]| metrics.distribution(name, labels).map_or(0, |of| of.count);
        let handler = [("group", "work"), ("handler", "work")];
        let runs = |outcome| {
            let [group, handler] = handler;
            values("eventbus_handler_seconds", &[group, handler, ("outcome", outcome)])
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
                retried: count("eventbus_handler_retries_total", &handler),
            },
            gauges: Gauges {
                head: count("eventbus_feed_head", &[]),
                dead_letters: count("eventbus_dead_letters", &[]),
                pending: count("eventbus_group_pending", &group),
                unread: metrics.number("eventbus_group_unread", &group).map(|unread| unread as u64),
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

    const fn progress(&self) -> Progress {
        Progress { appended: self.metered.appended, published: self.published, projected: self.projected }
    }

    /// Returns `true` if the metrics count what the process has: a save is counted before the process itself counts it, a
    /// run after it.
    fn is_right(&self) -> bool {
        let Self { before, after, metered, .. } = self;
        let counted = [before, metered, after].map(|counts| counts.saves());
        let saves = (0..2).all(|of| (counted[0][of]..=counted[2][of] + 1).contains(&counted[1][of]));
        let counted = [before, metered, after].map(|counts| counts.runs());
        let least = |runs: u64| runs.saturating_sub(CONCURRENCY as u64);
        saves && (0..4).all(|of| (least(counted[0][of])..=counted[2][of]).contains(&counted[1][of]))
    }
}

#[handler(manual, group = "work", stream = "work")]
async fn work(event: &Entered, attempt: Attempt, State(counters): State<Arc<Counters>>) -> Result<(), HandlerError> {
    let (counter, result) = match event.handling {
        Handling::Fails => (&counters.permanent, Err(HandlerError::permanent("on purpose"))),
        Handling::FailsOnce if attempt.0 == 1 => (&counters.failed, Err("not yet".into())),
        Handling::FailsOnce | Handling::Succeeds => (&counters.succeeded, Ok(())),
    };
    counter.fetch_add(1, SeqCst);
    if attempt.0 > 1 {
        counters.retried.fetch_add(1, SeqCst);
    }
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
    redis: String,
    prefix: String,
    name: String,
    saves: u64,
    seed: u64,
}

impl Role for Member {
    const VARIABLE: &'static str = "FIRE_METERED";

    async fn play(self) -> Result<(), HarnessError> {
        let counters = Arc::new(Counters::default());
        // no server dies: a reply that is late still comes, and what it says is done is counted
        let config = PgEventStoreConfig {
            database_url: self.store.clone(),
            transaction_timeout: WAIT_TIMEOUT,
            ..PgEventStoreConfig::default()
        };
        let store = PgEventStore::connect_with(config).await?;
        let bus = RedisEventBus::connect(RedisEventBusConfig {
            redis_url: self.redis.clone(),
            socket_timeout: WAIT_TIMEOUT,
            stream_prefix: self.prefix.clone(),
            consumer_name: Some(self.name.clone()),
            concurrency: CONCURRENCY,
            block_ms: 50,
            pending_idle_ms: 1_000,
            retry_delay_ms: 20,
            ..RedisEventBusConfig::default()
        });
        let bus = bus.await?;
        let builder = App::builder().store(store).bus(bus.clone()).consume("work", bus).state(Arc::clone(&counters));
        let builder = builder.lease(LEASE).lease(LEASE);
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

/// The processes that were killed, and what they had counted up to their last reports.
#[derive(Debug, Default)]
struct Killed {
    kills: u64,
    counted: Progress,
    failures: Vec<String>,
}

/// Starts a process `kills` times, and kills it while it works.
async fn kill(program: &Program, member: Member, kills: u64) -> Result<Killed, HarnessError> {
    let (mut killed, mut random) = (Killed::default(), Rng::with_seed(member.seed));
    for _ in 0..kills {
        let member = Member { saves: u64::MAX, seed: random.u64(..), ..member.clone() };
        let mut process = MemberProcess::start(program, &member)?;
        process.next(&mut killed.failures).await?;
        let end = tokio::time::Instant::now() + Duration::from_millis(random.u64(100..600));
        while let Ok(report) = tokio::time::timeout_at(end, process.next(&mut killed.failures)).await {
            report?;
        }
        process.child.kill().await?;
        killed.kills += 1;
        killed.counted += process.last.map(|last| last.progress()).unwrap_or_default();
    }
    Ok(killed)
}

/// Waits until the servers have ended the sessions of killed processes: they still do what such a process had sent.
async fn wait_for_ended_sessions(
    database: &mut PgConnection,
    redis: &mut MultiplexedConnection,
) -> Result<(), HarnessError> {
    const COUNT: &str =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1";
    let ended = async {
        loop {
            let sessions: i64 = sqlx::query_scalar(COUNT).bind(SESSIONS).fetch_one(&mut *database).await?;
            let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(redis).await?;
            // one of Redis is that of this process
            if sessions == 0 && clients.lines().count() == 1 {
                return Ok::<_, HarnessError>(());
            }
            tokio::time::sleep(REPORT_INTERVAL).await;
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, ended).await.map_err(|_| "sessions of killed processes do not end")?
}

/// The contents of store and bus, read without them.
#[derive(Debug, Default, PartialEq)]
struct Truth {
    /// The events, the entries that Redis ever added to the stream, and the events that the rows count.
    progress: Progress,
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
        let info: HashMap<String, redis::Value> =
            redis::cmd("XINFO").arg("STREAM").arg(&stream).query_async(redis).await?;
        let added = info.get("entries-added").ok_or("Redis does not count the entries of a stream")?;
        let (pending, ..): (u64, redis::Value, redis::Value, redis::Value) =
            redis::cmd("XPENDING").arg(&stream).arg("work").query_async(redis).await?;
        let gauges = Gauges {
            head: head.try_into()?,
            dead_letters,
            pending,
            unread: Some(0),
            consumers: MEMBERS,
            relay_lag: [Some(0.0); 2],
            projection_lag: [Some(0.0); 2],
        };
        let progress = Progress {
            appended: events.try_into()?,
            published: u64::from_redis_value_ref(added)?,
            projected: rows.try_into()?,
        };
        Ok(Self { progress, gauges })
    }
}

/// Kills processes while they work, then lets the last ones finish, and compares the metrics of all of them.
///
/// # Errors
/// If the run itself fails; wrong metrics are in the summary.
pub async fn run(program: &Program, kills: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let begin = Instant::now();
    let (database, server) = (Database::create().await?, eventbus_test::private_redis());
    let prefix = eventbus_test::unique_name("metered");
    let member = |number: u64| Member {
        store: format!("{}?application_name={SESSIONS}", database.url()),
        redis: server.url().into(),
        prefix: prefix.clone(),
        name: format!("member-{number}"),
        saves: LAST_SAVES,
        seed: seed * MEMBERS + number,
    };
    // the first one creates the tables
    drop(PgEventStore::connect(database.url()).await?);
    let killing = (0..MEMBERS).map(|number| kill(program, member(number), kills / MEMBERS));
    let (mut faults, mut killed, mut failures) = (0, Progress::default(), Vec::new());
    for one in futures_util::future::try_join_all(killing).await? {
        faults += one.kills;
        killed += one.counted;
        failures.extend(one.failures);
    }
    let mut store = database.connection("auditor").await?;
    let mut redis = eventbus_test::internal::redis_connection(server.url()).await;
    wait_for_ended_sessions(&mut store, &mut redis).await?;
    // no process has set up the rows if none was started
    let start = match faults {
        0 => Progress::default(),
        _ => Truth::read(&mut store, &mut redis, &prefix).await?.progress,
    };
    // a process that is killed takes along what it did since its last report
    if !killed.is_at_most(start) {
        failures.push(format!("killed processes have counted {killed:?}, and done {start:?}"));
    }
    let last: Result<Vec<_>, _> = (0..MEMBERS).map(|number| MemberProcess::start(program, &member(number))).collect();
    let (mut last, settling) = (last?, Instant::now());
    let (truth, counted) = loop {
        let (mut reports, mut counted) = (Vec::new(), Progress::default());
        for process in &mut last {
            let report = process.next(&mut failures).await?;
            counted += report.progress();
            reports.push(report);
        }
        let truth = Truth::read(&mut store, &mut redis, &prefix).await?;
        let is_done = |report: &Report| report.has_saved_all && report.metered == report.after;
        let leaders = reports.iter().filter(|report| report.is_leader).count();
        let owners = reports.iter().filter(|report| report.is_owner).count();
        let agree = reports.iter().all(|report| is_done(report) && report.gauges == truth.gauges);
        let done = truth.progress.since(start);
        let is_complete = truth.progress.is_complete() && truth.gauges.pending == 0;
        if agree && counted == done && (leaders, owners) == (1, 1) && is_complete {
            break (truth, counted);
        }
        if settling.elapsed() > WAIT_TIMEOUT {
            failures.push(format!(
                "metrics differ from store and bus: {truth:?}; the last processes have done {done:?} and reported \
                 {reports:?}"
            ));
            break (truth, counted);
        }
    };
    let description = format!(
        "counted until the last reports: {} appended, {} published, {} projected before the last kill, {}, {}, {} after it; \
         {} dead letters",
        killed.appended,
        killed.published,
        killed.projected,
        counted.appended,
        counted.published,
        counted.projected,
        truth.gauges.dead_letters
    );
    drop((last, store));
    database.remove().await?;
    Ok(RunSummary {
        events: truth.progress.appended,
        faults,
        description,
        slowest_recovery: Some(settling.elapsed()),
        took: begin.elapsed(),
        failures,
        ..RunSummary::new("metrics")
    })
}
