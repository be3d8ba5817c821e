//! The ordering race: slow, rolled back and killed writers against readers of the feed.
//!
//! The reader under test must see every event once and in order. Beside it run readers that look right and are known to
//! be wrong; they must be caught, which proves that the race can expose a wrong reader.

mod disturbances;
mod faulty_readers;
mod single_statement;
mod writers;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::task::JoinSet;

use super::{
    HarnessError,
    auditor::audit,
    database::{Database, execute_sql as execute},
    evidence::{Evidence, Reader},
    follower::follow,
    run_summary::RunSummary,
    workload::AppendLog,
};

/// The parameters of a race.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The race ends when this many events are acknowledged,
    pub events: u64,
    /// or after this time, unless the writers have stored few events by then.
    pub time: Duration,
    /// Seed of every random choice; the scheduler's choices are not determined by it.
    pub seed: u64,
}

/// Fewer events may not expose a wrong reader: a slow machine takes longer for them, up to `EXTRA_TIME_MAX`.
const EVENTS_MIN: u64 = 2_500;
const EXTRA_TIME_MAX: Duration = Duration::from_secs(180);

/// The column and index of the wrong readers, and the table of the unrelated transactions.
const EXTRA_TABLES_SQL: &str = "
    ALTER TABLE events ADD COLUMN xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint;
    CREATE INDEX by_xid ON events (xid, position);
    CREATE TABLE foreign_rows (number integer);";

/// The state that all tasks of the race share.
#[derive(Debug, Clone)]
struct Race(Arc<RaceInner>);

#[derive(Debug)]
struct RaceInner {
    database: Database,
    plan: Plan,
    /// The time when the first writer started.
    begin: OnceLock<Instant>,
    stored: AtomicU64,
    is_over: AtomicBool,
}

impl Race {
    /// Returns `true` if the writers must stop.
    fn has_enough(&self) -> bool {
        let RaceInner { plan, begin, stored, .. } = &*self.0;
        let (stored, took) = (stored.load(Ordering::Relaxed), begin.get_or_init(Instant::now).elapsed());
        let enough = plan.events.min(EVENTS_MIN);
        stored >= plan.events || took >= plan.time && stored >= enough || took >= plan.time + EXTRA_TIME_MAX
    }

    /// Returns `true` if all writers have stopped.
    fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::SeqCst)
    }

    fn count(&self, events: u64) {
        self.0.stored.fetch_add(events, Ordering::Relaxed);
    }

    fn database(&self) -> &Database {
        &self.0.database
    }

    fn random(&self, who: u64) -> Rng {
        Rng::with_seed(self.0.plan.seed.wrapping_mul(1_000).wrapping_add(who))
    }
}

/// Runs the race.
///
/// # Errors
/// If the race itself fails; broken promises are in the summary.
pub async fn run(plan: Plan) -> Result<RunSummary, HarnessError> {
    let begin = Instant::now();
    let database = Database::create().await?;
    let sound = database.store("reader", 4).await?;
    execute(&mut database.connection("extras").await?, EXTRA_TABLES_SQL).await?;
    let (stored, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let race = Race(Arc::new(RaceInner { database, plan, begin: OnceLock::new(), stored, is_over }));

    let watch = race.clone();
    let ours = tokio::spawn(follow(sound, move || watch.is_over()));
    let (folded, schedule) = single_statement::run_schedule(&race).await?;
    let wrong = faulty_readers::FaultyReader::ALL.map(|wrong| {
        let reader = if wrong == faulty_readers::FaultyReader::OneStatement {
            folded.clone()
        } else {
            faulty_readers::ReaderCursor::default()
        };
        tokio::spawn(wrong.follow(race.clone(), reader))
    });
    let killer = tokio::spawn(disturbances::kill_backends(race.clone()));
    let foreign = tokio::spawn(disturbances::hold_foreign_transactions(race.clone()));
    let mut notes = schedule.notes;
    let mut writing = writers::spawn(&race).await?;
    finish(&mut writing, &mut notes).await?;
    race.0.is_over.store(true, Ordering::SeqCst);
    let kills = killer.await??;
    foreign.await??;

    let mut readers = vec![ours.await?];
    for task in wrong {
        readers.push(task.await??);
    }
    let figures = summarize(&race, notes, readers, schedule.rounds, kills).await?;
    race.0.database.remove().await?;
    Ok(RunSummary { took: begin.elapsed(), ..figures })
}

async fn finish(
    writing: &mut JoinSet<Result<AppendLog, HarnessError>>,
    notes: &mut AppendLog,
) -> Result<(), HarnessError> {
    while let Some(written) = writing.join_next().await {
        notes.merge(written??);
    }
    Ok(())
}

async fn summarize(
    race: &Race,
    notes: AppendLog,
    mut readers: Vec<Reader>,
    rounds: u64,
    kills: u64,
) -> Result<RunSummary, HarnessError> {
    let wrong = readers.split_off(1);
    let mut evidence =
        Evidence { stored: race.database().load_stored().await?, append_records: notes.records, readers };
    let mut figures = RunSummary::new("race");
    figures.report = audit(&evidence);
    figures.events = evidence.stored.len() as u64;
    figures.faults = kills;
    figures.description = format!(
        "{kills} backends terminated, {} conflicts, {} rolled back or not reached, {} unknown; wrong readers:",
        notes.conflicts, notes.unavailable, notes.unknown
    );
    evidence.append_records.clear();
    for reader in wrong {
        let (name, seen) = (reader.name.clone(), reader.effects.len());
        evidence.readers = vec![reader];
        let report = audit(&evidence);
        let missed = evidence.stored.len().saturating_sub(seen) as u64;
        let at_least = if name == faulty_readers::FaultyReader::OneStatement.name() { rounds } else { 0 };
        let breaks = report.count(&faulty_readers::FaultyReader::EXPECTED_VIOLATIONS);
        figures.description += &format!(" {name} {missed} lost, {breaks} findings;");
        if breaks == 0 || missed < at_least {
            figures.failures.push(format!("the reader `{name}` was not caught: the race cannot tell right from wrong"));
        }
    }
    Ok(figures)
}
