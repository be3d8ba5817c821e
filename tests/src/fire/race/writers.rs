//! The writers: slow transactions of their own, and callers of the store.

use std::time::Duration;

use eventbus::{ExpectedVersion, NewEvent, StreamId, Uuid, event::Tag, port::Append};
use eventstore_postgres::PgEventStore;
use fastrand::Rng;
use sqlx::PgConnection;
use tokio::task::JoinSet;

use super::Race;
use crate::fire::{
    HarnessError,
    database::execute_sql,
    history::{AppendRecord, StoredAt},
    workload::{self, AppendLog, ids, stored_at_of},
};

const SLOW_WRITERS: u64 = 24;
const STORES: u64 = 3;
const CALLERS: u64 = 8;
const HOT_STREAMS: u64 = 40;

/// Number of tags, of which one append in four has one.
const TAGS: u64 = 20;
/// Number of appends in one call of a batch.
const BATCH: usize = 60;

/// Starts all writers.
pub(super) async fn spawn(race: &Race) -> Result<JoinSet<Result<AppendLog, HarnessError>>, HarnessError> {
    let mut tasks = JoinSet::new();
    let store = race.database().store("slow", 1).await?;
    for who in 0..SLOW_WRITERS {
        tasks.spawn(run_slow_writer(race.clone(), store.clone(), race.random(who)));
    }
    for number in 0..STORES {
        let store = race.database().store("writer", 4).await?;
        for caller in 0..CALLERS {
            let random = race.random(100 + number * CALLERS + caller);
            tasks.spawn(run_caller(race.clone(), store.clone(), random, caller == 0));
        }
    }
    Ok(tasks)
}

/// Returns a hot stream, or a new one.
fn some_stream(random: &mut Rng, new_in: u64) -> Result<(StreamId, bool), HarnessError> {
    if random.u64(..new_in) == 0 {
        return Ok((workload::stream(Uuid::now_v7())?, true));
    }
    Ok((workload::stream(format_args!("hot-{}", random.u64(..HOT_STREAMS)))?, false))
}

/// Calls the store until the race has enough events.
async fn run_caller(
    race: Race,
    store: PgEventStore,
    mut random: Rng,
    sends_many: bool,
) -> Result<AppendLog, HarnessError> {
    let mut notes = AppendLog::default();
    while !race.has_enough() {
        let before = notes.stored;
        if sends_many {
            let appends = (0..BATCH).map(|_| some_append(&mut random, &notes)).collect::<Result<_, _>>()?;
            notes.append_many(&store, appends).await?;
        } else {
            let append = some_append(&mut random, &notes)?;
            notes.append(&store, &append).await?;
            if random.u8(..50) == 0 {
                notes.append(&store, &append).await?; // a repeat
            }
        }
        race.count(notes.stored - before);
    }
    store.close().await;
    Ok(notes)
}

/// Returns an append that expects any version, no stream, or a version that was current some time ago.
fn some_append(random: &mut Rng, notes: &AppendLog) -> Result<Append, HarnessError> {
    let (stream, is_new) = some_stream(random, 4)?;
    let expected = match random.u8(..4) {
        _ if is_new => ExpectedVersion::NoStream,
        0 => ExpectedVersion::Exact((notes.stored / 50).into()),
        1 => ExpectedVersion::StreamExists,
        _ => ExpectedVersion::Any,
    };
    let mut events = workload::events(random, 1..=3);
    if random.u8(..4) == 0 {
        // appends with tags lock the rows of the tags, and go by the statement for several streams
        let tag = Tag::new("race", &random.u64(..TAGS))?;
        events = events.into_iter().map(|event| event.with_tags([tag.clone()])).collect();
    }
    Ok(Append { stream, expected, events })
}

