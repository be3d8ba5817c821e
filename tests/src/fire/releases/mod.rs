//! Rolling releases in both directions under load: the processes of one release are replaced by those of the other one by one,
//! by SIGTERM or `kill -9`, and back. Each handler gets each event of its types, and repeats none without a kill; a new
//! handler, and a type that a handler newly takes, begin where the guide says.

mod handlers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{
    Position, RecordedEvent,
    port::{EventStore, handler_progress::NotedHandler},
};
use fastrand::Rng;

pub(in crate::fire) use self::handlers::Process;
use self::handlers::{CONCURRENCY, Release, WITHDRAWN};
use super::{
    HarnessError,
    kills::Program,
    place::{Place, StoreKind},
    run_summary::RunSummary,
    runs::{AuditedHandler, Expected, Fleet, RunEntry, RunFile, Until, audit, load_events, wait_for_handlers},
};

const PAUSE_BETWEEN_STEPS_MS: std::ops::Range<u64> = 100..500;
/// Handlers whose types differ between the releases: the events of a type come in order, not those of both.
const CHANGED: [&str; 3] = ["widened", "widened_now", "narrowed"];

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Number of processes at any time.
    pub processes: usize,
    /// Number of times that the second release replaces the first one, and the first one the second.
    pub rounds: u64,
    /// The duration of the leases.
    pub lease: Duration,
    /// The seed of all random choices.
    pub seed: u64,
}

/// Runs a plan.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(program: &Program, plan: Plan) -> Result<RunSummary, HarnessError> {
    let (place, database) = Place::create(StoreKind::Postgres, "releases").await?;
    let figures = run_in(&place, program, plan).await;
    place.remove(database.as_ref()).await?;
    figures
}

async fn run_in(place: &Place, program: &Program, plan: Plan) -> Result<RunSummary, HarnessError> {
    let (began, file) = (Instant::now(), RunFile::create("releases"));
    let store = place.open().await?;
    let mut test = Test {
        plan,
        place: place.clone(),
        store: Arc::clone(&store),
        fleet: Fleet::new(program, &file.0)?,
        random: Rng::with_seed(plan.seed),
        of_process: BTreeMap::new(),
        kills: 0,
    };
    for _ in 0..plan.processes {
        test.start(&file, Release::First, true)?;
    }
    let mut begin = None;
    for _ in 0..plan.rounds {
        test.wait_until_taken_over(Release::First).await?;
        let before = store.head().await?;
        test.replace_all(&file, Release::Second).await?;
        test.wait_until_taken_over(Release::Second).await?;
        begin.get_or_insert((before, store.head().await?));
        test.replace_all(&file, Release::First).await?;
    }
    test.wait_until_taken_over(Release::First).await?;
    // without load, each release finishes all events of its handlers
    let mut recovery = Duration::ZERO;
    for release in [Release::Second, Release::First] {
        for _ in 0..plan.processes {
            test.fleet.stop(0).await?;
            test.start(&file, release, false)?;
        }
        let recovering = Instant::now();
        wait_for_handlers(&*store, release.handlers(), Until::Finished).await?;
        recovery = recovery.max(recovering.elapsed());
    }
    while test.fleet.len() > 0 {
        test.fleet.stop(0).await?;
    }
    let begin = begin.ok_or("a plan without rounds")?;
    let mut figures = audit_all(&test, &file, begin).await?;
    figures.slowest_recovery = Some(recovery);
    Ok(RunSummary { took: began.elapsed(), ..figures })
}

/// A test with its processes.
struct Test {
    plan: Plan,
    place: Place,
    store: Arc<dyn EventStore>,
    fleet: Fleet,
    random: Rng,
    /// The release of each process that was started.
    of_process: BTreeMap<u32, Release>,
    kills: u64,
}

impl Test {
    fn start(&mut self, file: &RunFile, release: Release, writes: bool) -> Result<(), HarnessError> {
        let (seed, place, lease) = (self.random.u64(..), self.place.clone(), self.plan.lease);
        let role = |number| Process { number, release, place, runs: file.0.clone(), lease, writes, seed };
        let number = self.fleet.start(role)?;
        self.of_process.insert(number, release);
        Ok(())
    }

    /// Returns the place of a process of the other release.
    fn place_of_other(&self, release: Release) -> Option<usize> {
        self.fleet.numbers().position(|number| self.of_process.get(&number) != Some(&release))
    }

