//! Processes that die and pause: writers, relays, consumers and projectors, at named points and at random times.

mod child;
mod found;
mod gauge;
pub mod role;
mod scene;
mod servers;
mod slot;
mod tally;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::task::JoinSet;

pub(super) use child::send;
pub use child::{Process, Program};
pub use scene::{Kind, Scene};
pub use servers::fail_servers;

use self::{
    child::End,
    gauge::Gauge,
    role::Settings,
    slot::{LEADER, Slot, WORKERS, WRITERS},
    tally::Tally,
};
use super::{
    Trouble,
    auditor::audit,
    database::{self, Database},
    doom::Death,
    figures::Figures,
};

/// How long a process may take to become the relay and to reach the point where it dies.
const LEADER_DEADLINE: Duration = Duration::from_secs(60);

/// Kills processes, again and again, and looks what has become of everything. With several partitions the order within
/// each aggregate is looked at too.
///
/// # Errors
/// What went wrong with the run itself; what it shows is in the figures.
pub async fn kill(
    program: &Program,
    settings: Settings,
    kills: u64,
    partitions: u32,
    seed: u64,
) -> Result<Figures, Trouble> {
    let database = Database::create().await?;
    let kind = Kind { servers_fail: false, partitions, settings };
    let figures = kill_in(&database, program, kind, kills, seed).await;
    database.remove().await?;
    figures
}

async fn kill_in(
    database: &Database,
    program: &Program,
    kind: Kind,
    kills: u64,
    seed: u64,
) -> Result<Figures, Trouble> {
    let begin = Instant::now();
    let scene = Arc::new(Scene::prepare(database.url(), test_servers::redis_url(), kind).await?);
    let tally = Arc::new(Tally::default());
    let mut random = Rng::with_seed(seed);
    die_adopting(program, &scene, &tally).await?;
    let gauge = Gauge::start(scene.connection().await?);
    let mut slots = JoinSet::new();
    for number in 0..WRITERS + WORKERS {
        let (program, scene, tally) = (program.clone(), Arc::clone(&scene), Arc::clone(&tally));
        slots.spawn(Slot::new(number, program, scene, tally, gauge.clone(), random.fork()).run(kills));
    }
    while let Some(slot) = slots.join_next().await {
        slot??;
    }
    let mut figures = Figures::of(if kind.partitions > 1 { "partitions" } else { "kills" });
    tally.tell(kills, &mut figures);
    conclude(self::workers(program, &scene)?, &scene, &mut figures).await?;
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
        let end = program.spawn(&script)?.live(LEADER_DEADLINE).await?;
        tally.add(LEADER, (end == End::AtPoint).then_some(&death));
    }
    writer.kill().await?;
    Ok(())
}

/// Pauses processes for longer than their leases, again and again.
///
/// # Errors
/// What went wrong with the run itself; what it shows is in the figures.
pub async fn pause(program: &Program, settings: Settings, pauses: u64, seed: u64) -> Result<Figures, Trouble> {
    let database = Database::create().await?;
    let figures = pause_in(&database, program, settings, pauses, seed).await;
    database.remove().await?;
    figures
}

async fn pause_in(
    database: &Database,
    program: &Program,
    settings: Settings,
    pauses: u64,
    seed: u64,
) -> Result<Figures, Trouble> {
    let (begin, lease) = (Instant::now(), settings.lease());
    let kind = Kind { servers_fail: false, partitions: 1, settings };
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
        tokio::time::sleep(lease + Duration::from_millis(random.u64(100..600))).await;
        worker.signal("CONT").await?;
    }
    writer.kill().await?;
    let mut figures = Figures::of("pauses");
    figures.faults = pauses;
    figures.what = format!("paused for longer than {lease:?}");
    let owners = conclude(workers, &scene, &mut figures).await?;
    if owners < 2 {
        figures.objections.push("nobody took over from a process that was paused".into());
    }
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

/// Lets calm workers finish what is left, and audits it; returns how many owners the projection had, one after the other.
async fn conclude(workers: Vec<Process>, scene: &Scene, figures: &mut Figures) -> Result<usize, Trouble> {
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
    let evidence = scene.evidence().await?;
    let owners = evidence.owners("ledger");
    figures.what += &format!("; {owners} owners of a projection");
    figures.events = evidence.stored.len() as u64;
    figures.report = audit(&evidence);
    if !database::is_kept() {
        scene.clear().await?;
    }
    Ok(owners)
}
