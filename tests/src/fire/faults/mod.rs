//! Faults inside databases, under load and with default settings: locked tables, a full disk, killed connections,
//! conflicting transactions, a Redis without memory and a read-only one.
//!
//! Invariant: every setting has its default; the checks read the tables.

mod disk;
mod load;
mod postgres;
mod redis;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use eventbus::{App, health::HealthThresholds, port::DeadLetterFilter, prelude::*};

pub use self::disk::SmallDisk;
use self::load::WriteLoad;
use super::{HarnessError, run_summary::RunSummary};

/// The longest time without a new row while events or alerts are left, and the limit of each other wait.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Time after which the load pauses until all events are handled: a machine may be slower than its load.
const PAUSE_LOAD_AFTER: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// The durations of faults, and the room of the disk.
#[derive(Debug, Clone, Copy)]
pub struct FaultDurations {
    /// Duration of locked tables.
    pub locked: Duration,
    /// Duration of a full disk.
    pub full: Duration,
    /// Duration of all other faults.
    pub others: Duration,
    /// Megabytes of the disk that is filled: it has room for the rows of the whole run.
    pub disk: u32,
}

impl FaultDurations {
    /// As long as faults under which events were once lost.
    pub const LONG: Self = Self {
        locked: Duration::from_secs(15),
        full: Duration::from_secs(12),
        others: Duration::from_secs(8),
        disk: 256,
    };
    /// Slightly longer than a statement waits for a lock.
    pub const SHORT: Self =
        Self { locked: Duration::from_secs(7), full: Duration::from_secs(2), others: Duration::from_secs(1), disk: 32 };

    const fn duration_of(self, fault: DatabaseFault) -> Duration {
        match fault {
            DatabaseFault::Locked => self.locked,
            DatabaseFault::Full => self.full,
            _ => self.others,
        }
    }
}

/// A fault of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DatabaseFault {
    /// The tables of handler and projection are locked.
    Locked,
    /// Their disk is full.
    Full,
    /// Connections are killed repeatedly.
    Killed,
    /// Most transactions fail with a serialization conflict.
    Conflicts,
    /// Handler and projection lock the same rows in different orders.
    Deadlocks,
    /// A Redis has no memory for writes.
    OutOfMemory,
    /// A Redis accepts no writes, because it is a replica.
    ReadOnly,
}

impl DatabaseFault {
    /// Returns the text of alerts while the fault lasts; `None` for transient faults, whose alerts may end before a
    /// check.
    const fn alert(self) -> Option<&'static str> {
        match self {
            Self::Locked => Some("SQLSTATE 55P03"),
            Self::Full => Some("SQLSTATE 53100"),
            Self::Killed | Self::Conflicts | Self::Deadlocks => None,
            Self::OutOfMemory => Some("OOM"),
            Self::ReadOnly => Some("READONLY"),
        }
    }

    /// Returns the prefixes of alerts that must contain the text. A Redis refuses appends too, so no event may be in
    /// flight.
    const fn alert_prefixes(self) -> &'static [&'static str] {
        match self {
            Self::OutOfMemory | Self::ReadOnly => &[""],
            _ => WAITING_ALERT_PREFIXES,
        }
    }

    /// Returns the prefixes of required alerts that are missing. Redis says READONLY, its client "ReadOnly".
    fn missing_alerts(self, alerts: &BTreeSet<String>) -> impl Iterator<Item = &'static str> {
        let awaited = self.alert().map(str::to_lowercase);
        self.alert_prefixes().iter().copied().filter(move |who| {
            let Some(awaited) = &awaited else {
                return false;
            };
            !alerts.iter().any(|alert| alert.starts_with(who) && alert.to_lowercase().contains(awaited))
        })
    }
}

/// Prefixes of the alerts for a waiting handler and a waiting projection.
const WAITING_ALERT_PREFIXES: &[&str] =
    &["`note` waits for its database since ", "`rows` waits for its database since "];

/// The event that handler and projection consume.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {
    amount: i64,
}

/// A database, and an app whose handler and projection write a row for each event.
trait FaultScenario {
    const FAULTS: &'static [DatabaseFault];

    fn app(&self) -> &App;

    async fn inject(&mut self, fault: DatabaseFault) -> Result<(), HarnessError>;

    /// Repeats the actions that keep the fault up while it lasts.
    async fn sustain(&mut self, fault: DatabaseFault) -> Result<(), HarnessError>;

    async fn repair(&mut self, fault: DatabaseFault) -> Result<(), HarnessError>;

    /// Returns the number of stored events.
    async fn count_stored(&mut self) -> Result<u64, HarnessError>;

    /// Returns the number of rows that handler or projection have written, whichever is lower.
    async fn count_written(&mut self) -> Result<u64, HarnessError>;

    /// Returns the number of events for which handler or projection have not written exactly one row.
    async fn count_wrong(&mut self) -> Result<u64, HarnessError>;
}

/// Runs all faults against a PostgreSQL and a Redis.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(durations: FaultDurations, seed: u64) -> Result<RunSummary, HarnessError> {
    let begin = Instant::now();
    let (postgres, redis) = tokio::join!(postgres::run(durations, seed), redis::run(durations, seed));
    let (mut figures, redis) = (postgres?, redis?);
    figures.events += redis.events;
    figures.faults += redis.faults;
    figures.slowest_recovery = figures.slowest_recovery.max(redis.slowest_recovery);
    figures.failures.extend(redis.failures);
    Ok(RunSummary { took: begin.elapsed(), ..figures })
}

