//! Members that are killed while a newer release replaces an older one: no event is lost or acknowledged without its
//! handler, and the rows of the projection, which both releases write, are complete, unique, and never decrease.
//!
//! The order is the promised one. With partitions: within each aggregate, for the type that both releases handle, and
//! for the newer type if it was announced before its first event; skipped events are delivered later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    Name,
    port::{DeadLetterFilter, DeadLetters as _, EventBus as _},
    prelude::*,
};
use eventbus_redis::RedisEventBus;
use fastrand::Rng;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::Connection as _;
use tokio::{process::Child, task::JoinHandle};

use super::{
    Parcel, ParcelLost, ParcelSent, SHUTDOWN_TIMEOUT,
    release::{JournalContents, Member, TABLE_SQL},
};
use crate::fire::{
    HarnessError,
    database::{Database, execute_sql, keeps_artifacts},
    kills::{Program, send_signal},
    run_summary::RunSummary,
};

const GROUP: Name = Name::from_static("rolling");
const MEMBERS: usize = 2;
const PARCELS: usize = 20;
/// Number of upgrades that run at once.
const CONCURRENT_ROLLINGS: usize = 4;
/// Time limit, after the last kill, until all events are handled: a claim of a killed member lasts a minute by default,
/// and a projection retries every minute.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(240);
const SIGTERM: i32 = 15;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The kind of an upgrade.
#[derive(Debug, Clone, Copy)]
struct RollingKind {
    /// Set if the writers are upgraded first, unset if the consumers are.
    writers_first: bool,
    partitions: u32,
    /// Set if a killed member restarts under its former name; by default each process has a new one.
    keeps_names: bool,
}

impl RollingKind {
    /// Returns each kind in turn. In the first two, which the short form runs, no member waits a minute for a claim to
    /// expire.
    fn from_number(number: u64) -> Self {
        let (writers_first, partitions) =
            ((number / 2).is_multiple_of(2) == number.is_multiple_of(2), 1 + 3 * (number % 2) as u32);
        Self { writers_first, partitions, keeps_names: number < 2 || (number / 4).is_multiple_of(2) }
    }
}

/// The slot of a member: when one process ends, the next one starts.
struct MemberSlot {
    number: usize,
    is_new: bool,
    member: Option<Child>,
}

/// The events that the writer saved.
#[derive(Debug, Default)]
struct WrittenEvents {
    /// The aggregate of each event that both releases handle.
    sent: BTreeMap<u64, usize>,
    /// The aggregate of each event that only the newer release handles.
    lost: BTreeMap<u64, usize>,
}

/// One upgrade, with a database and a stream of its own.
struct RollingUpgrade<'a> {
    program: &'a Program,
    kind: RollingKind,
    member: Member,
    slots: Vec<MemberSlot>,
    kills: u64,
    random: Rng,
}

impl RollingUpgrade<'_> {
    fn start(&mut self, number: usize) -> Result<(), HarnessError> {
        let slot = &mut self.slots[number];
        let name = self.kind.keeps_names.then(|| format!("member-{}", slot.number));
        let member = Member { name, is_new: slot.is_new, ..self.member.clone() };
        slot.member = Some(self.program.in_role(&member)?.stderr(Stdio::piped()).spawn()?);
        Ok(())
    }

    /// Kills the member; fails if it has ended by itself.
    async fn kill(&mut self, number: usize) -> Result<(), HarnessError> {
        let Some(mut member) = self.slots[number].member.take() else {
            return Ok(());
        };
        if let Some(ended) = member.try_wait()? {
            let said = member.wait_with_output().await?;
            return Err(format!("a member ended by itself, {ended}: {}", String::from_utf8_lossy(&said.stderr)).into());
        }
        member.kill().await?;
        self.kills += 1;
        Ok(())
    }

    /// Ends the member as a deployment does.
    async fn end(&mut self, number: usize) -> Result<(), HarnessError> {
        let Some(member) = self.slots[number].member.take() else {
            return Ok(());
        };
        send_signal(member.id().ok_or("the process is gone")?, "TERM").await?;
        let said = tokio::time::timeout(2 * SHUTDOWN_TIMEOUT, member.wait_with_output()).await??;
        // a member that is still starting does not handle the signal yet, and dies of it
        match said.status.success() || said.status.signal() == Some(SIGTERM) {
            true => Ok(()),
            false => Err(format!("a member did not end: {}", String::from_utf8_lossy(&said.stderr)).into()),
        }
    }

    /// Kills members for a while, and restarts each.
    async fn kill_members(&mut self) -> Result<(), HarnessError> {
        for _ in 0..self.random.u32(1..=2) {
            tokio::time::sleep(Duration::from_millis(self.random.u64(100..900))).await;
            let number = self.random.usize(..MEMBERS);
            self.kill(number).await?;
            self.start(number)?;
        }
        tokio::time::sleep(Duration::from_millis(self.random.u64(100..500))).await;
        Ok(())
    }

    /// Replaces the older release by the newer one, after a kill or an orderly shutdown.
    async fn upgrade(&mut self, number: usize) -> Result<(), HarnessError> {
        match self.random.bool() {
            true => self.kill(number).await?,
            false => self.end(number).await?,
        }
        self.slots[number].is_new = true;
        self.start(number)
    }

    async fn run_upgrade(&mut self, writes_new: &AtomicBool) -> Result<(), HarnessError> {
        for number in 0..MEMBERS {
            self.start(number)?;
        }
        self.kill_members().await?;
        if self.kind.writers_first {
            writes_new.store(true, Ordering::Relaxed);
            self.kill_members().await?;
            self.upgrade(0).await?;
        } else {
            self.upgrade(0).await?;
            // the member has announced its types, and is down when the first event arrives that only it handles
            let journal = self.member.journal.clone();
            wait_until("the newer release has started", async || Ok(JournalContents::read(&journal)?.new_starts > 0))
                .await?;
            self.kill(0).await?;
            writes_new.store(true, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(self.random.u64(300..800))).await;
            self.start(0)?;
        }
        self.kill_members().await?;
        self.upgrade(1).await?;
        self.kill_members().await
    }
}