/// Runs transactions of its own until the race has enough events: each takes its id early, waits, appends, waits, and
/// mostly commits.
async fn run_slow_writer(race: Race, store: PgEventStore, mut random: Rng) -> Result<AppendLog, HarnessError> {
    let mut notes = AppendLog::default();
    let mut connection = race.database().connection("slow").await?;
    while !race.has_enough() {
        let before = notes.stored;
        if transact(&store, &mut connection, &mut random, &mut notes).await.is_err() {
            // the backend was terminated, which rolled its transaction back
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
    notes: &mut AppendLog,
) -> Result<(), HarnessError> {
    let naps = [random.u64(..30), random.u64(..30)].map(Duration::from_millis);
    let rolls_back = random.u8(..10) == 0;
    let mut transaction = ExplicitTransaction::begin(store, connection, some_appends(random)?).await?;
    tokio::time::sleep(naps[0]).await;
    transaction.append(notes).await?;
    tokio::time::sleep(naps[1]).await;
    if rolls_back { transaction.roll_back(notes).await } else { transaction.commit(notes).await }
}

/// The appends of one transaction.
type Appends = Vec<(StreamId, Vec<NewEvent>)>;

/// Returns appends to one hot stream, and perhaps to a new one: with two hot streams, two transactions could deadlock.
fn some_appends(random: &mut Rng) -> Result<Appends, HarnessError> {
    let mut appends = vec![(some_stream(random, u64::MAX)?.0, workload::events(random, 2..=2))];
    if random.u8(..4) == 0 {
        appends.extend(to_new_stream(random)?);
    }
    Ok(appends)
}

/// Returns an append to a new stream.
pub(super) fn to_new_stream(random: &mut Rng) -> Result<Appends, HarnessError> {
    Ok(vec![(some_stream(random, 1)?.0, workload::events(random, 1..=1))])
}

/// An open transaction that appends.
pub(super) struct ExplicitTransaction<'c> {
    store: &'c PgEventStore,
    connection: &'c mut PgConnection,
    appends: Appends,
    stored_at: Vec<Vec<StoredAt>>,
}

impl<'c> ExplicitTransaction<'c> {
    /// Begins, and takes an id.
    pub(super) async fn begin(
        store: &'c PgEventStore,
        connection: &'c mut PgConnection,
        appends: Appends,
    ) -> Result<Self, HarnessError> {
        execute_sql(connection, "BEGIN; SELECT pg_current_xact_id()").await?;
        Ok(Self { store, connection, appends, stored_at: Vec::new() })
    }

    /// Appends; draws the positions now.
    pub(super) async fn append(&mut self, notes: &mut AppendLog) -> Result<(), HarnessError> {
        self.appends.iter().for_each(|(_, events)| notes.record_sent(events));
        let appended = self.try_append().await;
        if appended.is_err() {
            self.record_refused(notes);
        }
        appended
    }

    async fn try_append(&mut self) -> Result<(), HarnessError> {
        for (stream, events) in &self.appends {
            let any = ExpectedVersion::Any;
            let recorded = self.store.append_in(self.connection, stream, any, events.clone()).await?;
            self.stored_at.push(stored_at_of(&recorded));
        }
        Ok(())
    }

    /// Commits; without an answer the outcome is unknown.
    pub(super) async fn commit(self, notes: &mut AppendLog) -> Result<(), HarnessError> {
        let committed = execute_sql(self.connection, "COMMIT").await;
        match &committed {
            Ok(()) => {
                notes.stored += self.stored_at.iter().map(|places| places.len() as u64).sum::<u64>();
                notes.records.extend(self.stored_at.into_iter().map(AppendRecord::Stored));
            }
            Err(_) => notes.unknown += 1,
        }
        committed
    }

    async fn roll_back(self, notes: &mut AppendLog) -> Result<(), HarnessError> {
        self.record_refused(notes);
        execute_sql(self.connection, "ROLLBACK").await
    }

    fn record_refused(&self, notes: &mut AppendLog) {
        notes.unavailable += 1;
        notes.records.extend(self.appends.iter().map(|(_, events)| AppendRecord::Refused(ids(events))));
    }
}
