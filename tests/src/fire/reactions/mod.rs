//! Handlers that save because of an event, and appends to several streams at once, in processes that die before and
//! after each append, at any other time, and whose sessions are killed: each transfer is made whole, and counted once by
//! both tallies.

mod audit;
mod workload;

use std::{
    ops::Range,
    process::Stdio,
    time::{Duration, Instant},
};

use eventbus::prelude::*;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use tokio::process::Child;

use self::workload::{count, make_transfers};
use crate::fire::{
    HarnessError,
    failpoints::{CrashPoint, FailPointStore, FailPoints},
    kills::Program,
    place::{Place, StoreKind, retry, with_killed_sessions},
    role::Role,
    run_summary::RunSummary,
};

/// The name of the sessions of members.
const SESSIONS: &str = "reactions";
/// Number of events that a member handles at once, of both tenants.
const CONCURRENCY: usize = 8;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// The end of a leader's lease in short runs, which otherwise wait for the lease of each member that dies.
const SHORT_LEASE: Duration = Duration::from_millis(200);

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The store of the run.
    pub store: StoreKind,
    /// Number of transfers, each of which causes a reaction.
    pub transfers: u64,
    /// Number of members that die.
    pub crashes: u64,
    /// Set for two members at a time, whose relay publishes on Redis; unset for one after the other, each without a bus
    /// and with a short lease.
    pub over_redis: bool,
    /// The seed of all random choices.
    pub seed: u64,
}

/// A member: a process that makes its share of the transfers, and reacts to all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Member {
    place: Place,
    /// The address and the prefix of the bus, and the consumer's name; `None` without a bus.
    bus: Option<(String, String, String)>,
    /// Its transfers: the first one, and then each so many later, below the last number.
    first: u64,
    step: u64,
    below: u64,
    death: Option<CrashPoint>,
    seed: u64,
}

impl Role for Member {
    const VARIABLE: &'static str = "FIRE_REACTIONS";

    async fn play(self) -> Result<(), HarnessError> {
        let fail_points = FailPoints::new(self.death.clone());
        let app = retry(async || self.start(fail_points.clone()).await).await?;
        make_transfers(&app, &self.numbers(), &mut Rng::with_seed(self.seed)).await?;
        retry(async || Ok(app.settled().await?)).await?;
        Ok(app.shutdown(SHUTDOWN_TIMEOUT).await?)
    }
}

impl Member {
    fn numbers(&self) -> Vec<u64> {
        (self.first..self.below).step_by(self.step as usize).collect()
    }

    async fn start(&self, fail_points: FailPoints) -> Result<App, HarnessError> {
        let store = FailPointStore::new(self.place.open().await?, fail_points);
        let builder = App::builder().store(store).handler::<count>();
        let builder = match &self.bus {
            None => builder.lease(SHORT_LEASE),
            Some((url, prefix, name)) => builder.bus(RedisEventBus::connect(bus_config(url, prefix, name)).await?),
        };
        Ok(builder.start().await?)
    }
}

fn bus_config(redis_url: &str, stream_prefix: &str, consumer_name: &str) -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: redis_url.into(),
        stream_prefix: stream_prefix.into(),
        consumer_name: Some(consumer_name.into()),
        concurrency: CONCURRENCY,
        ..RedisEventBusConfig::default()
    }
}

/// The members that run one after the other under one name.
struct Slot {
    member: Member,
    running: Child,
    /// When to kill it, if it does not die by itself.
    killed_at: Option<Instant>,
    crashes_left: u64,
}

/// The time after which a member is killed: so short that there are transfers left for all members to come.
const KILLED_AFTER_MS: Range<u64> = 20..400;

/// How a member is to die: before or after one of its appends, or at any time.
fn next_death(random: &mut Rng, appends: u64) -> (Option<CrashPoint>, Option<Duration>) {
    let at = |after, random: &mut Rng| CrashPoint { point: "multi_stream".into(), after, nth: random.u64(1..=appends) };
    match random.u8(..3) {
        0 => (Some(at(false, random)), None),
        1 => (Some(at(true, random)), None),
        _ => (None, Some(Duration::from_millis(random.u64(KILLED_AFTER_MS)))),
    }
}

impl Slot {
    fn start(program: &Program, mut member: Member, crashes_left: u64, appends: u64) -> Result<Self, HarnessError> {
        let mut random = Rng::with_seed(member.seed);
        let (death, killed_after) = if crashes_left > 0 { next_death(&mut random, appends) } else { (None, None) };
        member.death = death;
        let running = program.in_role(&member)?.stderr(Stdio::piped()).spawn()?;
        Ok(Self { member, running, killed_at: killed_after.map(|after| Instant::now() + after), crashes_left })
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
async fn run_slot(program: &Program, member: Member, crashes: u64, appends: u64) -> Result<u64, HarnessError> {
    let mut slot = Slot::start(program, member, crashes, appends)?;
    let mut died = 0;
    while slot.ended().await? {
        died += 1;
        let member = Member { seed: slot.member.seed.wrapping_add(1), ..slot.member };
        slot = Slot::start(program, member, slot.crashes_left.saturating_sub(1), appends)?;
    }
    Ok(died)
}

/// Runs a plan.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(program: &Program, plan: Plan) -> Result<RunSummary, HarnessError> {
    let Plan { store: kind, transfers, crashes, over_redis, seed } = plan;
    let (began, name) = (Instant::now(), eventbus_test::unique_name("reactions"));
    let (place, database) = Place::create(kind, SESSIONS).await?;
    // before the first member, so that no two of them set up one store
    let store = place.open().await?;
    let slots = if over_redis { 2 } else { 1 };
    // half as many as each member makes on average, so that most of them die
    let appends = (transfers / crashes.max(1)).max(2);
    let members = (0..slots).map(|slot| {
        let consumer = format!("member-{slot}");
        let member = Member {
            place: place.clone(),
            bus: over_redis.then(|| (eventbus_test::redis_url().to_owned(), name.clone(), consumer)),
            first: slot,
            step: slots,
            below: transfers,
            death: None,
            seed: seed.wrapping_add(slot << 32),
        };
        run_slot(program, member, crashes / slots, appends)
    });
    let run = futures_util::future::try_join_all(members);
    let (died, sessions_killed) = with_killed_sessions(database.as_ref(), SESSIONS, seed, run).await?;
    let died: u64 = died.into_iter().sum();
    let audit::Findings { events, mut failures } = audit::audit(&*store, transfers).await?;
    if died < crashes / 2 {
        failures.push(format!("only {died} of {crashes} members died"));
    }
    drop(store);
    place.remove(database.as_ref()).await?;
    Ok(RunSummary {
        events,
        faults: died + sessions_killed,
        description: format!("{kind:?}: {transfers} transfers, {died} members died, {sessions_killed} sessions killed"),
        took: began.elapsed(),
        failures,
        ..RunSummary::new("reactions")
    })
}
