//! Appends over a network that fails: none is made twice, none that was acknowledged is missing, and repeating with the
//! same ids tells what came of those without an answer.

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
    Trouble,
    auditor::audit,
    database::Database,
    evidence::Evidence,
    figures::Figures,
    follower::follow,
    history::Told,
    proxy::{Proxy, Weather},
    workload::{self, Notes},
};

const CALLERS: u64 = 8;
const STORES: u64 = 4;

/// Late enough that most connections append something before. Every one suffers: a lucky one would be kept for ever.
const WEATHER: Weather = Weather { percent: 100, within_bytes: 20_000, still: Duration::from_secs(3) };

/// The longest that appending may go on without reaching the number of faults.
const PATIENCE: Duration = Duration::from_secs(900);

/// Appends until so many connections have suffered.
///
/// # Errors
/// What went wrong with the run itself; what it shows is in the figures.
pub async fn run(cuts: u64, seed: u64) -> Result<Figures, Trouble> {
    let begin = Instant::now();
    let database = Database::create().await?;
    database.store("tables", 1).await?.close().await;
    let proxy = Arc::new(Proxy::before(database.server()?, WEATHER, seed).await?);
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
    let mut notes = Notes::default();
    while let Some(appended) = appending.join_next().await {
        notes.merge(appended??);
    }
    let suffered = proxy.suffered();
    proxy.calm();
    is_over.store(true, Ordering::SeqCst);
    let readers = vec![following.await?];

    let mut figures = Figures::of("cuts");
    figures.faults = suffered.all();
    figures.what = format!(
        "{} cut, {} reset after sending, {} standing still; {} unknown outcomes and {} conflicts told",
        suffered.cuts, suffered.resets, suffered.stills, notes.unknown, notes.conflicts
    );
    let open = unresolved(&notes.told);
    if open > 0 {
        figures.objections.push(format!("what came of {open} events is not known in the end"));
    }
    if suffered.all() < cuts {
        figures.objections.push(format!("only {} connections suffered", suffered.all()));
    }
    let evidence = Evidence { stored: database.stored().await?, told: notes.told, readers };
    figures.events = evidence.stored.len() as u64;
    figures.report = audit(&evidence);
    database.remove().await?;
    Ok(Figures { took: begin.elapsed(), ..figures })
}

async fn connect(url: &str, begin: Instant) -> Result<PgEventStore, Trouble> {
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
            Err(error) if begin.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => {}
        }
    }
}

async fn append(store: PgEventStore, proxy: Arc<Proxy>, cuts: u64, mut random: Rng) -> Result<Notes, Trouble> {
    let (mut notes, begin) = (Notes::default(), Instant::now());
    while proxy.suffered().all() < cuts && begin.elapsed() < PATIENCE {
        let (stream, expected) = match random.u8(..4) {
            0 => (workload::stream(Uuid::now_v7())?, ExpectedVersion::NoStream),
            1 => (hot(&mut random)?, ExpectedVersion::Exact(random.u64(..200).into())),
            _ => (hot(&mut random)?, ExpectedVersion::Any),
        };
        let append = Append { stream, expected, events: workload::events(&mut random, 1..=3) };
        notes.append(&store, &append).await?;
    }
    store.close().await;
    Ok(notes)
}

fn hot(random: &mut Rng) -> Result<eventbus::StreamId, Trouble> {
    workload::stream(format_args!("hot-{}", random.u64(..10)))
}

/// How many events ended without an answer that says something.
fn unresolved(told: &[Told]) -> usize {
    let mut open = HashSet::<Uuid>::new();
    for told in told {
        match told {
            Told::Sent(events) => open.extend(events),
            Told::Stored(places) => open.retain(|event| !places.iter().any(|place| place.event == *event)),
            Told::Refused(events) => open.retain(|event| !events.contains(event)),
        }
    }
    open.len()
}
