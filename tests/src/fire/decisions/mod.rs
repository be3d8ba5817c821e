//! Decisions about courses and students from many writers in processes that are killed, while sessions are killed too: no
//! course has more students than seats, no student more courses than allowed, the numbers of invoices and of the ratings of a
//! course by a student have no gap, and a command that several writers send is carried out once, for each of three tenants.
//! The textbook's statement, an `INSERT` under a `NOT EXISTS` of later positions, is caught by the same auditor.

mod audit;
mod textbook;
mod writers;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use self::{audit::Findings, writers::Outcomes};
use crate::fire::{
    HarnessError,
    kills::Program,
    members,
    place::{Place, StoreKind, with_killed_sessions},
    role::Role,
    run_summary::RunSummary,
};

/// The name of the sessions of members.
const SESSIONS: &str = "decisions";
/// Number of processes at any time, unless the store is a file; and of writers in all of them.
const MEMBERS: u64 = 4;
const WRITERS: u64 = 64;
/// Most students of a course, and most courses of a student.
const SEATS: usize = 10;
const COURSES_OF_STUDENT: usize = 3;
/// Number of tenants; one is none.
const TENANTS: usize = 3;
/// Most ratings of a course by a student.
const RATINGS: u64 = 100;
/// Courses that half of the decisions are about.
const HOT_COURSES: u64 = 2;

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The store of the run.
    pub store: StoreKind,
    /// Number of decisions.
    pub decisions: u64,
    /// Number of courses; there are four times as many students.
    pub courses: u64,
    /// The seed of all random choices.
    pub seed: u64,
}

/// A member: a process with several writers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Member {
    place: Place,
    writers: u64,
    /// Decisions of each writer.
    decisions: u64,
    courses: u64,
    seed: u64,
}

impl Role for Member {
    const VARIABLE: &'static str = "FIRE_DECISIONS";

    async fn play(self) -> Result<(), HarnessError> {
        writers::run(self).await
    }
}

impl members::Member for Member {
    fn attempts(&self) -> u64 {
        self.writers * self.decisions
    }

    fn with(&self, seed: u64, is_endless: bool) -> Self {
        let decisions = if is_endless { u64::MAX } else { self.decisions };
        Self { seed, decisions, ..self.clone() }
    }
}

/// Runs a plan.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(program: &Program, plan: Plan) -> Result<RunSummary, HarnessError> {
    let Plan { store: kind, decisions, courses, seed } = plan;
    let began = Instant::now();
    let (place, database) = Place::create(kind, SESSIONS).await?;
    let store = place.open().await?;
    let slots = if kind == StoreKind::Sqlite { 1 } else { MEMBERS };
    let writers = WRITERS / slots;
    let decisions_each = decisions.div_ceil(members::ROUNDS * slots * writers);
    let member = Member { place: place.clone(), writers, decisions: decisions_each, courses, seed };
    let deadlocks_before = match &database {
        Some(database) => database.deadlocks().await?,
        None => 0,
    };
    let run = members::run(program, &member, slots, seed);
    let (kills, sessions_killed) = with_killed_sessions(database.as_ref(), SESSIONS, seed, run).await?;
    let Findings { events, outcomes, violations, mut failures } = audit::audit(&*store).await?;
    let Outcomes { decided, refused, conflicts } = outcomes;
    if let Some(database) = &database {
        let deadlocks = database.deadlocks().await? - deadlocks_before;
        if deadlocks > 0 {
            failures.push(format!("{deadlocks} deadlocks"));
        }
    }
    if let Some(first) = violations.first() {
        failures.push(format!("{} events break a rule, such as {first}", violations.len()));
    }
    drop(store);
    place.remove(database.as_ref()).await?;
    Ok(RunSummary {
        events,
        faults: kills + sessions_killed,
        description: format!(
            "{kind:?}: {decided} decisions of {WRITERS} writers were made, {refused} refused by a rule, {conflicts} given up \
             after conflicts; {kills} members and {sessions_killed} sessions killed"
        ),
        took: began.elapsed(),
        failures,
        ..RunSummary::new("decisions")
    })
}

/// Runs the textbook's statement on PostgreSQL, which must be caught.
///
/// # Errors
/// If the run itself fails.
pub async fn run_textbook(decisions: u64, courses: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let began = Instant::now();
    let Findings { events, violations, .. } = textbook::run(decisions, courses, seed).await?;
    let failures = match violations.is_empty() {
        true => vec!["the textbook's statement was not caught".into()],
        false => Vec::new(),
    };
    Ok(RunSummary {
        events,
        description: format!("textbook: {decisions} decisions; caught: {} events break a rule", violations.len()),
        took: began.elapsed(),
        failures,
        ..RunSummary::new("decisions")
    })
}