async fn wait_until(
    what: &str,
    mut holds: impl AsyncFnMut() -> Result<bool, HarnessError>,
) -> Result<(), HarnessError> {
    let began = Instant::now();
    while !holds().await? {
        if began.elapsed() > CATCH_UP_TIMEOUT {
            return Err(format!("waited in vain until {what}").into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Saves events until `ends`, of the newer type too once `writes_new` is set.
async fn write(
    writer: App,
    mut random: Rng,
    writes_new: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
) -> Result<WrittenEvents, HarnessError> {
    let repository = writer.repository::<Parcel>();
    let mut parcels: Vec<_> = (0..PARCELS).map(|_| repository.create_new(AggregateId::new())).collect();
    let mut written = WrittenEvents::default();
    for number in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let at = random.usize(..PARCELS);
        if writes_new.load(Ordering::Relaxed) && random.bool() {
            parcels[at].record(ParcelLost { number });
            written.lost.insert(number, at);
        } else {
            parcels[at].record(ParcelSent { number });
            written.sent.insert(number, at);
        }
        repository.save(&mut parcels[at]).await?;
        tokio::time::sleep(Duration::from_millis(random.u64(..6))).await;
    }
    Ok(written)
}

/// Polls the number of rows; returns a message if it ever decreased.
fn watch_rows(url: &str, ends: Arc<AtomicBool>) -> JoinHandle<Result<Option<String>, HarnessError>> {
    let url = url.to_owned();
    tokio::spawn(async move {
        let mut connection = sqlx::PgConnection::connect(&url).await?;
        let (mut before, mut fewer) = (0, None);
        while !ends.load(Ordering::Relaxed) {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM shelved").fetch_one(&mut connection).await?;
            if count < before {
                fewer.get_or_insert(format!("{count} rows were there after {before}"));
            }
            before = count;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(fewer)
    })
}

async fn rows(url: &str) -> Result<Vec<u64>, HarnessError> {
    let mut connection = sqlx::PgConnection::connect(url).await?;
    let rows: Vec<i64> =
        sqlx::query_scalar("SELECT number FROM shelved ORDER BY number").fetch_all(&mut connection).await?;
    Ok(rows.into_iter().map(i64::cast_unsigned).collect())
}

/// The result of one upgrade.
struct Outcome {
    kind: RollingKind,
    events: u64,
    kills: u64,
    repeated: usize,
    recovery: Duration,
    objections: Vec<String>,
}

async fn run_one(program: &Program, redis: &str, number: u64, seed: u64) -> Result<Outcome, HarnessError> {
    let (kind, random) = (RollingKind::from_number(number), Rng::with_seed(seed * 1_000 + number));
    let database = Database::create().await?;
    let outcome = run_in(&database, program, redis, kind, random).await;
    database.remove().await?;
    outcome
}

async fn run_in(
    database: &Database,
    program: &Program,
    redis: &str,
    kind: RollingKind,
    mut random: Rng,
) -> Result<Outcome, HarnessError> {
    let store = database.store("writer", 4).await?;
    execute_sql(&mut sqlx::PgConnection::connect(database.url()).await?, TABLE_SQL).await?;
    let prefix = eventbus_test::unique_name("killed");
    let journal: PathBuf = std::env::temp_dir().join(format!("{prefix}.journal"));
    File::create(&journal)?;
    let (store_url, redis) = (database.url().to_owned(), redis.to_owned());
    let member =
        Member { store: store_url, redis, prefix, name: None, partitions: kind.partitions, journal, is_new: false };
    let bus = RedisEventBus::connect(member.bus()).await?;
    let writer = App::builder().store(store.clone()).bus(bus.clone()).start().await?;
    let (writes_new, ends_writing, ends) = <(Arc<AtomicBool>, Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let watching = watch_rows(database.url(), Arc::clone(&ends));
    let writing = write(writer.clone(), random.fork(), Arc::clone(&writes_new), Arc::clone(&ends_writing));
    let writing = tokio::spawn(writing);

    let slots = (0..MEMBERS).map(|number| MemberSlot { number, is_new: false, member: None }).collect();
    let mut rolling = RollingUpgrade { program, kind, member, slots, kills: 0, random };
    rolling.run_upgrade(&writes_new).await?;
    ends_writing.store(true, Ordering::Relaxed);
    let written = writing.await??;
    let events = (written.sent.len() + written.lost.len()) as u64;

    let (began, journal) = (Instant::now(), rolling.member.journal.clone());
    let is_done = async || -> Result<bool, HarnessError> {
        let handled = JournalContents::read(&journal)?.order.len() as u64;
        Ok(handled == events
            && bus.progress(&GROUP).await?.is_settled()
            && rows(database.url()).await?.len() as u64 >= events)
    };
    // the checks below report missing events
    let ended = wait_until("everything is handled", is_done).await;
    let recovery = began.elapsed();
    let (handled, rows) = (JournalContents::read(&journal)?, rows(database.url()).await?);
    let mut objections: Vec<_> = ended.err().map(|error| error.to_string()).into_iter().collect();
    let all: BTreeSet<u64> = (0..events).collect();
    let seen: BTreeSet<u64> = handled.order.iter().copied().collect();
    let lost = |has: &BTreeSet<u64>| {
        let lost = all.difference(has).filter(|number| written.lost.contains_key(number)).count();
        (all.difference(has).count(), lost)
    };
    if seen != all {
        let (count, of_new) = lost(&seen);
        let progress = bus.progress(&GROUP).await?;
        objections
            .push(format!("{count} events never reached their handler, {of_new} of the newer type; {progress:?}"));
    }
    if rows != all.iter().copied().collect::<Vec<_>>() {
        let kept: BTreeSet<u64> = rows.iter().copied().collect();
        let ((missing, of_new), twice) = (lost(&kept), rows.len() - kept.len());
        objections.push(format!("{missing} rows are missing, {of_new} of the newer type, and {twice} are there twice"));
    }
    if kind.partitions > 1 {
        objections.extend(handled.out_of_order(&written.sent));
        objections.extend(handled.out_of_order(&written.lost).filter(|_| !kind.writers_first));
    }
    let dead_letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 1_000).await?.letters.len();
    if dead_letters > 0 {
        objections.push(format!("{dead_letters} events are dead letters"));
    }
    ends.store(true, Ordering::Relaxed);
    objections.extend(watching.await??);
    for number in 0..MEMBERS {
        rolling.end(number).await?;
    }
    writer.shutdown(SHUTDOWN_TIMEOUT).await?;
    store.close().await;
    if !keeps_artifacts() {
        fs::remove_file(&journal)?;
    }
    Ok(Outcome { kind, events, kills: rolling.kills, repeated: handled.repeated, recovery, objections })
}

/// Runs upgrades, several at a time, while their members are killed.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run_with_kills(program: &Program, rollings: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let began = Instant::now();
    let server = eventbus_test::private_redis();
    let rollings = futures_util::stream::iter((0..rollings).map(|number| run_one(program, server.url(), number, seed)));
    let outcomes: Vec<Outcome> = rollings.buffer_unordered(CONCURRENT_ROLLINGS).try_collect().await?;
    let mut figures = RunSummary::new("rolling");
    let mut repeated = 0;
    for Outcome { kind, events, kills, repeated: again, recovery, objections } in outcomes {
        figures.events += events;
        figures.faults += kills;
        figures.slowest_recovery = figures.slowest_recovery.max(Some(recovery));
        repeated += again;
        figures.failures.extend(objections.into_iter().map(|objection| format!("{kind:?}: {objection}")));
    }
    figures.description = format!("members killed while releases roll over each other; {repeated} handled again");
    figures.took = began.elapsed();
    Ok(figures)
}
