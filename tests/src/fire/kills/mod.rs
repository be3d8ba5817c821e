//! Processes that die and pause: writers, relays, consumers and projectors, at named points and at random times.

mod child;
mod gauge;
pub mod role;
mod scene;
mod servers;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::task::JoinSet;

pub use child::{Process, Program};
pub use scene::{Kind, Scene};
pub use servers::fail_servers;

use self::{child::End, gauge::Gauge, role::LEASE};
use super::{
    Trouble,
    auditor::audit,
    database::{self, Database},
    doom::{Death, POINTS},
    figures::Figures,
};

const WRITERS: u64 = 2;
const WORKERS: u64 = 2;

/// With so many deaths each named point is reached.
const ENOUGH: u64 = 60;

/// Kills processes, again and again, and looks what has become of everything. With several partitions the order within
/// each aggregate is looked at too.
///
/// # Errors
/// What went wrong with the run itself; what it shows is in the figures.
pub async fn kill(program: &Program, kills: u64, partitions: u32, seed: u64) -> Result<Figures, Trouble> {
    let database = Database::create().await?;
    let figures = kill_in(&database, program, kills, partitions, seed).await;
    database.remove().await?;
    figures
}

async fn kill_in(
    database: &Database,
    program: &Program,
    kills: u64,
    partitions: u32,
    seed: u64,
) -> Result<Figures, Trouble> {
    let begin = Instant::now();
    let kind = Kind { poison: true, partitions };
    let scene = Arc::new(Scene::prepare(database.url(), test_servers::redis_url(), kind).await?);
    let tally = Arc::new(Tally::default());
    let mut random = Rng::with_seed(seed);
    die_adopting(program, &scene, &tally).await?;
    let gauge = Gauge::start(scene.connection().await?);
    let mut slots = JoinSet::new();
    for number in 0..WRITERS + WORKERS {
        let points = Round::new(slot_points(number), &mut random);
        let (program, scene, tally) = (program.clone(), Arc::clone(&scene), Arc::clone(&tally));
        let slot = Slot { number, scene, program, tally, points, gauge: gauge.clone(), random: random.fork() };
        slots.spawn(slot.run(kills));
    }
    while let Some(slot) = slots.join_next().await {
        slot??;
    }
    let mut figures = Figures::of(if partitions > 1 { "partitions" } else { "kills" });
    tally.tell(kills, &mut figures);
    conclude(self::workers(program, &scene)?, &scene, true, &mut figures).await?;
    gauge.tell(&mut figures);
    Ok(Figures { took: begin.elapsed(), ..figures })
}

/// Only the first relay of a stream begins with it: the very first processes die while they do.
async fn die_adopting(program: &Program, scene: &Scene, tally: &Tally) -> Result<(), Trouble> {
    let writer = program.spawn(&scene.script("writer-0", 0, true))?;
    for after in [false, true] {
        let mut script = scene.script("worker-0", 0, false);
        let death = Death { point: "adopt".into(), after, nth: 1 };
        script.death = Some(death.clone());
        let end = program.spawn(&script)?.live(Duration::from_secs(20)).await?;
        tally.add(false, (end == End::AtPoint).then_some(&death));
    }
    writer.kill().await?;
    Ok(())
}

/// Pauses processes for longer than their leases, again and again.
///
/// # Errors
/// What went wrong with the run itself; what it shows is in the figures.
pub async fn pause(program: &Program, pauses: u64, seed: u64) -> Result<Figures, Trouble> {
    let database = Database::create().await?;
    let figures = pause_in(&database, program, pauses, seed).await;
    database.remove().await?;
    figures
}

async fn pause_in(database: &Database, program: &Program, pauses: u64, seed: u64) -> Result<Figures, Trouble> {
    let begin = Instant::now();
    let kind = Kind { poison: true, partitions: 1 };
    let scene = Scene::prepare(database.url(), test_servers::redis_url(), kind).await?;
    let mut random = Rng::with_seed(seed);
    let writer = program.spawn(&scene.script("writer-0", seed, true))?;
    let workers = workers(program, &scene)?;
    let gauge = Gauge::start(scene.connection().await?);
    for pause in 0..pauses {
        let worker = &workers[usize::try_from(pause)? % workers.len()];
        tokio::time::sleep(Duration::from_millis(random.u64(50..300))).await;
        worker.signal("STOP").await?;
        gauge.fault();
        tokio::time::sleep(LEASE + Duration::from_millis(random.u64(100..600))).await;
        worker.signal("CONT").await?;
    }
    writer.kill().await?;
    let mut figures = Figures::of("pauses");
    figures.faults = pauses;
    figures.what = format!("paused for longer than {LEASE:?}");
    conclude(workers, &scene, true, &mut figures).await?;
    gauge.tell(&mut figures);
    Ok(Figures { took: begin.elapsed(), ..figures })
}

/// Two workers that nothing happens to.
///
/// # Errors
/// If they do not start.
pub fn workers(program: &Program, scene: &Scene) -> Result<Vec<Process>, Trouble> {
    let names = (0..WORKERS).map(|number| format!("worker-{number}"));
    names.map(|name| program.spawn(&scene.script(&name, 0, false))).collect()
}

