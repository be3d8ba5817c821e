//! The queue.

use std::sync::Arc;

use eventbus::Name;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    FileQueueConfig, FileQueueMetrics,
    coordination::{CoordinationStatus, FilesOnly},
    error::Result,
    inner::QueueInner,
    subscriber_broadcast::broadcast_subscribers,
};

/// A queue in a folder: its files are the truth. Cloning shares it.
///
/// As a work queue: [`publish`](Self::publish), [`claim_next`](Self::claim_next), [`ClaimedEvent::succeed`](crate::ClaimedEvent::succeed).
/// As a bus it is given to an `App`, or subscribed to by `eventbus::EventBusExt`. Every process that opens the folder is
/// a worker of the queue; the crate's page lists its guarantees.
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
    pub(crate) inner: Arc<QueueInner>,
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

    pub(crate) fn new(queue: Arc<QueueInner>, background: CancellationToken) -> Self {
        tokio::spawn(broadcast_subscribers(Arc::clone(&queue), background.clone()));
        Self { inner: queue, _background: Arc::new(background.drop_guard()) }
    }

    /// Returns the name of the queue.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.inner.name
    }

    /// Returns the name of this worker.
    #[must_use]
    pub fn worker_id(&self) -> &str {
        &self.inner.worker_id
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &FileQueueConfig {
        &self.inner.config
    }

    /// Returns the counters, which begin with 0 when the queue is opened.
    #[must_use]
    pub fn metrics(&self) -> FileQueueMetrics {
        self.inner.metrics.snapshot()
    }

    /// Returns the state of the coordination beside the files.
    #[must_use]
    pub fn coordination(&self) -> CoordinationStatus {
        self.inner.coordination.status()
    }
}
