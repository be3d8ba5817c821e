//! Handlers that save because of an event, and appends to several streams at once, in processes that die before and
//! after each append, at any other time, and whose sessions are killed: each transfer is made whole, and counted once by
//! both tallies.

mod audit;
mod workload;

use std::{
    convert::Infallible,
    env,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{port::EventStore, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::PgEventStore;
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use tokio::process::Child;

use self::workload::{count, make_transfers};
use crate::{
    fire::{
        HarnessError,
        database::Database,
        failpoints::{CrashPoint, FailPointStore, FailPoints},
        kills::Program,
        run_summary::RunSummary,
    },
    stores,
};

/// The variable that makes a process a member.
const MEMBER_VARIABLE: &str = "FIRE_REACTIONS";
/// The name of the sessions of members.
const SESSIONS: &str = "reactions";
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// The end of a leader's lease in short runs, which otherwise wait for the lease of each member that dies.
const SHORT_LEASE: Duration = Duration::from_millis(200);
/// Number of times in a row that something may fail while sessions are killed, with a pause after each.
const FAILURES_MAX: u32 = 200;
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The store of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// PostgreSQL; its sessions are killed too.
    Postgres,
    /// Redis.
    Redis,
    /// A file, in which all members save, one after the other.
    Sqlite,
}

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The store of the run.
    pub store: StoreKind,
    /// Number of transfers, each of which causes a reaction.
    pub transfers: u64,
    /// Number of members that die.
    pub deaths: u64,
    /// Set for members of one consumer group over Redis, two at a time; unset for one after the other, each with the
    /// in-process bus and a short lease.
    pub over_redis: bool,
    /// The seed of all random choices.
    pub seed: u64,
}

/// A member: a process that makes its share of the transfers, and reacts to all.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Member {
    place: Place,
    /// The address and the prefix of the bus, and the consumer's name; `None` for the in-process bus.
    bus: Option<(String, String, String)>,
    /// Its transfers.
    numbers: Vec<u64>,
    death: Option<CrashPoint>,
    seed: u64,
}

/// Where the events are.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Place {
    Postgres(String),
    Redis(String),
    Sqlite(PathBuf),
}

impl Place {
    async fn open(&self) -> Result<Arc<dyn EventStore>, HarnessError> {
        Ok(match self {
            Self::Postgres(url) => Arc::new(PgEventStore::connect(url).await?),
            Self::Redis(prefix) => Arc::new(stores::redis(prefix).await),
            Self::Sqlite(folder) => Arc::new(stores::sqlite(folder).await),
        })
    }
}

/// Plays a member if the environment asks for it; otherwise returns `false`.
///
/// # Errors
/// If a server fails for longer than the faults last.
pub async fn run_as_child() -> Result<bool, HarnessError> {
    let Ok(member) = env::var(MEMBER_VARIABLE) else {
        return Ok(false);
    };
    let member: Member = serde_json::from_str(&member)?;
    let fail_points = FailPoints::new(member.death.clone());
    let app = retry(async || member.start(fail_points.clone()).await).await?;
    make_transfers(&app, &member.numbers, &mut Rng::with_seed(member.seed)).await?;
    retry(async || Ok(app.settled().await?)).await?;
    app.shutdown(SHUTDOWN_TIMEOUT).await?;
    Ok(true)
}

impl Member {
    async fn start(&self, fail_points: FailPoints) -> Result<App, HarnessError> {
        let store = FailPointStore::new(self.place.open().await?, fail_points);
        let builder = App::builder().store(store).handler::<count>();
        let builder = match &self.bus {
            None => builder.relay_lease(SHORT_LEASE),
            Some((url, prefix, name)) => builder.bus(RedisEventBus::connect(bus_config(url, prefix, name)).await?),
        };
        Ok(builder.start().await?)
    }
}

