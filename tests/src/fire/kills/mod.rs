//! Processes that die or pause: writers, relays, consumers and projectors, at named points and at random times.

mod child;
mod collect_evidence;
mod crash_counts;
mod latency_probe;
pub mod process_role;
mod process_slot;
mod scenario;
mod server_failures;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::task::JoinSet;

pub(super) use child::send_signal;
pub use child::{Process, Program};
pub use scenario::{Scenario, ScenarioKind};
pub use server_failures::fail_servers;

use self::{
    child::ProcessEnd,
    crash_counts::CrashCounts,
    latency_probe::LatencyProbe,
    process_role::Settings,
    process_slot::{LEADER, ProcessSlot, WORKERS, WRITERS},
};
use super::{
    HarnessError,
    auditor::audit,
    database::{self, Database},
    failpoints::CrashPoint,
    run_summary::RunSummary,
};

/// Time limit for a process to become the relay's leader and reach its fail point.
const LEADER_DEADLINE: Duration = Duration::from_secs(60);

/// Kills processes repeatedly, and audits the result.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn kill(program: &Program, settings: Settings, kills: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let database = Database::create().await?;
    let kind = ScenarioKind { servers_fail: false, settings };
    let figures = kill_in(&database, program, kind, kills, seed).await;
    database.remove().await?;
    figures
}

async fn kill_in(
    database: &Database,
    program: &Program,
    kind: ScenarioKind,
    kills: u64,
    seed: u64,
) -> Result<RunSummary, HarnessError> {
    let begin = Instant::now();
    let scenario = Arc::new(Scenario::prepare(database.url(), eventbus_test::redis_url(), kind).await?);
    let crash_counts = Arc::new(CrashCounts::default());
    let mut random = Rng::with_seed(seed);
    crash_during_begin(program, &scenario, &crash_counts).await?;
    let latency_probe = LatencyProbe::start(scenario.connection().await?);
    let mut slots = JoinSet::new();
    for number in 0..WRITERS + WORKERS {
        let (program, scenario, crash_counts) = (program.clone(), Arc::clone(&scenario), Arc::clone(&crash_counts));
        slots.spawn(
            ProcessSlot::new(number, program, scenario, crash_counts, latency_probe.clone(), random.fork()).run(kills),
        );
    }
    while let Some(slot) = slots.join_next().await {
        slot??;
    }
    let mut figures = RunSummary::new("kills");
    crash_counts.report_to(kills, &mut figures);
    finish_and_audit(self::spawn_workers(program, &scenario)?, &scenario, &mut figures).await?;
    latency_probe.report_to(&mut figures);
    Ok(RunSummary { took: begin.elapsed(), ..figures })
}

/// Kills the first processes of a stream while the relay begins: only the first relay of a stream does.
async fn crash_during_begin(
    program: &Program,
    scenario: &Scenario,
    crash_counts: &CrashCounts,
) -> Result<(), HarnessError> {
    let writer = program.spawn(&scenario.process_config("writer-0", 0, true))?;
    for after in [false, true] {
        let mut script = scenario.process_config("worker-0", 0, false);
        let death = CrashPoint { point: "begin".into(), after, nth: 1 };
        script.death = Some(death.clone());
        let end = program.spawn(&script)?.run_for(LEADER_DEADLINE).await?;
        crash_counts.record(LEADER, (end == ProcessEnd::AtPoint).then_some(&death));
    }
    writer.kill().await?;
    Ok(())
}

/// Pauses processes for longer than their leases, repeatedly.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn pause(program: &Program, settings: Settings, pauses: u64, seed: u64) -> Result<RunSummary, HarnessError> {
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
) -> Result<RunSummary, HarnessError> {
    let (begin, lease) = (Instant::now(), settings.lease());
    let kind = ScenarioKind { servers_fail: false, settings };
    let scenario = Scenario::prepare(database.url(), eventbus_test::redis_url(), kind).await?;
    let mut random = Rng::with_seed(seed);
    let writer = program.spawn(&scenario.process_config("writer-0", seed, true))?;
    let workers = spawn_workers(program, &scenario)?;
    let latency_probe = LatencyProbe::start(scenario.connection().await?);
    for pause in 0..pauses {
        let worker = &workers[usize::try_from(pause)? % workers.len()];
        tokio::time::sleep(Duration::from_millis(random.u64(50..300))).await;
        worker.signal("STOP").await?;
        latency_probe.record_fault();
        tokio::time::sleep(lease + Duration::from_millis(random.u64(100..600))).await;
        worker.signal("CONT").await?;
    }
    writer.kill().await?;
    let mut figures = RunSummary::new("pauses");
    figures.faults = pauses;
    figures.description = format!("paused for longer than {lease:?}");
    let owners = finish_and_audit(workers, &scenario, &mut figures).await?;
    if owners < 2 {
        figures.failures.push("no process took over from a paused one".into());
    }
    latency_probe.report_to(&mut figures);
    Ok(RunSummary { took: begin.elapsed(), ..figures })
}

/// Starts two workers without crash points.
///
/// # Errors
/// If they do not start.
pub fn spawn_workers(program: &Program, scenario: &Scenario) -> Result<Vec<Process>, HarnessError> {
    let names = (0..WORKERS).map(|number| format!("worker-{number}"));
    names.map(|name| program.spawn(&scenario.process_config(&name, 0, false))).collect()
}

/// Lets undisturbed workers handle the remaining events, and audits the result; returns how many owners the projection
/// had in turn.
async fn finish_and_audit(
    workers: Vec<Process>,
    scenario: &Scenario,
    figures: &mut RunSummary,
) -> Result<usize, HarnessError> {
    match scenario.wait_until_handled().await {
        Ok((time, last)) => {
            figures.slowest_recovery = Some(time);
            figures.description += &format!("; all was done {:.2} s later", time.as_secs_f64());
            if !last.is_empty() {
                figures.description += &format!(", {last} at last");
            }
        }
        Err(error) => figures.failures.push(error.to_string()),
    }
    for worker in workers {
        worker.kill().await?;
    }
    let evidence = scenario.evidence().await?;
    let owners = evidence.owners("ledger");
    figures.description += &format!("; {owners} owners of a projection");
    figures.events = evidence.stored.len() as u64;
    figures.report = audit(&evidence);
    if !database::keeps_artifacts() {
        scenario.clear().await?;
    }
    Ok(owners)
}
