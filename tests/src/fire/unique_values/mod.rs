//! Users who take, change and give back addresses, from many writers in processes that are killed, while sessions are
//! killed too: no address has two holders, and none a holder without its event. Writers that look for the holder first
//! and store the event after are caught by the same auditor.

mod audit;
mod writers;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::fire::{
    HarnessError,
    kills::Program,
    members,
    place::{Place, StoreKind, with_killed_sessions},
    role::Role,
    run_summary::RunSummary,
};

/// The name of the sessions of members.
const SESSIONS: &str = "unique";
/// Number of processes at any time, unless the store is a file; and of writers in all of them.
const MEMBERS: u64 = 4;
const WRITERS: u64 = 64;

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
pub(super) struct Member {
    place: Place,
    writers: u64,
    /// Attempts of each writer.
    attempts: u64,
    addresses: u64,
    select_then_insert: bool,
    seed: u64,
}

impl Role for Member {
    const VARIABLE: &'static str = "FIRE_UNIQUE_VALUES";

    async fn play(self) -> Result<(), HarnessError> {
        writers::run(self).await
    }
}

impl members::Member for Member {
    fn attempts(&self) -> u64 {
        self.writers * self.attempts
    }

    fn with(&self, seed: u64, is_endless: bool) -> Self {
        let attempts = if is_endless { u64::MAX } else { self.attempts };
        Self { seed, attempts, ..self.clone() }
    }
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
    let slots = if kind == StoreKind::Sqlite { 1 } else { MEMBERS };
    let writers = WRITERS / slots;
    let attempts_each = attempts.div_ceil(members::ROUNDS * slots * writers);
    let member = Member { place: place.clone(), writers, attempts: attempts_each, addresses, select_then_insert, seed };
    let run = members::run(program, &member, slots, seed);
    let (kills, sessions_killed) = with_killed_sessions(database.as_ref(), SESSIONS, seed, run).await?;
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