/// Repeats what fails while sessions are killed.
async fn retry<T>(mut attempt: impl AsyncFnMut() -> Result<T, HarnessError>) -> Result<T, HarnessError> {
    let mut failed = 0;
    loop {
        match attempt().await {
            Err(error) if failed == FAILURES_MAX => return Err(error),
            Err(_) => failed += 1,
            done => return done,
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

fn bus_config(redis_url: &str, stream_prefix: &str, consumer_name: &str) -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: redis_url.into(),
        stream_prefix: stream_prefix.into(),
        consumer_name: Some(consumer_name.into()),
        ..RedisEventBusConfig::default()
    }
}

/// The members that run one after the other under one name.
struct Slot {
    member: Member,
    running: Child,
    /// When to kill it, if it does not die by itself.
    killed_at: Option<Instant>,
    deaths_left: u64,
}

/// How a member is to die: before or after one of its appends, or at any time.
fn next_death(random: &mut Rng, appends: u64) -> (Option<CrashPoint>, Option<Duration>) {
    let at = |after, random: &mut Rng| CrashPoint { point: "multi_stream".into(), after, nth: random.u64(1..=appends) };
    match random.u8(..3) {
        0 => (Some(at(false, random)), None),
        1 => (Some(at(true, random)), None),
        _ => (None, Some(Duration::from_millis(random.u64(20..20 + 20 * appends)))),
    }
}

impl Slot {
    fn start(program: &Program, mut member: Member, deaths_left: u64, appends: u64) -> Result<Self, HarnessError> {
        let mut random = Rng::with_seed(member.seed);
        let (death, killed_after) = if deaths_left > 0 { next_death(&mut random, appends) } else { (None, None) };
        member.death = death;
        let mut command = program.command();
        let running = command.env(MEMBER_VARIABLE, serde_json::to_string(&member)?).stderr(Stdio::piped()).spawn()?;
        Ok(Self { member, running, killed_at: killed_after.map(|after| Instant::now() + after), deaths_left })
    }

    /// Waits until the member has ended; returns `true` if it has died.
    async fn ended(&mut self) -> Result<bool, HarnessError> {
        let ended = match self.killed_at {
            None => Some(self.running.wait().await?),
            Some(at) => tokio::time::timeout_at(at.into(), self.running.wait()).await.ok().transpose()?,
        };
        match ended {
            None => {
                self.running.kill().await?;
                Ok(true)
            }
            Some(status) if status.success() => Ok(false),
            Some(_) if self.member.death.is_some() => Ok(true),
            Some(status) => {
                let mut said = String::new();
                if let Some(stderr) = &mut self.running.stderr {
                    tokio::io::AsyncReadExt::read_to_string(stderr, &mut said).await?;
                }
                Err(format!("a member ended by itself, {status}: {said}").into())
            }
        }
    }
}

/// Runs members under one name, one after the other, until the last one has made its transfers and no event is left.
async fn run_slot(program: &Program, member: Member, deaths: u64, appends: u64) -> Result<u64, HarnessError> {
    let mut slot = Slot::start(program, member, deaths, appends)?;
    let mut died = 0;
    while slot.ended().await? {
        died += 1;
        let member = Member { seed: slot.member.seed.wrapping_add(1), ..slot.member };
        slot = Slot::start(program, member, slot.deaths_left.saturating_sub(1), appends)?;
    }
    Ok(died)
}

/// Kills sessions of members for ever, one now and then; waits for ever if there is no database.
async fn kill_sessions(
    database: Option<&Database>,
    killed: &mut u64,
    mut random: Rng,
) -> Result<Infallible, HarnessError> {
    const KILL_SQL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = $1 AND datname = current_database() ORDER BY random() LIMIT 1";
    let Some(database) = database else { return std::future::pending().await };
    let mut connection = database.connection("killer").await?;
    loop {
        tokio::time::sleep(Duration::from_millis(random.u64(200..600))).await;
        let hit: Option<bool> = sqlx::query_scalar(KILL_SQL).bind(SESSIONS).fetch_optional(&mut connection).await?;
        *killed += u64::from(hit == Some(true));
    }
}

/// Runs a plan.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(program: &Program, plan: Plan) -> Result<RunSummary, HarnessError> {
    let Plan { store: kind, transfers, deaths, over_redis, seed } = plan;
    let (began, name) = (Instant::now(), test_servers::unique_name("reactions"));
    let (place, database) = match kind {
        StoreKind::Redis => (Place::Redis(name.clone()), None),
        StoreKind::Sqlite => (Place::Sqlite(stores::folder("reactions")), None),
        StoreKind::Postgres => {
            let database = Database::create().await?;
            (Place::Postgres(format!("{}?application_name={SESSIONS}", database.url())), Some(database))
        }
    };
    // before the first member, so that no two of them set up one store
    let store = place.open().await?;
    let slots = if over_redis { 2 } else { 1 };
    // half as many as each member makes on average, so that most of them die
    let appends = (transfers / deaths.max(1)).max(2);
    let members = (0..slots).map(|slot| {
        let consumer = format!("member-{slot}");
        let member = Member {
            place: place.clone(),
            bus: over_redis.then(|| (test_servers::redis_url().to_owned(), name.clone(), consumer)),
            numbers: (slot..transfers).step_by(slots as usize).collect(),
            death: None,
            seed: seed.wrapping_add(slot << 32),
        };
        run_slot(program, member, deaths / slots, appends)
    });
    let mut sessions_killed = 0;
    let died: u64 = tokio::select! {
        died = futures_util::future::try_join_all(members) => died?.into_iter().sum(),
        never = kill_sessions(database.as_ref(), &mut sessions_killed, Rng::with_seed(seed)) => match never? {},
    };
    let audit::Findings { events, mut failures } = audit::audit(&*store, transfers).await?;
    if died < deaths / 2 {
        failures.push(format!("only {died} of {deaths} members died"));
    }
    drop(store);
    if let Place::Sqlite(folder) = place {
        std::fs::remove_dir_all(folder)?;
    }
    if let Some(database) = database {
        database.remove().await?;
    }
    Ok(RunSummary {
        events,
        faults: died + sessions_killed,
        description: format!("{kind:?}: {transfers} transfers, {died} members died, {sessions_killed} sessions killed"),
        took: began.elapsed(),
        failures,
        ..RunSummary::new("reactions")
    })
}
