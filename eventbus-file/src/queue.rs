//! The queue.

use std::sync::Arc;

use eventbus::Name;
use serde::Serialize;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    FileQueueConfig, FileQueueMetrics,
    claim_store::Claim,
    claimed_event::{self, ClaimedEvent},
    coordinated_claims,
    coordination::{CoordinationStatus, FilesOnly},
    error::{FileQueueError, Result},
    event::{self, QueueEvent},
    folder_check::{self, FolderProblem},
    inner::QueueInner,
    publish,
    removal::{self, RemovalReport},
    results::EventResult,
    search::{self, Search, SearchPage},
    subscriber_broadcast::broadcast_subscribers,
};
#[cfg(feature = "redis")]
use crate::{
    coordination::Coordinator,
    metrics::Metrics,
    redis_coordination::{self, RedisCoordination, RedisCoordinator},
};

/// A queue in a folder, whose files are the source of truth. Clones share one queue.
///
/// As a work queue: [`publish`](Self::publish), [`claim_next`](Self::claim_next),
/// [`ClaimedEvent::succeed`](crate::ClaimedEvent::succeed). For handlers: give it to an `App`, or subscribe to it by
/// `eventbus::EventBusExt`; they get the events as jobs. Every process that opens the folder is a worker of the queue; the crate's page lists the
/// guarantees.
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
/// let work = queue.try_claim_next().await?.expect("there is an event without a result");
/// work.succeed(&"done").await?;
/// assert_eq!(queue.result(1).await?.expect("it has its result").details, "done");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct FileQueue {
    inner: Arc<QueueInner>,
    /// Stops the background tasks when the last clone is dropped.
    _background: Arc<DropGuard>,
}

impl FileQueue {
    /// Opens the queue in a folder; makes the folder if it is missing.
    ///
    /// # Errors
    /// [`FileQueueError::InvalidConfig`]; [`FileQueueError::Io`] if the folder cannot be used.
    pub async fn open(config: FileQueueConfig) -> Result<Self> {
        let background = CancellationToken::new();
        let queue = QueueInner::open(config, Arc::default(), Arc::new(FilesOnly)).await?;
        Ok(Self::new(Arc::new(queue), background))
    }

