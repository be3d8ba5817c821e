//! Runs of handlers in processes that are killed, paused and replaced: each process records the begin and the end of
//! every run, and the auditor of this module compares the records with the stored events.
//!
//! All processes of a test append to one file, so the order of the records is the order in which they were written. The
//! process that injects the faults records them in the same file.

mod audit;
mod fleet;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{
    App, ExpectedVersion, HandlerError, Name, NewEvent, Position, RecordedEvent,
    port::{EventStore, FeedFilter, handler_progress::ListedHandler},
};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use fastrand::Rng;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};

pub(super) use self::{
    audit::{AuditedHandler, Expected, audit},
    fleet::Fleet,
};
use super::{
    HarnessError,
    history::{HistoryWriter, read_records},
    place::Place,
    workload,
};

/// Number of aggregates of the load.
const AGGREGATES: u64 = 40;
const APPEND_PAUSE_MS: std::ops::Range<u64> = 10..40;
/// Time of a run.
const RUN_MS: std::ops::RangeInclusive<u64> = 1..=8;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Time without progress after which a wait fails.
const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

/// A run of a handler with an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The number of the process, from 1; no two processes of a test have the same.
    pub(super) process: u32,
    pub(super) handler: String,
    /// The position of the event.
    pub(super) event: u64,
}

/// A record of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RunEntry {
    /// The handler was called.
    Begins(Run),
    /// The handler is about to return.
    Ends { run: Run, is_ok: bool },
    /// The process is about to be killed.
    Kill(u32),
    /// The process is about to be stopped.
    Pause(u32),
    /// The process is about to go on: it is stopped.
    Resume(u32),
    /// The server of the store is about to crash.
    Crash,
    /// The server of the store runs again.
    Restart,
}

/// The records of one process. Clones share the file.
#[derive(Debug, Clone)]
pub(super) struct RunLog {
    process: u32,
    file: Arc<HistoryWriter>,
}

impl RunLog {
    pub(super) fn open(process: u32, path: &Path) -> Result<Self, HarnessError> {
        Ok(Self { process, file: Arc::new(HistoryWriter::open(path)?) })
    }

    fn append(&self, entry: &RunEntry) -> Result<(), HarnessError> {
        self.file.append(entry)
    }

    /// Records a run, which makes `effect`, takes some milliseconds, and fails if `fails`.
    pub(super) async fn record<E: Into<HarnessError>>(
        &self,
        handler: &str,
        event: &RecordedEvent,
        fails: bool,
        effect: impl Future<Output = Result<(), E>>,
    ) -> Result<(), HandlerError> {
        let event = event.position().map_or(0, Position::get);
        let run = Run { process: self.process, handler: handler.into(), event };
        self.append(&RunEntry::Begins(run.clone()))?;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(RUN_MS))).await;
        let result = effect.await.map_err(|error| HandlerError::from(error.into()));
        let result = if fails { Err("not at the first attempt".into()) } else { result };
        self.append(&RunEntry::Ends { run, is_ok: result.is_ok() })?;
        result
    }
}

/// The file of the records of a test, removed when this is dropped.
#[derive(Debug)]
pub(super) struct RunFile(pub(super) PathBuf);

impl RunFile {
    pub(super) fn create(prefix: &str) -> Self {
        Self(std::env::temp_dir().join(format!("{}.jsonl", eventbus_test::unique_name(prefix))))
    }

