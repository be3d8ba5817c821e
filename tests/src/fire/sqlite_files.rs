//! The file of a SQLite store is removed, replaced or moved while an application appends to it, with default settings:
//! no event is acknowledged into an unreachable file, and acknowledged events are present once the file is back.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use eventbus::{
    App, ExpectedVersion, Uuid,
    port::{AppendError, AppendEvents as _},
};
use eventstore_sqlite::{SqliteEventStore, SqliteFileError, rusqlite::Connection};
use fastrand::Rng;
use tokio::task::JoinSet;

use super::{
    HarnessError,
    auditor::audit,
    evidence::{Evidence, Stored},
    history::{AppendRecord, StoredAt},
    run_summary::RunSummary,
    workload::{self, AppendLog, ids},
};

const WRITERS: u64 = 4;
/// Number of answers to wait for in each phase.
const ANSWERS_PER_PHASE: u64 = 20;
/// Time limit of a phase.
const PHASE_TIMEOUT: Duration = Duration::from_secs(60);

/// A fault of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileFault {
    /// The database is removed.
    Removed,
    /// Its write-ahead log is removed.
    LogRemoved,
    /// A second file takes its place.
    Replaced,
    /// Its folder is moved away, and back.
    Moved,
}

impl FileFault {
    const ALL: [Self; 4] = [Self::Removed, Self::LogRemoved, Self::Replaced, Self::Moved];

    fn inject(self, path: &Path) -> Result<(), HarnessError> {
        match self {
            Self::Removed => fs::remove_file(path)?,
            Self::LogRemoved => fs::remove_file(path.with_extension("db-wal"))?,
            Self::Replaced => {
                let other = path.with_extension("other");
                fs::copy(path, &other)?;
                fs::rename(other, path)?;
            }
            Self::Moved => fs::rename(folder(path)?, moved_folder(path)?)?,
        }
        Ok(())
    }
}

fn folder(path: &Path) -> Result<&Path, HarnessError> {
    path.parent().ok_or_else(|| "the file is in no folder".into())
}

fn moved_folder(path: &Path) -> Result<PathBuf, HarnessError> {
    Ok(folder(path)?.with_extension("elsewhere"))
}

/// The phases: before the fault, while the file is gone, after it is back.
const PHASES: usize = 3;

/// The phase of a round, and the answers by the phase in which their appends were sent.
#[derive(Debug, Default)]
struct FileRound {
    phase: AtomicUsize,
    acknowledged: [AtomicU64; PHASES],
    refused: [AtomicU64; PHASES],
    is_over: AtomicUsize,
}