    /// Opens the queue in a folder that workers on several machines share, coordinated through Redis.
    ///
    /// If Redis is away, the queue still works, by its files alone, and keeps trying to connect.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Examples
    /// ```no_run
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use eventbus_file::{FileQueue, FileQueueConfig, RedisCoordination};
    /// let queue = FileQueue::open_with_redis(FileQueueConfig::at("./my_queue"), RedisCoordination::default()).await?;
    /// queue.publish(&serde_json::json!({"message": "Hello World"})).await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub async fn open_with_redis(config: FileQueueConfig, redis: RedisCoordination) -> Result<Self> {
        redis.check()?;
        let (name, worker, metrics) = (config.name()?, config.worker()?, Arc::<Metrics>::default());
        let redis = Arc::new(RedisCoordinator::new(redis, &name, worker.clone(), Arc::clone(&metrics))?);
        let config = FileQueueConfig { worker_id: Some(worker), ..config };
        let queue = QueueInner::open(config, metrics, Arc::clone(&redis) as Arc<dyn Coordinator>).await?;
        let (queue, background) = (Arc::new(queue), CancellationToken::new());
        redis_coordination::start(redis, Arc::clone(&queue), background.clone()).await;
        Ok(Self::new(queue, background))
    }

    fn new(queue: Arc<QueueInner>, background: CancellationToken) -> Self {
        tokio::spawn(broadcast_subscribers(Arc::clone(&queue), background.clone()));
        Self { inner: queue, _background: Arc::new(background.drop_guard()) }
    }

    /// Returns the state that all parts of the queue share.
    pub(crate) fn inner(&self) -> &Arc<QueueInner> {
        &self.inner
    }

    /// Returns the name of the queue.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.inner.name()
    }

    /// Returns the name of this worker.
    #[must_use]
    pub fn worker_id(&self) -> &str {
        self.inner.worker_id()
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &FileQueueConfig {
        self.inner.config()
    }

    /// Returns the counters, which begin with 0 when the queue is opened.
    #[must_use]
    pub fn metrics(&self) -> FileQueueMetrics {
        self.inner.metrics().snapshot()
    }

    /// Returns the state of the coordination beside the files.
    #[must_use]
    pub fn coordination(&self) -> CoordinationStatus {
        self.inner.coordination().status()
    }
    /// Publishes a payload. When this returns, the event is on disk and visible to every worker.
    ///
    /// # Errors
    /// [`FileQueueError`]; if it is [`Io`](FileQueueError::Io), the event may or may not be published.
    pub async fn publish<T: Serialize + ?Sized>(&self, payload: &T) -> Result<QueueEvent> {
        let record = event::record_of_payload(payload)?;
        let mut published =
            publish::publish(&self.inner, vec![record], Vec::new()).await.map_err(|stopped| stopped.error)?;
        published.pop().ok_or(FileQueueError::RuntimeEnded)
    }

    /// Publishes payloads in order; much faster than one call for each.
    ///
    /// # Errors
    /// [`FileQueueError`]; if it is [`Io`](FileQueueError::Io), the first few may be published.
    pub async fn publish_all<T: Serialize>(&self, payloads: &[T]) -> Result<Vec<QueueEvent>> {
        let records = payloads.iter().map(event::record_of_payload).collect::<Result<Vec<_>>>()?;
        publish::publish(&self.inner, records, Vec::new()).await.map_err(|stopped| stopped.error)
    }

    /// Returns the result of an event; `None` if it has none yet.
    ///
    /// # Errors
    /// [`FileQueueError::Io`], [`FileQueueError::Torn`].
    pub async fn result(&self, event_id: u64) -> Result<Option<EventResult>> {
        self.inner.blocking(move |queue| queue.results().load_result(event_id)).await
    }

    /// Claims the first event that has neither a result nor a live claim; `None` if there is none now.
    ///
    /// # Errors
    /// [`FileQueueError::Io`].
    pub async fn try_claim_next(&self) -> Result<Option<ClaimedEvent>> {
        claimed_event::try_claim_next(&self.inner).await
    }

    /// Claims as [`try_claim_next`](Self::try_claim_next), but waits while there is no event, or the folder is missing.
    /// If the caller drops the future, in a `select!` for example, no event stays claimed.
    ///
    /// # Errors
    /// [`FileQueueError::ShutDown`] once the queue is shut down; [`FileQueueError::Io`].
    pub async fn claim_next(&self) -> Result<ClaimedEvent> {
        claimed_event::claim_next(&self.inner).await
    }

    /// Acquires a claim by name, until [`claim_expiration`](crate::FileQueueConfig::claim_expiration) has passed.
    /// Returns `false` if a worker owns it already, this one included. If the caller drops the future, the claim is
    /// released.
    ///
    /// # Errors
    /// [`FileQueueError::InvalidName`], [`FileQueueError::Io`], [`FileQueueError::Torn`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let queue = eventbus_file::FileQueue::open(eventbus_file::FileQueueConfig::at(folder.path())).await?;
    /// if queue.create_claim("task_1", "worker_data").await? {
    ///     let claim = queue.get_claim("task_1").await?.expect("this worker owns it");
    ///     println!("claimed by worker {}", claim.worker_id);
    ///     queue.renew_claim(&claim).await?; // for a task that takes long
    /// }
    /// assert!(!queue.create_claim("task_1", "worker_data").await?);
    /// # Ok(()) }
    /// ```
    pub async fn create_claim<T: Serialize + ?Sized>(&self, claim_id: &str, data: &T) -> Result<bool> {
        Ok(self.try_claim(claim_id, data).await?.is_some())
    }

    /// Acquires a claim as [`create_claim`](Self::create_claim) does, and returns it, so that the caller can renew and
    /// release it.
    ///
    /// # Errors
    /// As [`create_claim`](Self::create_claim).
    pub async fn try_claim<T: Serialize + ?Sized>(&self, claim_id: &str, data: &T) -> Result<Option<Claim>> {
        let data = event::to_value("the data", data)?;
        coordinated_claims::claim(&self.inner, claim_id, data).await
    }

    /// Returns the newest claim of a name, live or not; `None` if there never was one.
    ///
    /// # Errors
    /// [`FileQueueError::InvalidName`], [`FileQueueError::Io`], [`FileQueueError::Torn`].
    pub async fn get_claim(&self, claim_id: &str) -> Result<Option<Claim>> {
        let claim_id = claim_id.to_owned();
        self.inner.blocking(move |queue| queue.claims().load_newest(&claim_id)).await
    }

    /// Extends a claim of this worker by its TTL from now on.
    ///
    /// # Errors
    /// [`FileQueueError::ClaimLost`] if it expired or a different worker owns it; [`FileQueueError::Io`].
    pub async fn renew_claim(&self, claim: &Claim) -> Result<Claim> {
        coordinated_claims::renew(&self.inner, claim).await
    }

    /// Releases a claim: any worker may acquire it now.
    ///
    /// # Errors
    /// [`FileQueueError::ClaimLost`] if a different worker owns it; [`FileQueueError::Io`].
    pub async fn release_claim(&self, claim: Claim) -> Result<()> {
        coordinated_claims::release(&self.inner, claim).await.map(drop)
    }

    /// Removes events in order, up to an id, and stops at the first event without a result. Ids are never used again.
    /// Files that hold no event stay, as do results and claims by name. The last events of a publisher that died become
    /// removable after an hour.
    ///
    /// # Errors
    /// [`FileQueueError::Io`]; events removed until then stay removed, and a repeated call
    /// goes on with the rest.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let queue = eventbus_file::FileQueue::open(eventbus_file::FileQueueConfig::at(folder.path())).await?;
    /// queue.publish(&"one").await?;
    /// queue.claim_next().await?.succeed(&"done").await?;
    /// queue.publish(&"two").await?;
    /// assert_eq!(queue.remove_through(100).await?.through, 1);
    /// # Ok(()) }
    /// ```
    pub async fn remove_through(&self, id: u64) -> Result<RemovalReport> {
        self.inner.blocking(move |queue| removal::remove_through(queue, id)).await
    }

    /// Returns an event by its id; `None` if there is no such event, or it was removed.
    ///
    /// # Errors
    /// [`FileQueueError::Torn`] if the file holds no event; [`FileQueueError::Io`].
    pub async fn event(&self, id: u64) -> Result<Option<QueueEvent>> {
        self.inner.blocking(move |queue| queue.log().load_event(id)).await
    }

    /// Returns events by their ids, in the order of `ids`.
    ///
    /// # Errors
    /// As [`event`](Self::event).
    pub async fn events_by_id(&self, ids: &[u64]) -> Result<Vec<Option<QueueEvent>>> {
        let ids = ids.to_vec();
        self.inner.blocking(move |queue| ids.into_iter().map(|id| queue.log().load_event(id)).collect()).await
    }

    /// Returns a page of events, by id. Logs torn files and passes them over.
    ///
    /// # Errors
    /// [`FileQueueError::InvalidName`] if the page token is invalid; [`FileQueueError::Io`].
    pub async fn events(&self, search: &Search) -> Result<SearchPage<QueueEvent>> {
        search::load_page(&self.inner, search, search::find_events).await
    }

    /// Returns the number of matching events from the start of the page on.
    ///
    /// # Errors
    /// As [`events`](Self::events).
    pub async fn count_events(&self, search: &Search) -> Result<u64> {
        search::count(&self.inner, search, search::find_events).await
    }

    /// Returns a page of results, by the ids of their events.
    ///
    /// # Errors
    /// As [`events`](Self::events).
    pub async fn results(&self, search: &Search) -> Result<SearchPage<EventResult>> {
        search::load_page(&self.inner, search, search::find_results).await
    }

    /// Returns the number of matching results from the start of the page on.
    ///
    /// # Errors
    /// As [`events`](Self::events).
    pub async fn count_results(&self, search: &Search) -> Result<u64> {
        search::count(&self.inner, search, search::find_results).await
    }

    /// Returns a page of claims by name: the newest of each name, live or not.
    ///
    /// # Errors
    /// [`FileQueueError::Io`].
    pub async fn claims(&self, search: &Search) -> Result<SearchPage<Claim>> {
        search::load_page(&self.inner, search, search::find_claims).await
    }

    /// Returns the number of matching claims from the start of the page on.
    ///
    /// # Errors
    /// [`FileQueueError::Io`].
    pub async fn count_claims(&self, search: &Search) -> Result<u64> {
        search::count(&self.inner, search, search::find_claims).await
    }

    /// Checks every file, and returns those that do not belong to the queue or are torn. The queue leaves them as they
    /// are, and workers pass them over.
    ///
    /// # Errors
    /// [`FileQueueError::Io`] if a file cannot be read.
    pub async fn check(&self) -> Result<Vec<FolderProblem>> {
        folder_check::check(&self.inner).await
    }
}