    /// Reads the records. A process that is killed while it writes may tear its last one.
    pub(super) fn entries(&self) -> Result<Vec<RunEntry>, HarnessError> {
        let (entries, torn) = read_records(&self.0)?;
        let kills = entries.iter().filter(|entry| matches!(entry, RunEntry::Kill(_))).count();
        if torn <= kills { Ok(entries) } else { Err(format!("{torn} records are torn").into()) }
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        if !super::database::keeps_artifacts() {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// Opens a store whose server may be down, until it succeeds.
pub(super) async fn open_while_down(place: &Place) -> Result<Arc<dyn EventStore>, HarnessError> {
    let Place::Postgres(url) = place else { return place.open().await };
    let config = PgEventStoreConfig {
        database_url: url.clone(),
        migrate: false,
        max_connections: 8,
        connect_timeout: Duration::from_secs(2),
        statement_timeout: Duration::from_secs(5),
        ..PgEventStoreConfig::default()
    };
    loop {
        match PgEventStore::connect_with(config.clone()).await {
            Ok(store) => return Ok(Arc::new(store)),
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// Starts an app and runs it until SIGTERM; with `writes`, appends random events of `types` meanwhile.
pub(super) async fn run_app(
    start: impl Future<Output = Result<App, HarnessError>>,
    writes: bool,
    seed: u64,
    types: &[&'static str],
) -> Result<(), HarnessError> {
    // before the start: a process that SIGTERM kills has not begun an event
    let mut stop = pin!(eventbus::shutdown_signal()?);
    let app = tokio::select! {
        app = start => app?,
        () = &mut stop => return Ok(()),
    };
    let mut random = Rng::with_seed(seed);
    let appending = async {
        if !writes {
            std::future::pending::<()>().await;
        }
        loop {
            let stream = workload::stream(random.u64(..AGGREGATES))?;
            let event_type = Name::from_static(types[random.usize(..types.len())]);
            let event = NewEvent::new(event_type, 1, "{}");
            // the events that count are those that are stored
            let _ = app.store().append(&stream, ExpectedVersion::Any, vec![event]).await;
            tokio::time::sleep(Duration::from_millis(random.u64(APPEND_PAUSE_MS))).await;
        }
    };
    tokio::select! {
        () = stop => Ok(app.shutdown(SHUTDOWN_TIMEOUT).await?),
        failed = appending => failed,
    }
}

/// Reads all stored events, in the order of their positions.
pub(super) async fn load_events(store: &dyn EventStore) -> Result<Vec<RecordedEvent>, HarnessError> {
    let (head, filter) = (store.head().await?, FeedFilter::all());
    Ok(store.read_feed(Position::START, head, &filter).try_collect().await?)
}

/// How far handlers are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Every shard has started all events up to the position.
    Started(Position),
    /// Every event up to the end of the feed is finished.
    Finished,
}

/// Returns how much a handler has left to do; 0 if it is as far as it is to be. `types` are those that the release takes:
/// events of its other types may wait, with rows, for the release that takes them.
fn remaining(handler: &ListedHandler, types: &[&str], until: Until, head: Position) -> u64 {
    let of_shard = |shard: &eventbus::port::handler_progress::ListedShard| {
        let left = shard.left.keys().filter(|name| types.contains(&name.as_str())).count() as u64;
        let through = match until {
            Until::Started(through) => through,
            Until::Finished => head,
        };
        let lists = if until == Until::Finished { shard.waiting + shard.started } else { 0 };
        left + lists + through.get().saturating_sub(shard.checkpoint.get())
    };
    let takes_all = handler.noted.types.keys().all(|name| types.contains(&name.as_str()));
    let rows = if until == Until::Finished && takes_all { handler.waiting_rows } else { 0 };
    rows + handler.shards.iter().map(of_shard).sum::<u64>()
}

/// Waits until these handlers, each with its types, are so far.
pub(super) async fn wait_for_handlers(
    store: &dyn EventStore,
    handlers: &[(&str, &[&str])],
    until: Until,
) -> Result<(), HarnessError> {
    let progress = store.handler_progress().ok_or("the store keeps no progress of handlers")?;
    let (mut fewest, mut since) = (u64::MAX, Instant::now());
    loop {
        let (listed, head) = (progress.list_handlers().await?, store.head().await?);
        let of_handler = |(name, types): &(&str, &[&str])| {
            let found = listed.iter().find(|listed| listed.noted.name.as_str() == *name);
            found.map_or(u64::from(u32::MAX), |listed| remaining(listed, types, until, head))
        };
        let count: u64 = handlers.iter().map(of_handler).sum();
        if count == 0 {
            return Ok(());
        }
        if count < fewest {
            (fewest, since) = (count, Instant::now());
        } else if since.elapsed() > WAIT_TIMEOUT {
            let is_behind = |listed: &&ListedHandler| {
                let of_name = handlers.iter().find(|(name, _)| *name == listed.noted.name.as_str());
                of_name.is_some_and(|(_, types)| remaining(listed, types, until, head) > 0)
            };
            let behind: Vec<_> = listed.iter().filter(is_behind).collect();
            return Err(format!("no progress for {WAIT_TIMEOUT:?} to {until:?} of {head}: {behind:?}").into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
