//! The ordering race: slow, rolled back and killed writers against readers of the feed.
//!
//! Our reader must see every event once and in order. Beside it run readers that look right and are known to be wrong;
//! they must be caught, which proves that the race can tell.

mod folded;
mod readers;
mod trouble;
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
    Trouble,
    auditor::audit,
    database::{Database, run as execute},
    evidence::{Evidence, Reader},
    figures::Figures,
    follower::follow,
    workload::Notes,
};

/// How the race is run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// It ends when so many events are acknowledged,
    pub events: u64,
    /// or when writers took so long, unless they have stored few by then.
    pub time: Duration,
    /// What everything random follows from; what the scheduler does does not.
    pub seed: u64,
}

/// Fewer events may not tell right from wrong: a slow machine takes longer for them, up to `PATIENCE`.
const FEW: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(180);

/// What the tables of the wrong readers need.
const EXTRAS: &str = "
    ALTER TABLE events ADD COLUMN xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint;
    CREATE INDEX by_xid ON events (xid, position);
    CREATE TABLE foreign_rows (number integer);";

/// What everybody in the race shares.
#[derive(Debug, Clone)]
struct Race(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    database: Database,
    plan: Plan,
    /// When the first writer began.
    begin: OnceLock<Instant>,
    stored: AtomicU64,
    is_over: AtomicBool,
}

impl Race {
    /// Whether writers are to stop.
    fn is_full(&self) -> bool {
        let Shared { plan, begin, stored, .. } = &*self.0;
        let (stored, took) = (stored.load(Ordering::Relaxed), begin.get_or_init(Instant::now).elapsed());
        let enough = plan.events.min(FEW);
        stored >= plan.events || took >= plan.time && stored >= enough || took >= plan.time + PATIENCE
    }

    /// Whether all writers have stopped.
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
/// What went wrong with the race itself; what it shows is in the figures.
pub async fn run(plan: Plan) -> Result<Figures, Trouble> {
    let begin = Instant::now();
    let database = Database::create().await?;
    let sound = database.store("reader", 4).await?;
    execute(&mut database.connection("extras").await?, EXTRAS).await?;
    let (stored, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let race = Race(Arc::new(Shared { database, plan, begin: OnceLock::new(), stored, is_over }));

    let watch = race.clone();
    let ours = tokio::spawn(follow(sound, move || watch.is_over()));
    let (folded, schedule) = folded::schedule(&race).await?;
    let wrong = readers::Wrong::ALL.map(|wrong| {
        let reader = if wrong == readers::Wrong::Folded { folded.clone() } else { readers::Cursor::default() };
        tokio::spawn(wrong.follow(race.clone(), reader))
    });
    let killer = tokio::spawn(trouble::kill(race.clone()));
    let foreign = tokio::spawn(trouble::write_elsewhere(race.clone()));
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
    let figures = judge(&race, notes, readers, schedule.rounds, kills).await?;
    race.0.database.remove().await?;
    Ok(Figures { took: begin.elapsed(), ..figures })
}

async fn finish(writing: &mut JoinSet<Result<Notes, Trouble>>, notes: &mut Notes) -> Result<(), Trouble> {
    while let Some(written) = writing.join_next().await {
        notes.merge(written??);
    }
    Ok(())
}

async fn judge(
    race: &Race,
    notes: Notes,
    mut readers: Vec<Reader>,
    rounds: u64,
    kills: u64,
) -> Result<Figures, Trouble> {
    let wrong = readers.split_off(1);
    let mut evidence = Evidence { stored: race.database().stored().await?, told: notes.told, readers };
    let mut figures = Figures::of("race");
    figures.report = audit(&evidence);
    figures.events = evidence.stored.len() as u64;
    figures.faults = kills;
    figures.what = format!(
        "{kills} backends terminated, {} conflicts, {} rolled back or not reached, {} unknown; wrong readers:",
        notes.conflicts, notes.unavailable, notes.unknown
    );
    evidence.told.clear();
    for reader in wrong {
        let (name, seen) = (reader.name.clone(), reader.seen.len());
        evidence.readers = vec![reader];
        let report = audit(&evidence);
        let missed = evidence.stored.len().saturating_sub(seen) as u64;
        let at_least = if name == readers::Wrong::Folded.name() { rounds } else { 0 };
        let breaks = report.count(&readers::Wrong::BREAKS);
        figures.what += &format!(" {name} {missed} lost, {breaks} findings;");
        if breaks == 0 || missed < at_least {
            figures
                .objections
                .push(format!("the reader `{name}` was not caught: the race cannot tell right from wrong"));
        }
    }
    Ok(figures)
}
