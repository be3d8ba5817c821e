//! Publishing: the publisher writes its events to disk, then links each to an id.
//!
//! Invariant: the publisher announces an event to other workers after the event's file exists, never before.

use std::{ops::Range, sync::Arc};

use eventbus::RecordedEvent;

use crate::{
    coordination::{IdReservation, message_data, message_kind},
    error::{FileQueueError, Result},
    event::{self, QueueEvent},
    inner::QueueInner,
    log::LinkOutcome,
    names,
};

/// Maximum number of events that a publisher writes at once.
const PUBLISH_BATCH_MAX: usize = 500;

/// Failure of publishing several events.
#[derive(Debug)]
pub(crate) struct PublishFailure {
    /// Set if some of the events were, or may have been, published.
    pub(crate) is_partial: bool,
    pub(crate) error: FileQueueError,
}

impl From<FileQueueError> for PublishFailure {
    /// Wraps an error that came before the first event was published.
    fn from(error: FileQueueError) -> Self {
        Self { is_partial: false, error }
    }
}

/// Publishes events in order, even if the caller drops this future: a reserved id that stays unused delays readers.
/// `done_handlers` had succeeded before the events were replayed.
pub(crate) async fn publish(
    queue: &Arc<QueueInner>,
    records: Vec<RecordedEvent>,
    done_handlers: Vec<String>,
) -> Result<Vec<QueueEvent>, PublishFailure> {
    let queue = Arc::clone(queue);
    let publishing = tokio::spawn(async move { publish_batches(&queue, &records, &done_handlers).await });
    match publishing.await {
        Ok(published) => published,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(PublishFailure { is_partial: true, error: FileQueueError::RuntimeEnded }),
    }
}

async fn publish_batches(
    queue: &Arc<QueueInner>,
    records: &[RecordedEvent],
    done_handlers: &[String],
) -> Result<Vec<QueueEvent>, PublishFailure> {
    let mut published = Vec::with_capacity(records.len());
    for part in records.chunks(PUBLISH_BATCH_MAX) {
        let before = published.len();
        let result = publish_batch(queue, part, done_handlers, &mut published).await;
        let ids: Vec<u64> = published[before..].iter().map(QueueEvent::id).collect();
        notify_published(queue, &ids).await;
        result
            .map_err(|stopped| PublishFailure { is_partial: stopped.is_partial || !published.is_empty(), ..stopped })?;
    }
    Ok(published)
}

async fn publish_batch(
    queue: &Arc<QueueInner>,
    records: &[RecordedEvent],
    done_handlers: &[String],
    published: &mut Vec<QueueEvent>,
) -> Result<(), PublishFailure> {
    if queue.consuming().is_closed() {
        return Err(FileQueueError::ShutDown.into());
    }
    let (created_at, owned, done) = (event::now(), records.to_vec(), done_handlers.to_vec());
    let mut staged = queue.blocking(move |queue| queue.log().stage(&owned, created_at, &done)).await?;
    let mut remaining = records.iter();
    let mut floor = None;
    while !staged.is_empty() {
        let reserved = reserve_ids(queue, staged.len(), floor).await?;
        let is_reserved = reserved.is_some();
        let (linked, rest) = queue
            .blocking(move |queue| {
                let linked = queue.log().link(&mut staged, reserved);
                if !matches!(linked, Ok(LinkOutcome { error: None, .. })) {
                    staged.clear(); // on this thread, which may block
                }
                Ok((linked?, staged))
            })
            .await?;
        staged = rest;
        let LinkOutcome { ids, error } = linked;
        let event = |(id, record): (u64, &RecordedEvent)| {
            QueueEvent::new(id, created_at, queue.worker_id().to_owned(), record.clone())
        };
        published.extend(ids.into_iter().zip(remaining.by_ref()).map(event));
        if let Some(error) = error {
            return Err(PublishFailure { is_partial: true, error });
        }
        if is_reserved && !staged.is_empty() {
            // a publisher without Redis used ids that it did not reserve
            floor = Some(queue.blocking(|queue| queue.log().head()).await?);
        }
    }
    Ok(())
}

/// Reserves ids from the coordinator; if that has no counter, with the newest id of the files as the floor.
async fn reserve_ids(queue: &Arc<QueueInner>, count: usize, floor: Option<u64>) -> Result<Option<Range<u64>>> {
    let count = count as u64;
    let mut reserved = queue.coordination().reserve_ids(count, floor).await;
    if reserved == IdReservation::CounterMissing {
        let head = queue.blocking(|queue| queue.log().head()).await?;
        reserved = queue.coordination().reserve_ids(count, Some(head)).await;
    }
    match reserved {
        IdReservation::Reserved(ids) => accept_if_plausible(queue, ids).await,
        IdReservation::CounterMissing | IdReservation::Away => Ok(None),
    }
}