/// Lets calm workers finish what is left, and audits it.
async fn conclude(workers: Vec<Process>, scene: &Scene, is_kept: bool, figures: &mut Figures) -> Result<(), Trouble> {
    match scene.settle().await {
        Ok((time, last)) => {
            figures.slowest_recovery = Some(time);
            figures.what += &format!("; all was done {:.2} s later", time.as_secs_f64());
            if !last.is_empty() {
                figures.what += &format!(", {last} at last");
            }
        }
        Err(error) => figures.objections.push(error.to_string()),
    }
    for worker in workers {
        worker.kill().await?;
    }
    let evidence = scene.evidence(is_kept).await?;
    figures.events = evidence.stored.len() as u64;
    figures.report = audit(&evidence);
    if database::is_kept() { Ok(()) } else { scene.clear().await }
}

/// How often what died.
#[derive(Debug, Default)]
struct Tally {
    writers: AtomicU64,
    workers: AtomicU64,
    leads: AtomicU64,
    points: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn add(&self, writes: bool, death: Option<&Death>) {
        let counter = if writes { &self.writers } else { &self.workers };
        counter.fetch_add(1, Ordering::SeqCst);
        if let Some(death) = death {
            let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
            *points.entry(name(&death.point, death.after)).or_default() += 1;
        }
    }

    /// A quarter of those that die are writers, and a third the worker that often relays; all go on until both are
    /// enough, and on a slow machine until each point was reached.
    fn is_enough(&self, kills: u64) -> bool {
        let [workers, leads] = [&self.workers, &self.leads].map(|count| count.load(Ordering::SeqCst));
        let is_complete = kills < ENOUGH || leads >= kills || self.missed().is_empty();
        workers >= kills - kills / 4 && leads >= kills / 3 && is_complete
    }

    /// The points at which nobody died.
    fn missed(&self) -> Vec<String> {
        let points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let all = POINTS.into_iter().map(|(point, after)| name(point, after));
        all.filter(|point| !points.contains_key(point)).collect()
    }

    fn tell(&self, kills: u64, figures: &mut Figures) {
        let [writers, workers] = [&self.writers, &self.workers].map(|count| count.load(Ordering::SeqCst));
        let missed = self.missed();
        let points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let at_points: u64 = points.values().sum();
        figures.faults = writers + workers;
        figures.what = format!("{writers} writers and {workers} workers, {at_points} at named points:");
        for (point, times) in &*points {
            figures.what += &format!(" {point} {times},");
        }
        figures.what += " the others at random times";
        if kills >= ENOUGH && !missed.is_empty() {
            figures.objections.push(format!("nobody died {}", missed.join(", ")));
        }
    }
}

fn name(point: &str, after: bool) -> String {
    format!("{} {point}", if after { "after" } else { "before" })
}

/// Where who plays in a slot dies. Of the workers one mostly dies at what the owner of a lease does, which takes its time,
/// and the other one, which makes room for that, at what every process does.
fn slot_points(number: u64) -> Vec<(&'static str, bool)> {
    const OWNERS: [&str; 5] = ["publish", "floors", "checkpoint", "switch", "switched"];
    let is_here = |point: &str| match number {
        0..WRITERS => point == "append",
        WRITERS => OWNERS.contains(&point),
        _ => !OWNERS.contains(&point) && !["append", "adopt"].contains(&point),
    };
    POINTS.into_iter().filter(|(point, _)| is_here(point)).collect()
}

/// Points by turns, in an order of its own; one that nobody reached comes again.
struct Round(VecDeque<(&'static str, bool)>);

impl Round {
    fn new(mut points: Vec<(&'static str, bool)>, random: &mut Rng) -> Self {
        random.shuffle(&mut points);
        Self(points.into())
    }

    fn next(&self) -> Option<(&'static str, bool)> {
        self.0.front().copied()
    }

    fn reached(&mut self) {
        self.0.rotate_left(1);
    }
}

/// A place where one process follows the other.
struct Slot {
    number: u64,
    scene: Arc<Scene>,
    program: Program,
    tally: Arc<Tally>,
    points: Round,
    gauge: Gauge,
    random: Rng,
}

impl Slot {
    async fn run(mut self, kills: u64) -> Result<(), Trouble> {
        let (writes, leads) = (self.number < WRITERS, self.number == WRITERS);
        while !self.tally.is_enough(kills) {
            let name =
                if writes { format!("writer-{}", self.number) } else { format!("worker-{}", self.number - WRITERS) };
            let mut script = self.scene.script(&name, self.random.u64(..), writes);
            script.death = self.some_death();
            script.rebuilds = script.death.as_ref().is_some_and(|death| death.point.starts_with("switch"));
            let time = match (writes, &script.death) {
                (true, _) => self.random.u64(1_000..6_000),
                (false, None) => self.random.u64(300..2_000),
                (false, Some(_)) if leads => 10_000,
                (false, Some(_)) => 3_000,
            };
            let end = self.program.spawn(&script)?.live(Duration::from_millis(time)).await?;
            let death = script.death.filter(|_| end == End::AtPoint);
            self.tally.add(writes, death.as_ref());
            self.tally.leads.fetch_add(leads.into(), Ordering::SeqCst);
            if !writes {
                self.gauge.fault();
            }
            if death.is_some() {
                self.points.reached();
            }
        }
        Ok(())
    }

    /// At the next named point, or in one of five cases none.
    fn some_death(&mut self) -> Option<Death> {
        let (point, after) = self.points.next().filter(|_| self.random.u8(..5) > 0)?;
        let nth = match point {
            "floors" | "switch" | "switched" => 1,
            "append" => self.random.u64(1..=100),
            _ => self.random.u64(1..=12),
        };
        Some(Death { point: point.into(), after, nth })
    }
}
