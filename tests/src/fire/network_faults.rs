//! Appends over a failing network: none is stored twice, no acknowledged one is missing, and a repeat with the same ids
//! settles every unknown outcome.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{ExpectedVersion, Uuid, port::Append};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use fastrand::Rng;
use tokio::task::JoinSet;

use super::{
    HarnessError,
    auditor::audit,
    database::Database,
    evidence::Evidence,
    follower::follow,
    history::AppendRecord,
    proxy::{FaultProfile, Proxy},
    run_summary::RunSummary,
    workload::{self, AppendLog},
};

const CALLERS: u64 = 8;
const STORES: u64 = 4;

/// Late enough that most connections append events first. Every connection has a fault, because the pool would keep a
/// healthy one for ever.
const FAULT_PROFILE: FaultProfile =
    FaultProfile { percent: 100, within_bytes: 20_000, stall_time: Duration::from_secs(3) };

/// Time limit for reaching the number of faults.
const RUN_TIMEOUT: Duration = Duration::from_secs(900);

/// Appends until that many connections have had a fault.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(cuts: u64, seed: u64) -> Result<RunSummary, HarnessError> {
    let begin = Instant::now();
    let database = Database::create().await?;
    database.store("tables", 1).await?.close().await;
    let proxy = Arc::new(Proxy::start(database.server()?, FAULT_PROFILE, seed).await?);
    let url = database.url_through(proxy.address())?;

    let is_over = Arc::new(AtomicBool::new(false));
    let (watch, reader) = (Arc::clone(&is_over), connect(&url, begin).await?);
    let following = tokio::spawn(follow(reader, move || watch.load(Ordering::SeqCst)));
    let mut appending = JoinSet::new();
    for number in 0..STORES {
        let store = connect(&url, begin).await?;
        for caller in 0..CALLERS / STORES {
            let random = Rng::with_seed(seed * 100 + number * CALLERS + caller);
            appending.spawn(append(store.clone(), Arc::clone(&proxy), cuts, random));
        }
    }
    let mut notes = AppendLog::default();
    while let Some(appended) = appending.join_next().await {
        notes.merge(appended??);
    }
    let suffered = proxy.fault_counts();
    proxy.stop_faults();
    is_over.store(true, Ordering::SeqCst);
    let readers = vec![following.await?];

    let mut figures = RunSummary::new("cuts");
    figures.faults = suffered.total();
    figures.description = format!(
        "{} cut, {} reset after sending, {} standing still; {} unknown outcomes and {} conflicts",
        suffered.cuts, suffered.resets, suffered.stalls, notes.unknown, notes.conflicts
    );
    let open = unresolved(&notes.records);
    if open > 0 {
        figures.failures.push(format!("the outcome of {open} events is unknown in the end"));
    }
    if suffered.total() < cuts {
        figures.failures.push(format!("only {} connections suffered", suffered.total()));
    }
    let evidence = Evidence { stored: database.load_stored().await?, append_records: notes.records, readers };
    figures.events = evidence.stored.len() as u64;
    figures.report = audit(&evidence);
    database.remove().await?;
    Ok(RunSummary { took: begin.elapsed(), ..figures })
}

async fn connect(url: &str, begin: Instant) -> Result<PgEventStore, HarnessError> {
    let config = PgEventStoreConfig {
        database_url: url.into(),
        max_connections: 3,
        connect_timeout: Duration::from_secs(2),
        statement_timeout: Duration::from_secs(1),
        ..Default::default()
    };
    loop {
        match PgEventStore::connect_with(config.clone()).await {
            Ok(store) => return Ok(store),
            Err(error) if begin.elapsed() > RUN_TIMEOUT => return Err(error.into()),
            Err(_) => {}
        }
    }
}

async fn append(store: PgEventStore, proxy: Arc<Proxy>, cuts: u64, mut random: Rng) -> Result<AppendLog, HarnessError> {
    let (mut notes, begin) = (AppendLog::default(), Instant::now());
    while proxy.fault_counts().total() < cuts && begin.elapsed() < RUN_TIMEOUT {
        let (stream, expected) = match random.u8(..4) {
            0 => (workload::stream(Uuid::now_v7())?, ExpectedVersion::NoStream),
            1 => (hot_stream(&mut random)?, ExpectedVersion::Exact(random.u64(..200).into())),
            _ => (hot_stream(&mut random)?, ExpectedVersion::Any),
        };
        let append = Append { stream, expected, events: workload::events(&mut random, 1..=3) };
        notes.append(&store, &append).await?;
    }
    store.close().await;
    Ok(notes)
}

fn hot_stream(random: &mut Rng) -> Result<eventbus::StreamId, HarnessError> {
    workload::stream(format_args!("hot-{}", random.u64(..10)))
}

/// Returns the number of events whose last answer leaves the outcome unknown.
fn unresolved(records: &[AppendRecord]) -> usize {
    let mut open = HashSet::<Uuid>::new();
    for record in records {
        match record {
            AppendRecord::Sent(events) => open.extend(events),
            AppendRecord::Stored(places) => open.retain(|event| !places.iter().any(|place| place.event == *event)),
            AppendRecord::Refused(events) => open.retain(|event| !events.contains(event)),
        }
    }
    open.len()
}
