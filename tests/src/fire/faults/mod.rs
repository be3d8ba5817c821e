//! Databases with faults of their own, under load and with default settings: tables that are locked, a disk that is full,
//! connections that are killed, transactions that conflict, a Redis without memory and one that only reads.
//!
//! Keep: everything has the settings that it has by default; what is checked is read from the tables.

mod disk;
mod load;
mod postgres;
mod redis;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use eventbus::{
    App,
    port::{DeadLetterFilter, HealthThresholds},
    prelude::*,
};

pub use self::disk::SmallDisk;
use self::load::Load;
use super::{Trouble, figures::Figures};

/// How long it may take from the end of a fault until everything is caught up, and until nothing is alarming any more.
const PATIENCE: Duration = Duration::from_secs(120);
/// After which time nothing more is appended until everything is caught up: a machine may be slower than its load.
const RECOVERY: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);
const DRAIN: Duration = Duration::from_secs(30);

/// How long faults last.
#[derive(Debug, Clone, Copy)]
pub struct Lasting {
    /// How long tables are locked.
    pub locked: Duration,
    /// How long the disk is full.
    pub full: Duration,
    /// How long everything else lasts.
    pub others: Duration,
}

impl Lasting {
    /// As long as the faults lasted under which events were lost once.
    pub const LONG: Self =
        Self { locked: Duration::from_secs(15), full: Duration::from_secs(12), others: Duration::from_secs(8) };
    /// Just as long as a lock is waited for, and a moment.
    pub const SHORT: Self =
        Self { locked: Duration::from_secs(7), full: Duration::from_secs(2), others: Duration::from_secs(1) };

    const fn of(self, fault: Fault) -> Duration {
        match fault {
            Fault::Locked => self.locked,
            Fault::Full => self.full,
            _ => self.others,
        }
    }
}

/// What a database suffers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The tables of handler and projection are locked.
    Locked,
    /// Their disk is full.
    Full,
    /// Connections are killed, again and again.
    Killed,
    /// Most transactions fail, as if others had been first.
    Conflicts,
    /// Handler and projection lock the same rows in different orders.
    Deadlocks,
    /// A Redis has no memory for writes.
    OutOfMemory,
    /// A Redis takes no writes, as it is to follow another one.
    ReadOnly,
}

impl Fault {
    /// What an alert says while it lasts. Those that pass by themselves may be over before anybody looks.
    const fn alert(self) -> Option<&'static str> {
        match self {
            Self::Locked => Some("SQLSTATE 55P03"),
            Self::Full => Some("SQLSTATE 53100"),
            Self::Killed | Self::Conflicts | Self::Deadlocks => None,
            Self::OutOfMemory => Some("OOM"),
            Self::ReadOnly => Some("READONLY"),
        }
    }

    /// How the alerts begin that must say so. A Redis refuses appends too: nothing may be under way then.
    const fn waiting(self) -> &'static [&'static str] {
        match self {
            Self::OutOfMemory | Self::ReadOnly => &[""],
            _ => WAITING,
        }
    }

    /// Who must raise an alert that says so, and has not: how the alert begins. A Redis says READONLY, its client "ReadOnly".
    fn silent(self, alerts: &BTreeSet<String>) -> impl Iterator<Item = &'static str> {
        let awaited = self.alert().map(str::to_lowercase);
        self.waiting().iter().copied().filter(move |who| {
            let Some(awaited) = &awaited else {
                return false;
            };
            !alerts.iter().any(|alert| alert.starts_with(who) && alert.to_lowercase().contains(awaited))
        })
    }
}

/// How alerts begin of a handler and a projection that wait.
const WAITING: &[&str] = &["`note` waits for its database since ", "`rows` waits for its database since "];

/// What every event means to handler and projection.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {
    amount: i64,
}

/// An app whose handler and projection write a row for each event, and its database.
trait Scene {
    const FAULTS: &'static [Fault];

    fn app(&self) -> &App;

    async fn strike(&mut self, fault: Fault) -> Result<(), Trouble>;

    /// What is to be done again and again while the fault lasts.
    async fn go_on(&mut self, fault: Fault) -> Result<(), Trouble>;

    async fn heal(&mut self, fault: Fault) -> Result<(), Trouble>;

    /// How many events are stored.
    async fn stored(&mut self) -> Result<u64, Trouble>;

    /// How many rows handler and projection have written, whichever has written fewer.
    async fn written(&mut self) -> Result<u64, Trouble>;

    /// For how many events handler or projection have not written exactly one row.
    async fn wrong(&mut self) -> Result<u64, Trouble>;
}

