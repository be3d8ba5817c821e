//! Processes that die and pause: writers, relays, consumers and projectors, at named points and at random times.

mod child;
pub mod role;
mod scene;
mod servers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::task::JoinSet;

pub use child::{Process, Program};
pub use scene::Scene;
pub use servers::fail_servers;

use self::{child::End, role::LEASE};
use super::{
    Trouble,
    auditor::audit,
    database::Database,
    doom::{Death, POINTS},
    figures::Figures,
};

const WRITERS: u64 = 2;
const WORKERS: u64 = 2;

/// Kills processes, again and again, and looks what has become of everything.
///
/// # Errors
/// What went wrong with the run itself; what it shows is in the figures.
pub async fn kill(program: &Program, kills: u64, seed: u64) -> Result<Figures, Trouble> {
    let begin = Instant::now();
    let database = Database::create().await?;
    let scene = Arc::new(Scene::prepare(database.url(), test_servers::redis_url(), true).await?);
    let tally = Arc::new(Tally::default());
    let mut slots = JoinSet::new();
    for number in 0..WRITERS + WORKERS {
        let random = Rng::with_seed(seed * 100 + number);
        let slot =
            Slot { number, scene: Arc::clone(&scene), program: program.clone(), tally: Arc::clone(&tally), random };
        slots.spawn(slot.run(kills));
    }
    while let Some(slot) = slots.join_next().await {
        slot??;
    }
    let mut figures = Figures::of("kills");
    let [writers, workers] = [true, false].map(|writes| tally.of(writes).load(Ordering::SeqCst));
    figures.faults = writers + workers;
    let points = tally.points.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let at_points: u64 = points.values().sum();
    figures.what = format!(
        "{writers} writers and {workers} workers, {at_points} at named points {points:?}, the others at random times"
    );
    conclude(self::workers(program, &scene)?, &scene, true, &mut figures).await?;
    database.remove().await?;
    Ok(Figures { took: begin.elapsed(), ..figures })
}

/// Pauses processes for longer than their leases, again and again.
///
/// # Errors
/// What went wrong with the run itself; what it shows is in the figures.
pub async fn pause(program: &Program, pauses: u64, seed: u64) -> Result<Figures, Trouble> {
    let begin = Instant::now();
    let database = Database::create().await?;
    let scene = Scene::prepare(database.url(), test_servers::redis_url(), true).await?;
    let mut random = Rng::with_seed(seed);
    let writer = program.spawn(&scene.script("writer-0", seed, true))?;
    let workers = workers(program, &scene)?;
    for pause in 0..pauses {
        let worker = &workers[usize::try_from(pause)? % workers.len()];
        tokio::time::sleep(Duration::from_millis(random.u64(50..300))).await;
        worker.signal("STOP").await?;
        tokio::time::sleep(LEASE + Duration::from_millis(random.u64(100..600))).await;
        worker.signal("CONT").await?;
    }
    writer.kill().await?;
    let mut figures = Figures::of("pauses");
    figures.faults = pauses;
    figures.what = format!("paused for longer than {LEASE:?}");
    conclude(workers, &scene, true, &mut figures).await?;
    database.remove().await?;
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
        Ok(time) => figures.slowest_recovery = Some(time),
        Err(error) => figures.objections.push(error.to_string()),
    }
    for worker in workers {
        worker.kill().await?;
    }
    let evidence = scene.evidence(is_kept).await?;
    figures.events = evidence.stored.len() as u64;
    figures.report = audit(&evidence);
    if figures.is_good() { scene.clear().await } else { Ok(()) }
}

/// How often what died.
#[derive(Debug, Default)]
struct Tally {
    writers: AtomicU64,
    workers: AtomicU64,
    points: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Of whom a slot is.
    const fn of(&self, writes: bool) -> &AtomicU64 {
        if writes { &self.writers } else { &self.workers }
    }
}

/// A place where one process follows the other.
struct Slot {
    number: u64,
    scene: Arc<Scene>,
    program: Program,
    tally: Arc<Tally>,
    random: Rng,
}

impl Slot {
    /// A quarter of those that die are writers, and writers go on until the last worker has died.
    async fn run(mut self, kills: u64) -> Result<(), Trouble> {
        let writes = self.number < WRITERS;
        while self.tally.of(false).load(Ordering::SeqCst) < kills - kills / 4 {
            let name =
                if writes { format!("writer-{}", self.number) } else { format!("worker-{}", self.number - WRITERS) };
            let mut script = self.scene.script(&name, self.random.u64(..), writes);
            script.death = self.some_death(writes);
            let time = match (writes, &script.death) {
                (true, _) => self.random.u64(1_000..6_000),
                (false, None) => self.random.u64(300..2_000),
                (false, Some(_)) => 5_000,
            };
            let end = self.program.spawn(&script)?.live(Duration::from_millis(time)).await?;
            self.tally.of(writes).fetch_add(1, Ordering::SeqCst);
            if let (End::AtPoint, Some(death)) = (end, script.death) {
                let side = if death.after { "after" } else { "before" };
                let mut points = self.tally.points.lock().unwrap_or_else(PoisonError::into_inner);
                *points.entry(format!("{side} {}", death.point)).or_default() += 1;
            }
        }
        Ok(())
    }

    /// At some named point, or none.
    fn some_death(&mut self, writes: bool) -> Option<Death> {
        let point = if writes { "append" } else { POINTS[self.random.usize(1..POINTS.len())] };
        let nth = match point {
            "adopt" | "floors" => 1,
            "append" => self.random.u64(1..=150),
            _ => self.random.u64(1..=12),
        };
        let death = Death { point: point.into(), after: self.random.bool(), nth };
        (self.random.u8(..3) > 0).then_some(death)
    }
}
