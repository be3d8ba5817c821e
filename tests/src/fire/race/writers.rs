//! Those who write: slow transactions of their own, and callers of the store.

use std::time::Duration;

use eventbus::{ExpectedVersion, NewEvent, StreamId, Uuid, port::Append};
use eventstore_postgres::PgEventStore;
use fastrand::Rng;
use sqlx::PgConnection;
use tokio::task::JoinSet;

use super::Race;
use crate::fire::{
    Trouble,
    database::run,
    history::{Place, Told},
    workload::{self, Notes, ids, places},
};

const SLOW: u64 = 24;
const STORES: u64 = 3;
const CALLERS: u64 = 8;
const HOT: u64 = 40;

/// How many appends a caller sends at once where it sends many.
const BATCH: usize = 60;

/// Starts everybody.
pub(super) async fn spawn(race: &Race) -> Result<JoinSet<Result<Notes, Trouble>>, Trouble> {
    let mut tasks = JoinSet::new();
    let store = race.database().store("slow", 1).await?;
    for who in 0..SLOW {
        tasks.spawn(slow(race.clone(), store.clone(), race.random(who)));
    }
    for number in 0..STORES {
        let store = race.database().store("writer", 4).await?;
        for caller in 0..CALLERS {
            let random = race.random(100 + number * CALLERS + caller);
            tasks.spawn(call(race.clone(), store.clone(), random, caller == 0));
        }
    }
    Ok(tasks)
}

/// A hot stream, or a new one.
fn some_stream(random: &mut Rng, new_in: u64) -> Result<(StreamId, bool), Trouble> {
    if random.u64(..new_in) == 0 {
        return Ok((workload::stream(Uuid::now_v7())?, true));
    }
    Ok((workload::stream(format_args!("hot-{}", random.u64(..HOT)))?, false))
}

/// Calls the store until the race is full.
async fn call(race: Race, store: PgEventStore, mut random: Rng, sends_many: bool) -> Result<Notes, Trouble> {
    let mut notes = Notes::default();
    while !race.is_full() {
        let before = notes.stored;
        if sends_many {
            let appends = (0..BATCH).map(|_| some_append(&mut random, &notes)).collect::<Result<_, _>>()?;
            notes.append_many(&store, appends).await?;
        } else {
            let append = some_append(&mut random, &notes)?;
            notes.append(&store, &append).await?;
            if random.u8(..50) == 0 {
                notes.append(&store, &append).await?; // the same once more
            }
        }
        race.count(notes.stored - before);
    }
    store.close().await;
    Ok(notes)
}

/// Any, new, or exact with what was true some time ago.
fn some_append(random: &mut Rng, notes: &Notes) -> Result<Append, Trouble> {
    let (stream, is_new) = some_stream(random, 4)?;
    let expected = match random.u8(..4) {
        _ if is_new => ExpectedVersion::NoStream,
        0 => ExpectedVersion::Exact((notes.stored / 50).into()),
        1 => ExpectedVersion::StreamExists,
        _ => ExpectedVersion::Any,
    };
    Ok(Append { stream, expected, events: workload::events(random, 1..=3) })
}

/// Transactions of its own until the race is full: each takes its id early, waits, appends, waits, and mostly commits.
async fn slow(race: Race, store: PgEventStore, mut random: Rng) -> Result<Notes, Trouble> {
    let mut notes = Notes::default();
    let mut connection = race.database().connection("slow").await?;
    while !race.is_full() {
        let before = notes.stored;
        if transact(&store, &mut connection, &mut random, &mut notes).await.is_err() {
            // terminated: what was not committed is undone
            connection = race.database().connection("slow").await?;
        }
        race.count(notes.stored - before);
    }
    Ok(notes)
}

async fn transact(
    store: &PgEventStore,
    connection: &mut PgConnection,
    random: &mut Rng,
    notes: &mut Notes,
) -> Result<(), Trouble> {
    let naps = [random.u64(..30), random.u64(..30)].map(Duration::from_millis);
    let rolls_back = random.u8(..10) == 0;
    let mut transaction = Explicit::begin(store, connection, some_appends(random)?).await?;
    tokio::time::sleep(naps[0]).await;
    transaction.append(notes).await?;
    tokio::time::sleep(naps[1]).await;
    if rolls_back { transaction.roll_back(notes).await } else { transaction.commit(notes).await }
}

/// What one transaction appends.
type Appends = Vec<(StreamId, Vec<NewEvent>)>;

/// To a hot stream, and perhaps to a new one: two hot ones might wait for each other.
fn some_appends(random: &mut Rng) -> Result<Appends, Trouble> {
    let mut appends = vec![(some_stream(random, u64::MAX)?.0, workload::events(random, 2..=2))];
    if random.u8(..4) == 0 {
        appends.extend(to_new_stream(random)?);
    }
    Ok(appends)
}

/// To a new stream.
pub(super) fn to_new_stream(random: &mut Rng) -> Result<Appends, Trouble> {
    Ok(vec![(some_stream(random, 1)?.0, workload::events(random, 1..=1))])
}

/// A transaction that appends.
pub(super) struct Explicit<'c> {
    store: &'c PgEventStore,
    connection: &'c mut PgConnection,
    appends: Appends,
    places: Vec<Vec<Place>>,
}

impl<'c> Explicit<'c> {
    /// Begins, and takes an id.
    pub(super) async fn begin(
        store: &'c PgEventStore,
        connection: &'c mut PgConnection,
        appends: Appends,
    ) -> Result<Self, Trouble> {
        run(connection, "BEGIN; SELECT pg_current_xact_id()").await?;
        Ok(Self { store, connection, appends, places: Vec::new() })
    }

    /// Appends; positions are drawn now.
    pub(super) async fn append(&mut self, notes: &mut Notes) -> Result<(), Trouble> {
        self.appends.iter().for_each(|(_, events)| notes.sent(events));
        let appended = self.try_append().await;
        if appended.is_err() {
            self.refused(notes);
        }
        appended
    }

    async fn try_append(&mut self) -> Result<(), Trouble> {
        for (stream, events) in &self.appends {
            let any = ExpectedVersion::Any;
            let recorded = self.store.append_in(self.connection, stream, any, events.clone()).await?;
            self.places.push(places(&recorded));
        }
        Ok(())
    }

    /// Commits; without an answer the outcome is unknown.
    pub(super) async fn commit(self, notes: &mut Notes) -> Result<(), Trouble> {
        let committed = run(self.connection, "COMMIT").await;
        match &committed {
            Ok(()) => {
                notes.stored += self.places.iter().map(|places| places.len() as u64).sum::<u64>();
                notes.told.extend(self.places.into_iter().map(Told::Stored));
            }
            Err(_) => notes.unknown += 1,
        }
        committed
    }

    async fn roll_back(self, notes: &mut Notes) -> Result<(), Trouble> {
        self.refused(notes);
        run(self.connection, "ROLLBACK").await
    }

    fn refused(&self, notes: &mut Notes) {
        notes.unavailable += 1;
        notes.told.extend(self.appends.iter().map(|(_, events)| Told::Refused(ids(events))));
    }
}
