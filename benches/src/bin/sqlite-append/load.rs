//! The loads: what the callers of one store do until a round is over.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use eventbus::{
    AggregateId, ExpectedVersion, Name, NewEvent, Position, Result, StreamId, Version,
    port::{Append, AppendEvents as _, Checkpoints as _, ReadFeed as _},
};
use eventstore_sqlite::{SqliteEventStore, SqliteEventStoreConfig, Synchronous};
use tokio::{task::JoinSet, time::sleep};

use crate::{Load, meter::Round};

/// Number of events in a stream.
const STREAM: u64 = 10;
/// Number of appends in a call of `append_many`.
const MANY: usize = 32;
const TICK: Duration = Duration::from_millis(1);

/// A store under a load.
pub struct Bench {
    store: SqliteEventStore,
    load: Load,
    callers: usize,
}

impl Bench {
    /// Opens a store in a file, or in memory.
    pub async fn open(path: Option<PathBuf>, load: Load, callers: usize) -> Result<Self> {
        let config = SqliteEventStoreConfig { synchronous: Synchronous::Full, ..Default::default() };
        let store = match path {
            Some(path) => SqliteEventStore::open_with(path, config).await?,
            None => SqliteEventStore::in_memory().await?,
        };
        let mut tx = store.begin_transaction().await?;
        tx.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)", [])?;
        tx.execute("INSERT INTO rows VALUES (1, 0)", [])?;
        tx.commit().await?;
        Ok(Self { store, load, callers })
    }

    /// Lets all callers work for a time, each with one call after the other.
    pub async fn round(&self, time: Duration) -> Result<Round> {
        let end = Instant::now() + time;
        let mut tasks = JoinSet::new();
        if self.load == Load::Tick {
            tasks.spawn(tick(end));
        }
        for _ in 0..self.callers {
            tasks.spawn(call(self.store.clone(), self.load, end));
        }
        let mut all = Round::default();
        while let Some(done) = tasks.join_next().await {
            let done = done??;
            all.operations += done.operations;
            all.times.extend(done.times);
        }
        Ok(all)
    }
}

async fn call(store: SqliteEventStore, load: Load, end: Instant) -> Result<Round> {
    let mut round = Round::default();
    let mut stream = new_stream();
    let reader = Name::new("reader", AggregateId::new().as_str())?;
    let mut number = 0;
    while Instant::now() < end {
        let version = number % STREAM;
        if version == 0 {
            stream = new_stream();
        }
        let started = Instant::now();
        match load {
            Load::Append | Load::Tick => {
                let expected = ExpectedVersion::Exact(Version::from(version));
                store.append(&stream, expected, vec![event(number)]).await?;
            }
            Load::AppendMany => {
                let append = || Append {
                    stream: new_stream(),
                    expected: ExpectedVersion::NoStream,
                    events: vec![event(number)],
                };
                for appended in store.append_many((0..MANY).map(|_| append()).collect()).await {
                    appended?;
                }
            }
            Load::Transaction => {
                let mut tx = store.begin_transaction().await?;
                tx.execute("UPDATE rows SET n = n + 1 WHERE id = 1", [])?;
                store.append_in(&mut tx, &stream, ExpectedVersion::Any, vec![event(number)]).await?;
                tx.commit().await?;
            }
            Load::Checkpoint => store.save_checkpoint(&reader, Position::from(number)).await?,
            Load::Head => drop(store.head().await?),
        }
        if load != Load::Tick {
            round.times.push(started.elapsed());
        }
        round.operations += if load == Load::AppendMany { MANY } else { 1 };
        number += 1;
    }
    Ok(round)
}

/// Measures how long the runtime keeps a task waiting.
async fn tick(end: Instant) -> Result<Round> {
    let mut round = Round::default();
    loop {
        let started = Instant::now();
        sleep(TICK).await;
        round.times.push(started.elapsed());
        if Instant::now() >= end {
            return Ok(round);
        }
    }
}

fn new_stream() -> StreamId {
    StreamId::new(Name::from_static("Order"), AggregateId::new())
}

fn event(number: u64) -> NewEvent {
    let payload = format!(r#"{{"item":"sku-{number}","quantity":{number},"note":"{:120}"}}"#, "as agreed");
    NewEvent::new(Name::from_static("ItemAdded"), 1, payload)
}
