//! Processes with the in-process bus on a SQLite store, with default settings, that are killed while events wait for a
//! retry, or every second or two. No event is lost or becomes a dead letter, and none saved as finished runs again; of
//! finished events only those run again that the process had no time to save.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env,
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::{Append, AppendEvents as _, Checkpoints as _, UnfinishedDeliveries as _},
    prelude::*,
};
use eventstore_sqlite::SqliteEventStore;
use fastrand::Rng;
use parking_lot::Mutex;

use super::{HarnessError, kills::Program, role::Role, run_summary::RunSummary};

const GROUP: Name = Name::from_static("default");
const CHECKPOINT_NAME: Name = Name::from_static("group:default");
const AGGREGATES: u64 = 200;
/// The events saved together, and three times as many that finish during that save: the bus goes on meanwhile, and a
/// busy disk takes long to sync.
const REPEATED_EVENTS_MAX: usize = 4 * 64;
/// The longest time without a handled event while events remain: twice the longest wait of a suspected poison message.
const STANDSTILL_MAX: Duration = Duration::from_secs(120);
/// The longest time of a handler in runs with kills at random, in milliseconds.
const LONGEST_MS: u64 = 100;

/// The workload, and the times of the kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kills {
    /// Short events, one after the other, some of which fail: killed after some of them.
    WhileEventsWait,
    /// Events of up to 100 ms, sixteen at once: killed every second or two.
    AtRandom,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {
    /// Number of failures before it is handled, less than a delivery may fail by default.
    fails: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Audited {
    /// The handler's time.
    milliseconds: u64,
}

/// The journal of the processes, which outlives them. One line each time: `begun`, `failed` or `handled`, and the
/// position.
#[derive(Clone)]
struct Journal(Arc<Mutex<JournalState>>);

struct JournalState {
    file: File,
    /// Number of failures by position, in all processes.
    failed: HashMap<u64, u32>,
}

impl Journal {
    fn open(path: &Path) -> Result<Self, HarnessError> {
        let mut failed = HashMap::new();
        for (word, position) in parse_lines(&fs::read_to_string(path).unwrap_or_default()) {
            if word == "failed" {
                *failed.entry(position).or_default() += 1;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(Arc::new(Mutex::new(JournalState { file, failed }))))
    }

    fn append(&self, word: &str, position: u64) -> Result<u32, std::io::Error> {
        let mut noted = self.0.lock();
        // in one call, so that no line is torn
        noted.file.write_all(format!("{word} {position}\n").as_bytes())?;
        let failed = noted.failed.entry(position).or_default();
        *failed += u32::from(word == "failed");
        Ok(*failed)
    }
}

fn parse_lines(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (word, position) = line.split_once(' ')?;
        Some((word, position.parse().ok()?))
    })
}

#[handler(manual)]
async fn deposit(event: &Deposited, meta: &Metadata, State(journal): State<Journal>) -> Result<(), HandlerError> {
    let position = meta.position().map_or(0, Position::get);
    let failed = journal.append("begun", position)?;
    tokio::time::sleep(Duration::from_millis(1)).await;
    if failed < event.fails {
        journal.append("failed", position)?;
        return Err("not yet".into());
    }
    journal.append("handled", position)?;
    Ok(())
}

#[handler(manual, group = "default", concurrency = 16)]
async fn audit(event: &Audited, meta: &Metadata, State(journal): State<Journal>) -> Result<(), HandlerError> {
    let position = meta.position().map_or(0, Position::get);
    journal.append("begun", position)?;
    tokio::time::sleep(Duration::from_millis(event.milliseconds)).await;
    journal.append("handled", position)?;
    Ok(())
}

/// A process that handles events until it is killed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Consumer {
    /// Where its store and journal are.
    folder: PathBuf,
    when: Kills,
}

impl Role for Consumer {
    const VARIABLE: &'static str = "FIRE_UNFINISHED";

    async fn play(self) -> Result<(), HarnessError> {
        let journal = Journal::open(&self.folder.join("journal"))?;
        let store = SqliteEventStore::open(self.folder.join("events.db")).await?;
        let app = App::builder().store(store).state(journal);
        let app = match self.when {
            Kills::AtRandom => app.handler::<audit>(),
            Kills::WhileEventsWait => app.handler::<deposit>(),
        };
        let _app = app.start().await?;
        std::future::pending().await
    }
}

