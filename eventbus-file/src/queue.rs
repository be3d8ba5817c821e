//! The queue: what every part of it shares, and publishing.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use eventbus::{
    Name, RecordedEvent,
    port::{BusCounters, Consuming, Subscribers},
};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    FileQueueConfig, FileQueueMetrics,
    claims::Claims,
    coordination::{Alone, Coordinate, CoordinationStatus, Drawn, about, kind},
    disk::{Disk, Staged},
    error::{FileQueueError, Result},
    event::{self, EventFile, QueueEvent, WrittenRecord},
    log::{EventLog, Linked},
    metrics::Metrics,
    names,
    payload::Payloads,
};

/// How many events are written at once.
const TOGETHER: usize = 500;

/// A queue in a folder: its files are the truth. Cloning shares it.
///
/// As a work queue: [`publish`](Self::publish), [`next_work`](Self::next_work), [`Work::succeed`](crate::Work::succeed).
/// As a bus it is given to an `App`, or subscribed to by `eventbus::EventBusExt`. Every process that opens the folder is
/// a worker of the queue; the crate's page says what is promised.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let my_queue = folder.path().join("my_queue");
/// use eventbus_file::{FileQueue, FileQueueConfig};
///
/// let queue = FileQueue::open(FileQueueConfig::at(my_queue)).await?;
/// let event = queue.publish(&serde_json::json!({"message": "Hello World"})).await?;
/// assert_eq!(event.id(), 1);
/// let work = queue.try_next_work().await?.expect("there is an event without a result");
/// work.succeed(&"done").await?;
/// assert_eq!(queue.result(1).await?.expect("it has its result").details, "done");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct FileQueue {
    pub(crate) shared: Arc<Shared>,
    /// Ends what runs in the background with the last clone.
    _background: Arc<DropGuard>,
}

/// What every part of a queue shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: FileQueueConfig,
    pub(crate) name: Name,
    pub(crate) worker: String,
    pub(crate) disk: Arc<Disk>,
    pub(crate) log: EventLog,
    pub(crate) payloads: Payloads,
    pub(crate) claims: Claims,
    /// The groups: who consumes for each, and how far it has come.
    pub(crate) groups: Claims,
    pub(crate) coordination: Arc<dyn Coordinate>,
    pub(crate) metrics: Arc<Metrics>,
    /// Tells those who wait that there may be something new.
    pub(crate) news: watch::Sender<()>,
    /// Up to where every event has its result.
    pub(crate) done_through: AtomicU64,
    pub(crate) subscribers: Subscribers,
    pub(crate) counters: Arc<BusCounters>,
    pub(crate) consuming: Consuming,
}

impl FileQueue {
    /// Opens the queue in a folder; makes it if it is not there.
    ///
    /// # Errors
    /// [`FileQueueError::InvalidConfig`]; [`FileQueueError::Io`] if the folder cannot be used.
    pub async fn open(config: FileQueueConfig) -> Result<Self> {
        let background = CancellationToken::new();
        let shared = Shared::open(config, Arc::default(), Arc::new(Alone)).await?;
        Ok(Self::new(Arc::new(shared), background))
    }

    pub(crate) fn new(shared: Arc<Shared>, background: CancellationToken) -> Self {
        tokio::spawn(crate::bus::announce(Arc::clone(&shared), background.clone()));
        Self { shared, _background: Arc::new(background.drop_guard()) }
    }

    /// What the queue is called.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.shared.name
    }

    /// What this worker is called.
    #[must_use]
    pub fn worker_id(&self) -> &str {
        &self.shared.worker
    }

    /// How it works.
    #[must_use]
    pub fn config(&self) -> &FileQueueConfig {
        &self.shared.config
    }

    /// What it counted since it was opened.
    #[must_use]
    pub fn metrics(&self) -> FileQueueMetrics {
        self.shared.metrics.snapshot()
    }

    /// Whether the workers reach each other beside the files.
    #[must_use]
    pub fn coordination(&self) -> CoordinationStatus {
        self.shared.coordination.status()
    }

    /// Publishes a payload. When this returns it is on disk, and every worker will see it.
    ///
    /// # Errors
    /// [`FileQueueError`]; if it is [`Io`](FileQueueError::Io), the event may or may not be published.
    pub async fn publish<T: Serialize + ?Sized>(&self, payload: &T) -> Result<QueueEvent> {
        let record = event::message(payload)?;
        let mut published = self.shared.publish(vec![record]).await.map_err(|stopped| stopped.error)?;
        published.pop().ok_or(FileQueueError::RuntimeEnded)
    }

    /// Publishes payloads, in order; much faster than one after the other.
    ///
    /// # Errors
    /// [`FileQueueError`]; if it is [`Io`](FileQueueError::Io), the first few may be published.
    pub async fn publish_all<T: Serialize>(&self, payloads: &[T]) -> Result<Vec<QueueEvent>> {
        let records = payloads.iter().map(event::message).collect::<Result<Vec<_>>>()?;
        self.shared.publish(records).await.map_err(|stopped| stopped.error)
    }
}

/// Publishing that ended early.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// Whether some events were published before.
    pub(crate) in_part: bool,
    pub(crate) error: FileQueueError,
}