    /// Replaces the processes one by one: each second one is killed. Between two steps a process of either release may be
    /// killed too, and begins again.
    async fn replace_all(&mut self, file: &RunFile, release: Release) -> Result<(), HarnessError> {
        let mut is_killed = self.random.bool();
        while let Some(place) = self.place_of_other(release) {
            let pause = self.random.u64(PAUSE_BETWEEN_STEPS_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if is_killed {
                self.kill(place).await?;
            } else {
                self.fleet.stop(place).await?;
            }
            is_killed = !is_killed;
            self.start(file, release, true)?;
            if self.random.u8(..3) == 0 {
                let place = self.random.usize(..self.fleet.len());
                let restarted = self.kill(place).await?;
                self.start(file, restarted, true)?;
            }
        }
        Ok(())
    }

    /// Kills the process at a place, and returns its release.
    async fn kill(&mut self, place: usize) -> Result<Release, HarnessError> {
        let number = self.fleet.kill(place).await?;
        self.kills += 1;
        Ok(*self.of_process.get(&number).ok_or("an unknown process was killed")?)
    }

    /// Waits until the handlers of a release have started every event that is stored now, those of types that the other
    /// release left included.
    async fn wait_until_taken_over(&self, release: Release) -> Result<(), HarnessError> {
        let head = self.store.head().await?;
        wait_for_handlers(&*self.store, release.handlers(), Until::Started(head)).await
    }
}

/// Returns the event types that a handler takes in one of the releases.
fn types_of(handler: &str) -> BTreeSet<&'static str> {
    let of_both = [Release::First, Release::Second].map(Release::handlers);
    let found = of_both.iter().flat_map(|handlers| *handlers).filter(|(name, _)| *name == handler);
    found.flat_map(|(_, types)| *types).copied().collect()
}

/// Checks that the types of a handler begin at the oldest event, or in the given range of heads if they begin with the next
/// event: those that the second release adds in the range, the others before it.
fn check_begin(noted: &NotedHandler, (before, after): (Position, Position), failures: &mut Vec<String>) {
    for (name, since) in &noted.types {
        let range = match (noted.name.as_str(), name.as_str()) {
            ("added_now", _) | ("widened_now", WITHDRAWN) => before..=after,
            ("widened_now", _) => Position::START..=before,
            _ => Position::START..=Position::START,
        };
        if !range.contains(since) {
            failures.push(format!("`{}` begins with `{name}` after {since}, not in {range:?}", noted.name));
        }
    }
}

async fn audit_all(test: &Test, file: &RunFile, begin: (Position, Position)) -> Result<RunSummary, HarnessError> {
    let (events, entries) = (load_events(&*test.store).await?, file.entries()?);
    let progress = test.store.handler_progress().ok_or("the store keeps no progress of handlers")?;
    let (mut handlers, mut failures) = (Vec::new(), Vec::new());
    let names: BTreeSet<_> = [Release::First, Release::Second].iter().flat_map(|of| of.handlers()).collect();
    let names: BTreeSet<&str> = names.into_iter().map(|(name, _)| *name).collect();
    let listed = progress.list_handlers().await?;
    for name in names {
        let found = listed.iter().find(|listed| listed.noted.name.as_str() == name);
        let noted = &found.ok_or_else(|| format!("the store does not know `{name}`"))?.noted;
        check_begin(noted, begin, &mut failures);
        let types = types_of(name);
        let counts = |event: &&RecordedEvent| {
            let since = noted.types.get(event.event_type()).copied().unwrap_or_default();
            types.contains(event.event_type().as_str()) && event.position() > Some(since)
        };
        let expected = |event: &RecordedEvent| Expected {
            event: event.position().map_or(0, Position::get),
            line: match CHANGED.contains(&name) {
                true => format!("{} {}", event.metadata().stream(), event.event_type()).into(),
                false => event.metadata().stream().to_string().into(),
            },
        };
        handlers.push(AuditedHandler {
            name,
            concurrency: CONCURRENCY,
            is_transactional: false,
            expected: events.iter().filter(counts).map(expected).collect(),
        });
    }
    let mut audited = audit(&entries, &handlers);
    audited.failures.extend(failures);
    check_releases(test, &entries, &mut audited.failures);
    let dead = progress.count_dead_rows(u64::MAX >> 1).await?;
    if dead > 0 {
        audited.failures.push(format!("{dead} events are dead letters"));
    }
    let replaced = 2 * test.plan.rounds;
    Ok(RunSummary {
        events: events.len() as u64,
        faults: test.kills,
        description: format!(
            "{} processes, {replaced} releases under load, {} killed; {} runs, {} repeated after a fault",
            test.plan.processes, test.kills, audited.runs, audited.repeated
        ),
        report: audited.report,
        failures: audited.failures,
        ..RunSummary::new("releases")
    })
}

/// Checks that each release has run each of its handlers: a test in which one release does all the work proves little.
fn check_releases(test: &Test, entries: &[RunEntry], failures: &mut Vec<String>) {
    for release in [Release::First, Release::Second] {
        for (name, _) in release.handlers() {
            let is_run = |entry: &RunEntry| {
                matches!(entry, RunEntry::Begins(run) if run.handler == *name
                && test.of_process.get(&run.process) == Some(&release))
            };
            if !entries.iter().any(is_run) {
                failures.push(format!("the release {release:?} has not run `{name}`"));
            }
        }
    }
}