/// Lets a PostgreSQL and a Redis suffer from one fault after the other.
///
/// # Errors
/// What went wrong with the run itself; what it shows is in the figures.
pub async fn run(lasting: Lasting, seed: u64) -> Result<Figures, Trouble> {
    let begin = Instant::now();
    let (postgres, redis) = tokio::join!(postgres::run(lasting, seed), redis::run(lasting, seed));
    let (mut figures, redis) = (postgres?, redis?);
    figures.events += redis.events;
    figures.faults += redis.faults;
    figures.slowest_recovery = figures.slowest_recovery.max(redis.slowest_recovery);
    figures.objections.extend(redis.objections);
    Ok(Figures { took: begin.elapsed(), ..figures })
}

/// Lets the faults of a scene strike one after the other under load.
async fn endure(scene: &mut impl Scene, lasting: Lasting, seed: u64, figures: &mut Figures) -> Result<(), Trouble> {
    let load = Load::start(scene.app(), seed);
    for fault in scene_faults(scene) {
        let alerts = last(scene, *fault, lasting.of(*fault)).await?;
        let silent = fault.silent(&alerts);
        figures.objections.extend(silent.map(|who| format!("{fault:?}: no alert of `{who}` says so in {alerts:?}")));
        let (healed, stored) = (Instant::now(), scene.stored().await?);
        let caught_up = async || {
            load.pause(healed.elapsed() > RECOVERY);
            Ok(scene.written().await? >= stored)
        };
        if !reaches(caught_up).await? {
            figures.objections.push(format!("{fault:?}: {} of {stored} rows are written", scene.written().await?));
        }
        load.pause(false);
        figures.slowest_recovery = figures.slowest_recovery.max(Some(healed.elapsed()));
        figures.faults += 1;
        // an alert may show this fault until its part of the app has tried again: the next fault would be mistaken for it
        let app = scene.app();
        if !reaches(async || Ok(alerts_of(app).await.is_empty())).await? {
            figures.objections.push(format!("{fault:?}: alerts do not end: {:?}", alerts_of(app).await));
        }
    }
    figures.objections.extend(load.stop().await);
    conclude(scene, figures).await
}

const fn scene_faults<S: Scene>(_scene: &S) -> &'static [Fault] {
    S::FAULTS
}

/// Lets a fault last so long, and until its alerts are raised; returns the alerts that were raised meanwhile.
async fn last(scene: &mut impl Scene, fault: Fault, time: Duration) -> Result<BTreeSet<String>, Trouble> {
    scene.strike(fault).await?;
    let (struck, mut alerts) = (Instant::now(), BTreeSet::new());
    while struck.elapsed() < time || struck.elapsed() < PATIENCE && fault.silent(&alerts).next().is_some() {
        scene.go_on(fault).await?;
        alerts.extend(alerts_of(scene.app()).await);
        tokio::time::sleep(PAUSE).await;
    }
    scene.heal(fault).await?;
    Ok(alerts)
}

async fn alerts_of(app: &App) -> Vec<String> {
    app.health().await.alerts(&HealthThresholds::default())
}

/// Everything is written once, nothing was given up, and nothing is alarming any more.
async fn conclude(scene: &mut impl Scene, figures: &mut Figures) -> Result<(), Trouble> {
    let stored = scene.stored().await?;
    figures.events += stored;
    if !reaches(async || Ok(scene.written().await? >= stored)).await? {
        figures.objections.push(format!("{} of {stored} rows are written", scene.written().await?));
    }
    let wrong = scene.wrong().await?;
    if wrong > 0 {
        figures.objections.push(format!("{wrong} of {stored} events have no row, or more than one"));
    }
    let app = scene.app();
    let letters = app.bus().dead_letters(&DeadLetterFilter::default(), None, 1_000).await?.letters;
    if let Some(letter) = letters.first() {
        figures.objections.push(format!("{} events are dead letters, as {letter:?}", letters.len()));
    }
    let calm = async || {
        let is_up = |status: &eventbus::ProjectionStatus| {
            status.stopped.is_none() && status.trouble.is_none() && status.lag == 0
        };
        Ok(app.projections().await?.iter().all(is_up) && alerts_of(app).await.is_empty())
    };
    if !reaches(calm).await? {
        figures.objections.push(format!("{:?} {:?}", app.health().await, app.projections().await?));
    }
    Ok(())
}

/// Waits until something holds; returns `false` if it has not for a long time.
async fn reaches(mut holds: impl AsyncFnMut() -> Result<bool, Trouble>) -> Result<bool, Trouble> {
    let begin = Instant::now();
    while !holds().await? {
        if begin.elapsed() > PATIENCE {
            return Ok(false);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(true)
}
