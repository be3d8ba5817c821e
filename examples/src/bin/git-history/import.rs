//! The import: commits in windows, files side by side.
//!
//! A window holds the commits read so far, up to a limit. The importer first appends the file events of all of them:
//! one append for each file, many in one call so that the store writes them together. Then it appends the commits, in
//! one append to one stream. A crash in between leaves file events that the next import recognises by their ids and
//! skips.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use eventbus::{
    Aggregate, AggregateId, EventId, ExpectedVersion, NewEvent, StreamId,
    delivery::RetryPolicy,
    event::EncodeEvent,
    store::{AppendError, EventStore},
};
use examples::signal::Stop;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use crate::{
    domain::{CommitRecorded, File, HistoryRewritten},
    git::{GitError, Repository},
    identity,
    log::{self, Oddity, ReadCommit},
    resume::{self, Imported, Plan},
};

/// The limit of commits, and of file events, in a window.
const WINDOW: (usize, usize) = (64, 1_024);

/// Number of appends in one call.
const APPENDS_AT_ONCE: usize = 32;

/// The retry policy while the store is unavailable or an outcome is unknown.
const AWAY: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(8),
    first_delay: Duration::from_millis(50),
    max_delay: Duration::from_secs(5),
};

/// The commits to import, parents before children.
pub type Commits = mpsc::Receiver<Result<ReadCommit, GitError>>;

/// A second import writes to the same store.
#[derive(Debug, thiserror::Error)]
#[error("a second import writes to this store at the same time; no event is lost or stored twice")]
pub struct NotAlone(#[source] AppendError);

/// The result of an import.
#[derive(Debug, Default)]
pub struct Outcome {
    pub commits: u64,
    pub events: u64,
    pub oddities: BTreeSet<Oddity>,
    pub stopped: bool,
}

#[derive(Debug)]
pub struct Importer<S> {
    store: S,
    history: StreamId,
    imported: Imported,
    left_over: HashSet<EventId>,
    outcome: Outcome,
}

impl<S: EventStore + Clone> Importer<S> {
    pub fn new(store: S, imported: Imported) -> eventbus::Result<Self> {
        Ok(Self {
            store,
            history: resume::history()?,
            left_over: imported.left_over(),
            imported,
            outcome: Outcome::default(),
        })
    }

    /// Imports `commits` according to `plan`; calls `progress` with the number of commits in each window.
    pub async fn run(
        mut self,
        mut commits: Commits,
        plan: &Plan,
        stop: &mut Stop,
        mut progress: impl FnMut(u64),
    ) -> eventbus::Result<Outcome> {
        if let Some(event) = &plan.rewritten {
            self.record_rewrite(event).await?;
        }
        loop {
            let window = tokio::select! {
                // a window may always be ready, so the stop is checked first
                biased;
                () = stop.requested() => {
                    self.outcome.stopped = true;
                    return Ok(self.outcome);
                }
                window = next_window(&mut commits) => window?,
            };
            if window.is_empty() {
                return Ok(self.outcome);
            }
            let new = window.into_iter().filter(|read| !plan.skip.contains(&read.commit.hash));
            let count = self.record(new.collect()).await?;
            progress(count);
        }
    }

    async fn record(&mut self, window: Vec<ReadCommit>) -> eventbus::Result<u64> {
        let mut files: HashMap<AggregateId, Vec<NewEvent>> = HashMap::new();
        let mut commits = Vec::with_capacity(window.len());
        let expected = self.imported.history_version();
        for read in window {
            for event in &read.files {
                let file = self.imported.files.file_of(event);
                self.imported.files.learn(&file, event);
                let id = identity::event_id(&read.commit.hash, Some(event.path()));
                if !self.left_over.remove(&id) {
                    let event = event.encode()?.with_event_id(id);
                    let event = event.with_occurred_at(read.date);
                    files.entry(file).or_default().push(event);
                }
            }
            self.imported.count(&read.commit.hash, &read.parents);
            self.outcome.oddities.extend(read.oddities);
            let id = identity::event_id(&read.commit.hash, None);
            let recorded = CommitRecorded { commit: read.commit, parents: read.parents, files: read.files.len() };
            let event = NewEvent::from_event(&recorded)?.with_event_id(id);
            commits.push(event.with_occurred_at(read.date));
        }

        let store = &self.store;
        let events = stream::iter(files)
            .map(|(file, events)| async move {
                let stream = File::stream(&file);
                append(store, &stream, ExpectedVersion::Any, events).await
            })
            .buffer_unordered(APPENDS_AT_ONCE)
            .try_fold(0, |sum, count| async move { Ok(sum + count) })
            .await?;
        let count = append(store, &self.history, expected, commits).await?;
        self.outcome.events += events + count;
        self.outcome.commits += count;
        Ok(count)
    }

    async fn record_rewrite(&mut self, event: &HistoryRewritten) -> eventbus::Result<()> {
        let expected = self.imported.history_version();
        let events = vec![NewEvent::from_event(event)?];
        let count = append(&self.store, &self.history, expected, events).await?;
        self.imported.abandon(event);
        self.outcome.events += count;
        Ok(())
    }
}

/// Appends; repeats if the store is unavailable or the outcome is unknown: the ids make the repeat safe.
async fn append(
    store: &impl EventStore,
    stream: &StreamId,
    expected: ExpectedVersion,
    events: Vec<NewEvent>,
) -> eventbus::Result<u64> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match store.append(stream, expected, events.clone()).await {
            Ok(records) => return Ok(u64::try_from(records.len())?),
            Err(error) if error.is_retryable() && AWAY.allows(attempt) => {
                tokio::time::sleep(AWAY.jittered(attempt)).await;
            }
            Err(error @ (AppendError::Conflict { .. } | AppendError::EventIdTaken { .. })) => {
                return Err(NotAlone(error).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads the log in a thread of its own, a bounded number of commits ahead; dropping the receiver ends it.
pub fn read(repository: Arc<Repository>, without: Vec<String>) -> Commits {
    let (commits, receiver) = mpsc::channel(4 * WINDOW.0);
    std::thread::spawn(move || {
        let take = |commit| commits.blocking_send(Ok(commit)).is_ok();
        let read = repository.log(&without).and_then(|process| log::read(process, take));
        if let Err(error) = read {
            // the receiver is gone: the import was stopped
            let _ = commits.blocking_send(Err(error));
        }
    });
    receiver
}

/// Waits for a commit, and takes all that are ready; an empty window is the end.
async fn next_window(commits: &mut Commits) -> Result<Vec<ReadCommit>, GitError> {
    let (mut window, mut events) = (Vec::new(), 0);
    let mut next = commits.recv().await;
    while let Some(commit) = next {
        let commit = commit?;
        events += commit.files.len();
        window.push(commit);
        if window.len() >= WINDOW.0 || events >= WINDOW.1 {
            break;
        }
        next = commits.try_recv().ok();
    }
    Ok(window)
}