impl FileRound {
    async fn wait_for(&self, counts: &[AtomicU64; PHASES], phase: usize) -> Result<(), HarnessError> {
        let begin = Instant::now();
        while counts[phase].load(SeqCst) < ANSWERS_PER_PHASE {
            if begin.elapsed() > PHASE_TIMEOUT {
                return Err(format!("phase {phase} does not end: {self:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// Runs `faults` faults, each kind in turn.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(faults: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let begin = Instant::now();
    let mut figures = RunSummary::new("files");
    figures.description = "databases and logs removed, replaced, moved away and back".into();
    for number in 0..faults {
        let fault = FileFault::ALL[number as usize % FileFault::ALL.len()];
        run_round(fault, seed * 1_000 + number, &mut figures).await?;
        figures.faults += 1;
    }
    Ok(RunSummary { took: begin.elapsed(), ..figures })
}

async fn run_round(fault: FileFault, seed: u64, figures: &mut RunSummary) -> Result<(), HarnessError> {
    let path = std::env::temp_dir().join(eventbus_test::unique_name("fire-files")).join("events.db");
    fs::create_dir_all(folder(&path)?)?;
    let store = SqliteEventStore::open(&path).await?;
    let app = App::builder().store(store.clone()).start().await?;
    let (round, mut writing) = (Arc::<FileRound>::default(), JoinSet::new());
    for writer in 0..WRITERS {
        writing.spawn(write(store.clone(), Arc::clone(&round), Rng::with_seed(seed * WRITERS + writer)));
    }
    round.wait_for(&round.acknowledged, 0).await?;
    fault.inject(&path)?;
    round.phase.store(1, SeqCst);
    round.wait_for(&round.refused, 1).await?;
    if fault == FileFault::Moved {
        round.phase.store(2, SeqCst);
        fs::rename(moved_folder(&path)?, folder(&path)?)?;
        let back = Instant::now();
        round.wait_for(&round.acknowledged, 2).await?;
        figures.slowest_recovery = figures.slowest_recovery.max(Some(back.elapsed()));
    }
    round.is_over.store(1, SeqCst);
    let mut records = Vec::new();
    while let Some(notes) = writing.join_next().await {
        let (notes, objections) = notes??;
        records.extend(notes.records);
        figures.failures.extend(objections.into_iter().map(|objection| format!("{fault:?}: {objection}")));
    }
    let into_nothing = round.acknowledged[1].load(SeqCst);
    if into_nothing > 0 {
        figures.failures.push(format!("{fault:?}: {into_nothing} appends were acknowledged into nothing"));
    }
    // projections and relay cannot finish either if the file stays away
    let _ = app.shutdown(Duration::from_secs(5)).await;
    drop(store);
    figures.events += round.acknowledged.iter().map(|count| count.load(SeqCst)).sum::<u64>();
    if fault == FileFault::Moved {
        let report = audit(&Evidence { stored: load_stored(&path)?, append_records: records, readers: Vec::new() });
        if !report.is_clean() {
            figures.failures.push(format!("{fault:?}: {report}"));
        }
    }
    fs::remove_dir_all(folder(&path)?)?;
    Ok(())
}

/// Appends until the round is over; also returns objections to the answers.
async fn write(
    store: SqliteEventStore,
    round: Arc<FileRound>,
    mut random: Rng,
) -> Result<(AppendLog, Vec<String>), HarnessError> {
    let (mut notes, mut objections) = (AppendLog::default(), Vec::new());
    while round.is_over.load(SeqCst) == 0 {
        let stream = workload::stream(random.u64(..20))?;
        let events = workload::events(&mut random, 1..=3);
        // an append sent after the fault is certainly answered after it
        let phase = round.phase.load(SeqCst);
        notes.record_sent(&events);
        match store.append(&stream, ExpectedVersion::Any, events.clone()).await {
            Ok(records) => {
                notes.records.push(AppendRecord::Stored(workload::stored_at_of(&records)));
                // an append sent while the file was away may be stored once the file is back
                let answered = round.phase.load(SeqCst);
                round.acknowledged[if phase == 1 { answered } else { phase }].fetch_add(1, SeqCst);
            }
            Err(error) => {
                if !names_a_file(&error) {
                    objections.push(format!("an error that names no file: {error:?}"));
                }
                if matches!(error, AppendError::Unavailable(_)) {
                    notes.records.push(AppendRecord::Refused(ids(&events)));
                }
                round.refused[phase].fetch_add(1, SeqCst);
                tokio::task::yield_now().await;
            }
        }
    }
    Ok((notes, objections))
}

fn names_a_file(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<SqliteFileError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Reads the stored events without the code under test.
fn load_stored(path: &Path) -> Result<Vec<Stored>, HarnessError> {
    const STORED: &str = "SELECT e.position, e.version, e.event_id, s.aggregate_id, e.payload ->> 'amount'
                          FROM eventbus_events e JOIN eventbus_streams s USING (stream_no) ORDER BY e.position";
    let connection = Connection::open(path)?;
    let mut statement = connection.prepare(STORED)?;
    let rows = statement.query_map([], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, Vec<u8>>(2)?,
            row.get::<_, String>(3)?,
            row.get(4)?,
        ))
    })?;
    rows.map(|row| {
        let (position, version, event, stream, amount) = row?;
        let place =
            StoredAt { event: Uuid::from_slice(&event)?, version: version.try_into()?, position: position.try_into()? };
        Ok(Stored { stored_at: place, stream: stream.into(), amount })
    })
    .collect()
}
