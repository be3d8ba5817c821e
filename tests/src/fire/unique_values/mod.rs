//! Users who take, change and give back addresses, from many writers in processes that are killed, while sessions are
//! killed too: no address has two holders, and none a holder without its event. Writers that look for the holder first
//! and store the event after are caught by the same auditor.

mod audit;
mod writers;

use std::{
    env,
    process::Stdio,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use tokio::process::Child;

use crate::fire::{
    HarnessError,
    kills::Program,
    place::{Place, StoreKind, kill_sessions},
    run_summary::RunSummary,
};

/// The variable that makes a process a member.
const MEMBER_VARIABLE: &str = "FIRE_UNIQUE_VALUES";
/// The name of the sessions of members.
const SESSIONS: &str = "unique";
/// Number of processes at any time, unless the store is a file; and of writers in all of them.
const MEMBERS: u64 = 4;
const WRITERS: u64 = 64;
/// Number of members in each slot that make all of their attempts; as many are killed.
const ROUNDS: u64 = 2;

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The store of the run.
    pub store: StoreKind,
    /// Number of attempts to take, change or give back an address.
    pub attempts: u64,
    /// Number of addresses, and half the number of users.
    pub addresses: u64,
    /// Set for writers that look for the holder of an address first, and store the event after: they must be caught.
    pub select_then_insert: bool,
    /// The seed of all random choices.
    pub seed: u64,
}

/// A member: a process with several writers.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Member {
    place: Place,
    writers: u64,
    /// Attempts of each writer.
    attempts: u64,
    addresses: u64,
    select_then_insert: bool,
    seed: u64,
}

/// Plays a member if the environment asks for it; otherwise returns `false`.
///
/// # Errors
/// If a server fails for longer than the faults last.
pub async fn run_as_child() -> Result<bool, HarnessError> {
    let Ok(member) = env::var(MEMBER_VARIABLE) else {
        return Ok(false);
    };
    writers::run(serde_json::from_str(&member)?).await?;
    Ok(true)
}

fn start(program: &Program, member: &Member, random: &mut Rng) -> Result<Child, HarnessError> {
    let member = Member { seed: random.u64(..), ..member.clone() };
    let mut command = program.command();
    Ok(command.env(MEMBER_VARIABLE, serde_json::to_string(&member)?).stderr(Stdio::inherit()).spawn()?)
}

/// Runs members in several slots, in each one after the other: every second one is killed, the others make all of their
/// attempts. Returns the number of those that were killed.
async fn run_members(program: &Program, member: &Member, slots: u64, seed: u64) -> Result<u64, HarnessError> {
    let mut random = Rng::with_seed(seed);
    let slots = (0..slots).map(|_| random.fork()).map(async |mut random| {
        let mut kills = 0;
        for _ in 0..ROUNDS {
            let endless = Member { attempts: u64::MAX, ..member.clone() };
            let mut killed = start(program, &endless, &mut random)?;
            let attempts = member.writers * member.attempts;
            tokio::time::sleep(Duration::from_millis(random.u64(30..100 + attempts / 2))).await; // any time will do
            killed.kill().await?;
            kills += 1;
            let ended = start(program, member, &mut random)?.wait().await?;
            if !ended.success() {
                return Err(HarnessError::from(format!("a member ended by itself, {ended}")));
            }
        }
        Ok(kills)
    });
    Ok(futures_util::future::try_join_all(slots).await?.into_iter().sum())
}

/// Runs a plan.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(program: &Program, plan: Plan) -> Result<RunSummary, HarnessError> {
    let Plan { store: kind, attempts, addresses, select_then_insert, seed } = plan;
    let began = Instant::now();
    let (place, database) = Place::create(kind, SESSIONS).await?;
    let store = place.open().await?;
    let members = if kind == StoreKind::Sqlite { 1 } else { MEMBERS };
    let writers = WRITERS / members;
    let attempts_each = attempts.div_ceil(ROUNDS * members * writers);
    let member = Member { place: place.clone(), writers, attempts: attempts_each, addresses, select_then_insert, seed };
    let mut sessions_killed = 0;
    let kills = tokio::select! {
        kills = run_members(program, &member, members, seed) => kills?,
        never = kill_sessions(database.as_ref(), SESSIONS, &mut sessions_killed, Rng::with_seed(seed)) => match never? {},
    };
    let audit::Findings { events, taken_twice, mut failures } = audit::audit(&*store, addresses).await?;
    match (select_then_insert, taken_twice) {
        (true, 0) => failures.push("writers that look first were not caught".into()),
        (true, _) => failures.clear(),
        (false, 0) => {}
        (false, _) => failures.push(format!("{taken_twice} addresses were taken while another user held them")),
    }
    drop(store);
    place.remove(database.as_ref()).await?;
    let caught = if select_then_insert { format!("; caught: {taken_twice} taken twice") } else { String::new() };
    Ok(RunSummary {
        events,
        faults: kills + sessions_killed,
        description: format!(
            "{kind:?}: {attempts} attempts, {kills} members and {sessions_killed} sessions killed{caught}"
        ),
        took: began.elapsed(),
        failures,
        ..RunSummary::new("unique")
    })
}
