//! Appends and other small work of the SQLite store: see `benches/README.md`.

mod load;
mod meter;

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use eventbus::Result;
use tokio::runtime::{Builder, Runtime};

use crate::{load::Bench, meter::Cost};

/// Odd, so that the median is a measured value.
const ROUNDS: usize = 9;
const ROUND_MILLIS: u64 = 300;

const WORKLOADS: [Workload; 6] = [
    Workload::new('A', "append", Load::Append, &[1, 8, 32, 256], &[Place::Memory, Place::Tmpfs, Place::Disk]),
    Workload::new('B', "append 32 at once", Load::AppendMany, &[1, 8], &[Place::Memory, Place::Tmpfs, Place::Disk]),
    Workload::new('C', "transaction", Load::Transaction, &[1, 8], &[Place::Tmpfs, Place::Disk]),
    Workload::new('D', "checkpoint", Load::Checkpoint, &[1], &[Place::Memory, Place::Tmpfs]),
    Workload::new('E', "head", Load::Head, &[1], &[Place::Memory, Place::Tmpfs]),
    Workload::new('F', "tick beside appends", Load::Tick, &[8], &[Place::Tmpfs, Place::Disk]),
];

/// A load, and the numbers of callers and the places that it is measured with.
struct Workload {
    letter: char,
    name: &'static str,
    load: Load,
    callers: &'static [usize],
    places: &'static [Place],
}

/// The work of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// One event, at the version that the caller expects.
    Append,
    /// 32 appends in one call, to a stream each.
    AppendMany,
    /// A transaction that updates a row and appends an event.
    Transaction,
    Checkpoint,
    /// The position of the newest event.
    Head,
    /// As [`Append`](Self::Append); the times are those of a task that sleeps for 1 ms beside the callers.
    Tick,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Memory,
    Tmpfs,
    Disk,
}

fn main() -> Result<()> {
    let only = env::args().nth(1);
    let millis = env::args().nth(2).map(|millis| millis.parse()).transpose()?;
    let time = Duration::from_millis(millis.unwrap_or(ROUND_MILLIS));
    println!("| load | callers | store | runtime | operations/s | CPU µs | p50 µs | p99 µs |");
    println!("|---|---|---|---|---|---|---|---|");
    for Workload { letter, name, load, callers, places } in WORKLOADS {
        if only.as_ref().is_some_and(|only| !only.contains(letter)) {
            continue;
        }
        for (&place, &callers, threads) in combinations(places, callers) {
            let runtime = runtime(threads)?;
            let directory = Directory::new(place)?;
            let bench = runtime.block_on(Bench::open(directory.file("events.db"), load, callers))?;
            runtime.block_on(bench.round(time / 3))?; // warms up
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                rounds.push(runtime.block_on(Cost::of(bench.round(time)))?);
            }
            let spread = |of: fn(&Cost) -> f64| Spread::of(rounds.iter().map(of).collect());
            let (rate, cpu) = (spread(|round| round.rate), spread(|round| round.cpu));
            let (p50, p99) = (spread(|round| round.p50), spread(|round| round.p99));
            println!(
                "| {letter} {name} | {callers} | {place:?} | {threads} | {rate:.0} | {cpu:.1} | {p50:.0} | {p99:.0} |"
            );
        }
    }
    Ok(())
}

impl Workload {
    const fn new(
        letter: char,
        name: &'static str,
        load: Load,
        callers: &'static [usize],
        places: &'static [Place],
    ) -> Self {
        Self { letter, name, load, callers, places }
    }
}

/// Returns the combinations of places, callers and threads of the runtime, of which 0 means the current thread.
fn combinations<'a>(places: &'a [Place], callers: &'a [usize]) -> impl Iterator<Item = (&'a Place, &'a usize, usize)> {
    let threads = |place, callers| [2, 0].into_iter().map(move |threads| (place, callers, threads));
    places.iter().flat_map(move |place| callers.iter().flat_map(move |callers| threads(place, callers)))
}

fn runtime(threads: usize) -> Result<Runtime> {
    let mut builder = match threads {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    Ok(builder.worker_threads(threads.max(1)).enable_time().build()?)
}

/// A directory for the files of stores, until this is dropped; none for stores in memory.
struct Directory(Option<PathBuf>);

impl Directory {
    fn new(place: Place) -> Result<Self> {
        let parent = match place {
            Place::Memory => return Ok(Self(None)),
            Place::Tmpfs => Path::new("/dev/shm"),
            Place::Disk => Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target")),
        };
        let directory = parent.join(format!("sqlite-append-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self(Some(directory)))
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.0.as_ref().map(|directory| directory.join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.as_ref().map(fs::remove_dir_all) {
            eprintln!("the files of a store remain: {error}");
        }
    }
}

/// A value over the rounds: the median, and in brackets the least and the most.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { least: values[0], median: values[values.len() / 2], most: values[values.len() - 1] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or_default();
        write!(f, "**{:.digits$}** ({:.digits$}–{:.digits$})", self.median, self.least, self.most)
    }
}