/// Returns reserved ids, or `None` if they are so far ahead that the counter must be wrong: then it lowers the
/// counter, and the files decide.
async fn accept_if_plausible(queue: &Arc<QueueInner>, ids: Range<u64>) -> Result<Option<Range<u64>>> {
    let is_near = |newest: u64| ids.start <= newest + names::ID_JUMP_MAX;
    if is_near(queue.log().newest_id()) {
        return Ok(Some(ids));
    }
    let head = queue.blocking(|queue| queue.log().head()).await?;
    queue.log().saw_id(head);
    if is_near(head) {
        return Ok(Some(ids));
    }
    tracing::error!(drawn = ids.start, newest = head, "the id counter in Redis is too high: lowering it");
    queue.coordination().lower_counter(ids.end, head + 1).await;
    Ok(None)
}

/// Wakes the waiting tasks of this worker, and announces published events to the other workers.
pub(crate) async fn notify_published(queue: &QueueInner, ids: &[u64]) {
    let Some(newest) = ids.last() else {
        return;
    };
    queue.metrics().events_published.add(ids.len() as u64);
    queue.log().saw_id(*newest);
    queue.change_signal().send_replace(());
    let messages = ids.iter().map(|id| message_data("event_id", *id)).collect();
    queue.coordination().broadcast(message_kind::ADD_EVENT, messages).await;
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, pin::pin};

    use async_trait::async_trait;
    use tempfile::TempDir;
    use tokio::sync::Notify;

    use super::*;
    use crate::{
        FileQueueConfig,
        coordination::Coordinator,
        disk::TMP_FOLDER,
        folder_check::{self, FolderProblem},
    };

    /// Stops a publisher that has staged its events.
    #[derive(Debug, Default)]
    struct StopsPublisher {
        was_reached: Notify,
        /// A folder that it makes unreadable; without one, it never answers.
        folder: Option<PathBuf>,
    }

    #[async_trait]
    impl Coordinator for StopsPublisher {
        async fn reserve_ids(&self, _count: u64, _floor: Option<u64>) -> IdReservation {
            self.was_reached.notify_one();
            #[cfg(unix)]
            if let Some(folder) = &self.folder {
                std::fs::remove_dir(folder).unwrap();
                std::os::unix::fs::symlink(folder, folder).unwrap(); // it leads to itself
                return IdReservation::CounterMissing;
            }
            std::future::pending().await
        }
    }

    async fn open(root: &TempDir, coordinator: Arc<StopsPublisher>) -> Arc<QueueInner> {
        let config = FileQueueConfig { compress_from: Some(1), ..FileQueueConfig::at(root.path().join("queue")) };
        Arc::new(QueueInner::open(config, Arc::default(), coordinator).await.unwrap())
    }

    fn records() -> Vec<RecordedEvent> {
        ["one", "two"].map(|payload| event::record_of_payload(payload).unwrap()).into()
    }

    async fn count_unused(queue: &Arc<QueueInner>) -> usize {
        let problems = folder_check::check(queue).await.unwrap();
        assert!(problems.iter().all(|problem| matches!(problem, FolderProblem::UnusedPayload { .. })), "{problems:?}");
        problems.len()
    }

    fn count_staged(queue: &QueueInner) -> usize {
        std::fs::read_dir(queue.disk().root().join(TMP_FOLDER)).unwrap().count()
    }

    #[tokio::test]
    async fn a_publisher_that_ends_before_its_events_have_ids_leaves_no_payloads() {
        let (root, coordinator) = (tempfile::tempdir().unwrap(), Arc::<StopsPublisher>::default());
        let queue = open(&root, Arc::clone(&coordinator)).await;
        let records = records();
        {
            let mut publishing = pin!(publish_batches(&queue, &records, &[]));
            tokio::select! {
                published = &mut publishing => panic!("it got ids: {published:?}"),
                () = coordinator.was_reached.notified() => {}
            }
            assert_eq!((count_unused(&queue).await, count_staged(&queue)), (2, 2));
        }
        assert_eq!((count_unused(&queue).await, count_staged(&queue)), (0, 0));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_publisher_that_fails_before_its_events_have_ids_leaves_no_payloads() {
        let root = tempfile::tempdir().unwrap();
        let removed = root.path().join("queue").join(names::REMOVED);
        let coordinator = StopsPublisher { folder: Some(removed.clone()), ..StopsPublisher::default() };
        let queue = open(&root, Arc::new(coordinator)).await;
        let stopped = publish_batches(&queue, &records(), &[]).await.unwrap_err();
        assert!(!stopped.is_partial && matches!(stopped.error, FileQueueError::Io { .. }), "{stopped:?}");
        std::fs::remove_file(&removed).unwrap();
        assert_eq!((count_unused(&queue).await, count_staged(&queue)), (0, 0));
    }
}