/// Runs the faults of a scenario one after the other under load.
async fn run_faults(
    scenario: &mut impl FaultScenario,
    durations: FaultDurations,
    seed: u64,
    figures: &mut RunSummary,
) -> Result<(), HarnessError> {
    let load = WriteLoad::start(scenario.app(), seed);
    for fault in faults_of(scenario) {
        let alerts = sustain_fault(scenario, *fault, durations.duration_of(*fault)).await?;
        let silent = fault.missing_alerts(&alerts);
        figures.failures.extend(silent.map(|who| format!("{fault:?}: no alert of `{who}` says so in {alerts:?}")));
        let (healed, stored) = (Instant::now(), scenario.count_stored().await?);
        let pause_load = || load.pause(healed.elapsed() > PAUSE_LOAD_AFTER);
        let has_caught_up = async |_: &_, written| {
            pause_load();
            written >= stored
        };
        if let Some(written) = wait_while_writing(scenario, has_caught_up).await? {
            figures.failures.push(format!("{fault:?}: {written} of {stored} rows are written"));
        }
        figures.slowest_recovery = figures.slowest_recovery.max(Some(healed.elapsed()));
        figures.faults += 1;
        // an alert may show this fault until its part of the app has retried; the next fault would be mistaken for it
        let is_calm = async |app: &App, _| {
            pause_load();
            alerts_of(app).await.is_empty()
        };
        if wait_while_writing(scenario, is_calm).await?.is_some() {
            figures.failures.push(format!("{fault:?}: alerts do not end: {:?}", alerts_of(scenario.app()).await));
        }
        load.pause(false);
    }
    figures.failures.extend(load.stop().await);
    check_final_state(scenario, figures).await
}

const fn faults_of<S: FaultScenario>(_scene: &S) -> &'static [DatabaseFault] {
    S::FAULTS
}

/// Keeps a fault up for its duration and until its alerts are raised; returns the alerts raised meanwhile.
async fn sustain_fault(
    scenario: &mut impl FaultScenario,
    fault: DatabaseFault,
    time: Duration,
) -> Result<BTreeSet<String>, HarnessError> {
    scenario.inject(fault).await?;
    let (struck, mut alerts) = (Instant::now(), BTreeSet::new());
    while struck.elapsed() < time
        || struck.elapsed() < RECOVERY_TIMEOUT && fault.missing_alerts(&alerts).next().is_some()
    {
        scenario.sustain(fault).await?;
        alerts.extend(alerts_of(scenario.app()).await);
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    scenario.repair(fault).await?;
    Ok(alerts)
}

async fn alerts_of(app: &App) -> Vec<String> {
    app.health().await.alerts(&HealthThresholds::default())
}

/// Checks that each event is written once, none is a dead letter, and no alert remains.
async fn check_final_state(scenario: &mut impl FaultScenario, figures: &mut RunSummary) -> Result<(), HarnessError> {
    let stored = scenario.count_stored().await?;
    figures.events += stored;
    if let Some(written) = wait_while_writing(scenario, async |_: &_, written| written >= stored).await? {
        figures.failures.push(format!("{written} of {stored} rows are written"));
    }
    let wrong = scenario.count_wrong().await?;
    if wrong > 0 {
        figures.failures.push(format!("{wrong} of {stored} events have no row, or more than one"));
    }
    let app = scenario.app();
    let dead_letters =
        app.bus().require_dead_letters()?.list_dead_letters(&DeadLetterFilter::default(), None, 1_000).await?.letters;
    if let Some(dead_letter) = dead_letters.first() {
        figures.failures.push(format!("{} events are dead letters, as {dead_letter:?}", dead_letters.len()));
    }
    let calm = async || {
        let is_up = |status: &eventbus::projection::ProjectionStatus| {
            status.stopped.is_none() && status.trouble.is_none() && status.lag == 0
        };
        Ok(app.projections().await?.iter().all(is_up) && alerts_of(app).await.is_empty())
    };
    if !wait_until(calm).await? {
        figures.failures.push(format!("{:?} {:?}", app.health().await, app.projections().await?));
    }
    Ok(())
}

/// Waits until `is_done` returns `true` for the number of written rows; returns that number if no row was written for the
/// time limit. A machine under load needs time for each row.
async fn wait_while_writing(
    scenario: &mut impl FaultScenario,
    mut is_done: impl AsyncFnMut(&App, u64) -> bool,
) -> Result<Option<u64>, HarnessError> {
    let (mut last, mut grown_at) = (0, Instant::now());
    loop {
        let written = scenario.count_written().await?;
        if is_done(scenario.app(), written).await {
            return Ok(None);
        }
        if written > last {
            (last, grown_at) = (written, Instant::now());
        }
        if grown_at.elapsed() > RECOVERY_TIMEOUT {
            return Ok(Some(written));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits until `holds` returns `true`; returns `false` if it has not within the time limit.
async fn wait_until(mut holds: impl AsyncFnMut() -> Result<bool, HarnessError>) -> Result<bool, HarnessError> {
    let begin = Instant::now();
    while !holds().await? {
        if begin.elapsed() > RECOVERY_TIMEOUT {
            return Ok(false);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(true)
}