/// The check of the processes' journal.
#[derive(Default)]
struct JournalAudit {
    handled: BTreeSet<u64>,
    /// The positions in the order in which they were first handled.
    order: Vec<u64>,
    checkpoint: u64,
    rows: BTreeSet<u64>,
    objections: Vec<String>,
    /// Number of kills while events waited for a retry.
    waiting: u64,
    /// The most finished events that one process handled again.
    repeated: usize,
}

impl JournalAudit {
    /// Adds the journal of one process.
    fn add_process(&mut self, number: u64, text: &str) {
        let mut again = BTreeSet::new();
        for (word, position) in parse_lines(text) {
            if word == "begun" {
                if position <= self.checkpoint && !self.rows.contains(&position) {
                    let checkpoint = self.checkpoint;
                    self.objections.push(format!(
                        "process {number} ran event {position} again, which was saved as finished (checkpoint {checkpoint})"
                    ));
                }
                if self.handled.contains(&position) {
                    again.insert(position);
                }
            } else if word == "handled" && self.handled.insert(position) {
                self.order.push(position);
            }
        }
        self.repeated = self.repeated.max(again.len());
        if again.len() > REPEATED_EVENTS_MAX {
            self.objections.push(format!("process {number} ran {} events again that had finished", again.len()));
        }
    }

    /// Checks the saved progress: each event up to the checkpoint was handled, or has a row that delivers it again.
    async fn check_store(&mut self, number: u64, store: &SqliteEventStore) -> Result<(), HarnessError> {
        self.checkpoint = store.load_checkpoint(&CHECKPOINT_NAME).await?.unwrap_or_default().get();
        self.rows = store.waiting_deliveries(&GROUP).await?.iter().map(|row| row.position.get()).collect();
        self.waiting += u64::from(self.rows.iter().any(|row| *row <= self.checkpoint));
        let is_lost = |position: &u64| !self.handled.contains(position) && !self.rows.contains(position);
        let lost: Vec<_> = (1..=self.checkpoint).filter(is_lost).collect();
        if let Some(first) = lost.first() {
            let (lost, checkpoint) = (lost.len(), self.checkpoint);
            self.objections.push(format!(
                "process {number} lost {lost} events, the first at {first}: not handled, no row, checkpoint {checkpoint}"
            ));
        }
        Ok(())
    }
}

