//! The state that all parts of a queue share.

use std::sync::Arc;

use eventbus::{
    Name,
    delivery::{BusCounters, Consuming, Subscribers},
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::task::TaskTracker;

use crate::{
    FileQueueConfig,
    claim_store::ClaimStore,
    coordination::Coordinator,
    dead_letter_files::DeadLetterFiles,
    disk::Disk,
    error::{FileQueueError, Result},
    folder::QueueFolder,
    log::EventLog,
    metrics::Metrics,
    names,
    payload::PayloadFiles,
    relay_records::RelayRecords,
    results::Results,
};

/// The state that all parts of a queue share.
#[derive(Debug)]
pub(crate) struct QueueInner {
    config: FileQueueConfig,
    name: Name,
    worker_id: String,
    folder: Arc<QueueFolder>,
    log: Arc<EventLog>,
    claims: ClaimStore,
    results: Results,
    coordination: Arc<dyn Coordinator>,
    metrics: Arc<Metrics>,
    /// Wakes waiting tasks: there may be new files.
    change_signal: watch::Sender<()>,
    dead_letters: DeadLetterFiles,
    relays: RelayRecords,
    subscribers: Subscribers,
    counters: Arc<BusCounters>,
    consuming: Consuming,
    /// The workers, and the releases of jobs whose handlers were aborted.
    jobs: TaskTracker,
}

impl QueueInner {
    pub(crate) async fn open(
        config: FileQueueConfig,
        metrics: Arc<Metrics>,
        coordination: Arc<dyn Coordinator>,
    ) -> Result<Self> {
        config.check()?;
        let (worker_id, root, sync) = (config.worker()?, config.root_dir.clone(), config.sync);
        let folder = tokio::task::spawn_blocking(move || QueueFolder::open(Disk::open(root, sync, &names::FOLDERS)?));
        let folder = Arc::new(folder.await.map_err(|_| FileQueueError::RuntimeEnded)??);
        let disk = Arc::clone(folder.disk());
        let (gap_timeout, counted) = (config.gap_timeout, Arc::clone(&metrics));
        let payloads = PayloadFiles::new(Arc::clone(&disk), config.compress_from);
        let log = Arc::new(EventLog::new(Arc::clone(&folder), worker_id.clone(), payloads, gap_timeout, counted));
        let claims = ClaimStore::new(Arc::clone(&disk), worker_id.clone(), config.claim_expiration);
        Ok(Self {
            dead_letters: DeadLetterFiles::new(
                Arc::clone(&disk),
                config.name()?,
                worker_id.clone(),
                config.clock.clone(),
            ),
            name: config.name()?,
            relays: RelayRecords::new(Arc::clone(&disk), worker_id.clone()),
            results: Results::new(disk, claims.clone()),
            folder,
            log,
            claims,
            coordination,
            metrics,
            change_signal: watch::Sender::new(()),
            subscribers: Subscribers::default(),
            counters: Arc::default(),
            consuming: Consuming::with_clock(config.clock.clone()),
            jobs: TaskTracker::new(),
            worker_id,
            config,
        })
    }

    pub(crate) fn config(&self) -> &FileQueueConfig {
        &self.config
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn worker_id(&self) -> &str {
        &self.worker_id
    }

    pub(crate) fn disk(&self) -> &Disk {
        self.folder.disk()
    }

    pub(crate) fn log(&self) -> &EventLog {
        &self.log
    }

    pub(crate) fn claims(&self) -> &ClaimStore {
        &self.claims
    }

    pub(crate) fn results(&self) -> &Results {
        &self.results
    }

    pub(crate) fn coordination(&self) -> &Arc<dyn Coordinator> {
        &self.coordination
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn change_signal(&self) -> &watch::Sender<()> {
        &self.change_signal
    }

    pub(crate) fn dead_letters(&self) -> &DeadLetterFiles {
        &self.dead_letters
    }

    pub(crate) fn relays(&self) -> &RelayRecords {
        &self.relays
    }

    pub(crate) fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }

    pub(crate) fn counters(&self) -> &Arc<BusCounters> {
        &self.counters
    }

    pub(crate) fn consuming(&self) -> &Consuming {
        &self.consuming
    }

    pub(crate) fn jobs(&self) -> &TaskTracker {
        &self.jobs
    }

    /// Resets the state in memory; `QueueFolder::lock` calls it alone.
    fn forget(&self) {
        self.results.forget();
        self.log.forget();
    }

    /// Runs `ask` on a thread that may block on the file system.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let queue = Arc::clone(self);
        let asking = tokio::task::spawn_blocking(move || {
            let _using = queue.folder.lock(|| queue.forget())?;
            ask(&queue)
        });
        join_task(asking).await
    }
}

/// Returns the result of a task, which runs to its end even if the caller drops this future.
pub(crate) async fn join_task<T, E: From<FileQueueError>>(task: JoinHandle<Result<T, E>>) -> Result<T, E> {
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(FileQueueError::RuntimeEnded.into()),
    }
}
