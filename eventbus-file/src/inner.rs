//! The state that all parts of a queue share.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use eventbus::{
    Name,
    port::{BusCounters, Consuming, RunLock, Subscribers},
};
use tokio::{sync::watch, task::JoinHandle};
use uuid::Uuid;

use crate::{
    FileQueueConfig,
    claim_store::ClaimStore,
    coordination::Coordinator,
    dead_letter_files::DeadLetterFiles,
    disk::Disk,
    error::{FileQueueError, Result},
    log::EventLog,
    metrics::Metrics,
    names,
    payload::PayloadFiles,
    relay_log::RelayLog,
    results::Results,
};

/// The state that all parts of a queue share.
#[derive(Debug)]
pub(crate) struct QueueInner {
    pub(crate) config: FileQueueConfig,
    pub(crate) name: Name,
    pub(crate) worker_id: String,
    pub(crate) disk: Arc<Disk>,
    pub(crate) log: Arc<EventLog>,
    pub(crate) claims: ClaimStore,
    pub(crate) results: Results,
    /// The groups: one claim each, owned by the worker that consumes for it, with the group's progress as its data.
    pub(crate) groups: ClaimStore,
    pub(crate) coordination: Arc<dyn Coordinator>,
    pub(crate) metrics: Arc<Metrics>,
    /// Wakes waiting tasks: there may be new files.
    pub(crate) change_signal: watch::Sender<()>,
    /// The queue that the folder held when this worker last read its id; all state in memory is about that queue.
    queue_id: Mutex<Uuid>,
    /// Shared while a task uses the folder, exclusive while a task resets the state in memory.
    folder_lock: RwLock<()>,
    pub(crate) dead_letters: DeadLetterFiles,
    pub(crate) relays: RelayLog,
    pub(crate) subscribers: Subscribers,
    pub(crate) counters: Arc<BusCounters>,
    pub(crate) consuming: Consuming,
    /// Lets deliveries run beside each other, or one of them alone.
    pub(crate) run_lock: RunLock,
}

impl QueueInner {
    pub(crate) async fn open(
        config: FileQueueConfig,
        metrics: Arc<Metrics>,
        coordination: Arc<dyn Coordinator>,
    ) -> Result<Self> {
        config.check()?;
        let (worker_id, root, sync) = (config.worker()?, config.root_dir.clone(), config.sync);
        let disk = tokio::task::spawn_blocking(move || {
            let disk = Disk::open(root, sync, &names::FOLDERS)?;
            let queue_id = disk.load_queue_id()?;
            Ok((disk, queue_id))
        });
        let (disk, queue_id) = disk.await.map_err(|_| FileQueueError::RuntimeEnded)??;
        let disk = Arc::new(disk);
        let (gap_timeout, counted) = (config.gap_timeout, Arc::clone(&metrics));
        let payloads = PayloadFiles::new(Arc::clone(&disk), config.compress_from);
        let log = Arc::new(EventLog::new(Arc::clone(&disk), worker_id.clone(), payloads, gap_timeout, counted));
        let claims = |folder, lasting| ClaimStore::new(Arc::clone(&disk), folder, worker_id.clone(), lasting);
        let claims_of_events = claims(names::CLAIMS, config.claim_expiration);
        Ok(Self {
            name: config.name()?,
            dead_letters: DeadLetterFiles::new(Arc::clone(&disk), worker_id.clone(), config.clock.clone()),
            relays: RelayLog::new(Arc::clone(&disk), Arc::clone(&log), worker_id.clone()),
            log,
            results: Results::new(Arc::clone(&disk), claims_of_events.clone()),
            claims: claims_of_events,
            groups: claims(names::SUBSCRIPTIONS, config.group_expiration),
            coordination,
            metrics,
            change_signal: watch::Sender::new(()),
            queue_id: Mutex::new(queue_id),
            folder_lock: RwLock::default(),
            subscribers: Subscribers::default(),
            counters: Arc::default(),
            consuming: Consuming::with_clock(config.clock.clone()),
            run_lock: RunLock::default(),
            disk,
            worker_id,
            config,
        })
    }

    /// Returns the id of the queue that all state in memory is about.
    pub(crate) fn queue_id(&self) -> Uuid {
        *self.queue_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets the state in memory if the folder holds a different queue than before; no reset happens while the guard
    /// lives.
    fn lock_folder(&self) -> Result<RwLockReadGuard<'_, ()>> {
        loop {
            let found = self.disk.load_queue_id()?;
            // shared: tasks use the folder at the same time, and no task resets the state under them
            let using = self.folder_lock.read().unwrap_or_else(PoisonError::into_inner);
            if self.queue_id() == found {
                return Ok(using);
            }
            drop(using);
            let alone = self.folder_lock.write().unwrap_or_else(PoisonError::into_inner);
            let known = std::mem::replace(&mut *self.queue_id.lock().unwrap_or_else(PoisonError::into_inner), found);
            if known != found {
                let root = self.disk.root().display();
                tracing::warn!(folder = %root, "the folder was removed and made anew, it holds a new queue");
                self.results.forget();
                self.relays.forget();
                self.log.forget();
            }
            drop(alone);
        }
    }

    /// Runs `ask` on a thread that may block on the file system.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let queue = Arc::clone(self);
        let asking = tokio::task::spawn_blocking(move || {
            let _using = queue.lock_folder()?;
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