/// Kills processes one after the other, then lets the last one finish. Stops early at a failure.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(program: &Program, when: Kills, kills: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    const EVENTS_PER_KILL: u64 = 120;
    let (began, mut random) = (Instant::now(), Rng::with_seed(seed));
    let folder = env::temp_dir().join(eventbus_test::unique_name("fire-unfinished"));
    fs::create_dir_all(&folder)?;
    let store = SqliteEventStore::open(folder.join("events.db")).await?;
    let events = kills.max(1) * EVENTS_PER_KILL;
    let streams = append_events(&store, when, events, &mut random).await?;
    File::create(folder.join("journal"))?;
    let mut journal = File::open(folder.join("journal"))?;
    let (mut audit, mut read, mut killed) = (JournalAudit::default(), 0, 0);
    let consumer = Consumer { folder: folder.clone(), when };
    for number in 0..=kills {
        let is_last = number == kills;
        let mut process = program.in_role(&consumer)?.stderr(Stdio::null()).spawn()?;
        let (started, mut progress) = (Instant::now(), (0, Instant::now()));
        let enough = audit.handled.len() as u64 + random.u64(0..2 * EVENTS_PER_KILL);
        let life = Duration::from_millis(random.u64(1_000..=2_000));
        // killed while it works, or once no event remains
        loop {
            let handled = count(&mut journal, read, &audit.handled)?;
            let is_due = match when {
                Kills::WhileEventsWait => handled >= enough,
                Kills::AtRandom => started.elapsed() >= life,
            };
            if handled == events || !is_last && is_due {
                killed += u64::from(!is_last && handled < events);
                break;
            }
            if let Some(ended) = process.try_wait()? {
                return Err(format!("process {number} ended by itself: {ended}").into());
            }
            if handled > progress.0 {
                progress = (handled, Instant::now());
            } else if progress.1.elapsed() > STANDSTILL_MAX {
                let left = events - handled;
                audit.objections.push(format!("process {number} handled none of {left} events for {STANDSTILL_MAX:?}"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(random.u64(1..=8))).await;
        }
        if is_last && audit.objections.is_empty() {
            wait_until_saved(&store, events).await?;
        }
        process.kill().await?;
        let text = read_rest(&mut journal, read)?;
        read += text.len() as u64;
        audit.add_process(number, &text);
        audit.check_store(number, &store).await?;
        if !audit.objections.is_empty() {
            break;
        }
    }
    let (name, how) = match when {
        Kills::WhileEventsWait => ("unfinished", "killed"),
        Kills::AtRandom => ("in-process", "killed every 1-2 s"),
    };
    let mut figures = RunSummary { events, faults: killed, took: began.elapsed(), ..RunSummary::new(name) };
    figures.description = format!(
        "in-process consumers {how}, {} while events waited; at most {} repeated by one",
        audit.waiting, audit.repeated
    );
    figures.failures = audit.objections;
    let is_whole = figures.failures.is_empty();
    if is_whole && audit.handled.len() as u64 != events {
        figures.failures.push(format!("{} of {events} events were handled", audit.handled.len()));
    }
    if is_whole && (audit.checkpoint < events || !audit.rows.is_empty()) {
        figures.failures.push(format!("at the end: checkpoint {}, rows {:?}", audit.checkpoint, audit.rows));
    }
    let dead_letters = store.count_dead_deliveries(u64::MAX).await?;
    if dead_letters > 0 {
        figures.failures.push(format!("{dead_letters} dead letters"));
    }
    if is_whole && kills > 0 && killed == 0 {
        figures.failures.push("no process was killed while it worked".into());
    }
    if is_whole && kills > 0 && audit.waiting == 0 {
        figures.failures.push("no process was killed while events waited".into());
    }
    figures.failures.extend(out_of_order(&streams, &audit.order));
    drop(store);
    fs::remove_dir_all(folder)?;
    Ok(figures)
}

/// Waits until the last process has saved that all events are finished.
async fn wait_until_saved(store: &SqliteEventStore, events: u64) -> Result<(), HarnessError> {
    let began = Instant::now();
    loop {
        let checkpoint = store.load_checkpoint(&CHECKPOINT_NAME).await?.unwrap_or_default().get();
        let is_done = checkpoint >= events && store.waiting_deliveries(&GROUP).await?.is_empty();
        if is_done || began.elapsed() > STANDSTILL_MAX {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Stores the events; returns the aggregate of each position.
async fn append_events(
    store: &SqliteEventStore,
    when: Kills,
    events: u64,
    random: &mut Rng,
) -> Result<BTreeMap<u64, u64>, HarnessError> {
    let mut appends = Vec::new();
    for _ in 0..events {
        let aggregate = random.u64(..AGGREGATES);
        let event = match when {
            Kills::WhileEventsWait if random.u32(..8) == 0 => {
                NewEvent::from_event(&Deposited { fails: random.u32(1..=3) })
            }
            Kills::WhileEventsWait => NewEvent::from_event(&Deposited { fails: 0 }),
            Kills::AtRandom => NewEvent::from_event(&Audited { milliseconds: random.u64(..=LONGEST_MS) }),
        };
        let events = vec![event?];
        let stream = StreamId::parse("Account", &aggregate.to_string())?;
        appends.push((aggregate, Append { stream, expected: ExpectedVersion::Any, events }));
    }
    let mut streams = BTreeMap::new();
    for appends in appends.chunks(1_000) {
        let results = store.append_many(appends.iter().map(|(_, append)| append.clone()).collect()).await;
        for ((aggregate, _), result) in appends.iter().zip(results) {
            let positions = result?.iter().filter_map(|event| event.position()).map(Position::get).collect::<Vec<_>>();
            streams.extend(positions.into_iter().map(|position| (position, *aggregate)));
        }
    }
    Ok(streams)
}

/// Returns the number of handled events in the journal so far.
fn count(journal: &mut File, read: u64, handled: &BTreeSet<u64>) -> Result<u64, HarnessError> {
    let text = read_rest(journal, read)?;
    let new: BTreeSet<_> = parse_lines(&text)
        .filter(|(word, position)| *word == "handled" && !handled.contains(position))
        .map(|(_, position)| position)
        .collect();
    Ok((handled.len() + new.len()) as u64)
}

fn read_rest(journal: &mut File, read: u64) -> Result<String, HarnessError> {
    journal.seek(SeekFrom::Start(read))?;
    let mut text = String::new();
    journal.read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the first event that was handled before an earlier one of its aggregate.
fn out_of_order(streams: &BTreeMap<u64, u64>, order: &[u64]) -> Option<String> {
    let mut last = HashMap::new();
    for position in order {
        let aggregate = streams.get(position)?;
        if let Some(before) = last.insert(*aggregate, *position).filter(|before| before > position) {
            return Some(format!("event {position} of aggregate {aggregate} was handled after {before}"));
        }
    }
    None
}