impl Shared {
    pub(crate) async fn open(
        config: FileQueueConfig,
        metrics: Arc<Metrics>,
        coordination: Arc<dyn Coordinate>,
    ) -> Result<Self> {
        config.check()?;
        let (worker, root, sync) = (config.worker()?, config.root_dir.clone(), config.sync);
        let disk = tokio::task::spawn_blocking(move || Disk::open(root, sync, &names::FOLDERS));
        let disk = Arc::new(disk.await.map_err(|_| FileQueueError::RuntimeEnded)??);
        let payloads = Payloads::new(Arc::clone(&disk), config.compress_from);
        let claims = |folder, lasting| Claims::new(Arc::clone(&disk), folder, worker.clone(), lasting);
        Ok(Self {
            name: config.name()?,
            log: EventLog::new(Arc::clone(&disk), payloads.clone(), config.gap_patience, Arc::clone(&metrics)),
            claims: claims(names::CLAIMS, config.claim_expiration),
            groups: claims(names::SUBSCRIPTIONS, config.group_expiration),
            payloads,
            coordination,
            metrics,
            news: watch::Sender::new(()),
            done_through: AtomicU64::default(),
            subscribers: Subscribers::default(),
            counters: Arc::default(),
            consuming: Consuming::default(),
            disk,
            worker,
            config,
        })
    }

    /// Asks the file system, on a thread that may wait for it.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(self);
        match tokio::task::spawn_blocking(move || ask(&shared)).await {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(FileQueueError::RuntimeEnded),
        }
    }

    /// Publishes events, in order.
    pub(crate) async fn publish(self: &Arc<Self>, records: Vec<RecordedEvent>) -> Result<Vec<QueueEvent>, Stopped> {
        let mut published = Vec::with_capacity(records.len());
        for part in records.chunks(TOGETHER) {
            let before = published.len();
            let result = self.publish_part(part, &mut published).await;
            self.tell_published(&published[before..]).await;
            result.map_err(|error| Stopped { in_part: !published.is_empty(), error })?;
        }
        Ok(published)
    }

    async fn publish_part(self: &Arc<Self>, records: &[RecordedEvent], published: &mut Vec<QueueEvent>) -> Result<()> {
        if self.consuming.is_closed() {
            return Err(FileQueueError::ShutDown);
        }
        let (created_at, owned) = (event::now(), records.to_vec());
        let mut staged = self.blocking(move |shared| shared.stage(&owned, created_at)).await?;
        let mut left = records.iter();
        let mut floor = None;
        while !staged.is_empty() {
            let drawn = self.draw(staged.len(), floor).await?;
            let is_drawn = drawn.is_some();
            let (linked, rest) = self
                .blocking(move |shared| {
                    let linked = shared.log.link(&mut staged, drawn)?;
                    Ok((linked, staged))
                })
                .await?;
            staged = rest;
            let Linked { ids, collisions, error } = linked;
            self.metrics.id_collisions.add(collisions);
            let event = |(id, record): (u64, &RecordedEvent)| {
                QueueEvent::new(id, created_at, self.worker.clone(), record.clone())
            };
            published.extend(ids.into_iter().zip(left.by_ref()).map(event));
            if let Some(error) = error {
                return Err(error);
            }
            if is_drawn && !staged.is_empty() {
                // somebody took ids without drawing them
                floor = Some(self.blocking(|shared| shared.log.head()).await?);
            }
        }
        Ok(())
    }

    /// Ids from whoever coordinates, above what the files tell if it does not know.
    async fn draw(self: &Arc<Self>, count: usize, floor: Option<u64>) -> Result<Option<std::ops::Range<u64>>> {
        let count = count as u64;
        let mut drawn = self.coordination.draw(count, floor).await;
        if drawn == Drawn::Unknown {
            let head = self.blocking(|shared| shared.log.head()).await?;
            drawn = self.coordination.draw(count, Some(head)).await;
        }
        match drawn {
            Drawn::Ids(ids) => Ok(Some(ids)),
            Drawn::Unknown | Drawn::Away => Ok(None),
        }
    }

    fn stage(&self, records: &[RecordedEvent], created_at: time::OffsetDateTime) -> Result<VecDeque<Staged>> {
        let content = |record: &RecordedEvent| {
            let payload_file = self.payloads.write(record)?;
            self.metrics.payloads_compressed.add(u64::from(payload_file.is_some()));
            let event = Some(WrittenRecord::new(record, payload_file)?);
            event::pretty("the event", &EventFile { created_at, worker_id: self.worker.clone(), gap: None, event })
        };
        let contents = records.iter().map(content).collect::<Result<Vec<_>>>()?;
        Ok(self.disk.stage_all(&contents)?.into())
    }

    async fn tell_published(&self, published: &[QueueEvent]) {
        if published.is_empty() {
            return;
        }
        self.metrics.events_published.add(published.len() as u64);
        self.news.send_replace(());
        let messages = published.iter().map(|event| about("event_id", event.id())).collect();
        self.coordination.tell(kind::ADD_EVENT, messages).await;
    }
}

/// Waits for news, or until it is time to look all the same.
///
/// Where others tell what they do, looking is for what they could not tell; without that it is done soon at first, then
/// less and less often.
#[derive(Debug)]
pub(crate) struct Patience {
    coordination: Arc<dyn Coordinate>,
    news: watch::Receiver<()>,
    next: Duration,
    longest: Duration,
}

/// How soon it is looked again at first.
const SOON: Duration = Duration::from_millis(5);

impl Patience {
    pub(crate) fn new(shared: &Shared) -> Self {
        let longest = shared.config.poll_interval;
        let (coordination, news) = (Arc::clone(&shared.coordination), shared.news.subscribe());
        Self { coordination, news, next: SOON.min(longest), longest }
    }

    /// There was something: it may go on so.
    pub(crate) fn reset(&mut self) {
        self.next = SOON.min(self.longest);
    }

    pub(crate) async fn wait(&mut self) {
        let next = match self.coordination.status() {
            CoordinationStatus::Connected => self.longest,
            _ => self.next,
        };
        tokio::select! {
            // the sender lives as long as we do
            _ = self.news.changed() => self.reset(),
            () = tokio::time::sleep(next) => self.next = (self.next * 2).min(self.longest),
        }
    }
}
