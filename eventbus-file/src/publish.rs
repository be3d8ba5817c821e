//! Publishing: events are written, then get their ids.
//!
//! Keep: an event that was published is told to the others after it is there, never before.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use eventbus::RecordedEvent;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    FileQueue,
    coordination::{Drawn, about, kind},
    disk::{self, Staged},
    error::{FileQueueError, Result},
    event::{self, EventFile, QueueEvent, WrittenRecord},
    log::{self, Linked},
    names,
    queue::Shared,
};

/// How many events are written at once.
const TOGETHER: usize = 500;

impl FileQueue {
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
    /// Whether some events were, or may have been, published before.
    pub(crate) in_part: bool,
    pub(crate) error: FileQueueError,
}

impl From<FileQueueError> for Stopped {
    /// Of an error that came before anything was published.
    fn from(error: FileQueueError) -> Self {
        Self { in_part: false, error }
    }
}

impl Shared {
    /// Publishes events, in order; also if nobody waits for it any more, as ids that were drawn are to be used.
    pub(crate) async fn publish(self: &Arc<Self>, records: Vec<RecordedEvent>) -> Result<Vec<QueueEvent>, Stopped> {
        let shared = Arc::clone(self);
        let publishing = tokio::spawn(async move { shared.publish_parts(&records).await });
        match publishing.await {
            Ok(published) => published,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Stopped { in_part: true, error: FileQueueError::RuntimeEnded }),
        }
    }

    async fn publish_parts(self: &Arc<Self>, records: &[RecordedEvent]) -> Result<Vec<QueueEvent>, Stopped> {
        let mut published = Vec::with_capacity(records.len());
        for part in records.chunks(TOGETHER) {
            let before = published.len();
            let result = self.publish_part(part, &mut published).await;
            let ids: Vec<u64> = published[before..].iter().map(QueueEvent::id).collect();
            self.tell_published(&ids).await;
            result.map_err(|stopped| Stopped { in_part: stopped.in_part || !published.is_empty(), ..stopped })?;
        }
        Ok(published)
    }

    async fn publish_part(
        self: &Arc<Self>,
        records: &[RecordedEvent],
        published: &mut Vec<QueueEvent>,
    ) -> Result<(), Stopped> {
        if self.consuming.is_closed() {
            return Err(FileQueueError::ShutDown.into());
        }
        let (created_at, owned) = (event::now(), records.to_vec());
        let mut staged = self.blocking(move |shared| shared.stage(&owned, created_at, None)).await?;
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
                return Err(Stopped { in_part: true, error });
            }
            if is_drawn && !staged.is_empty() {
                // somebody took ids without drawing them
                floor = Some(self.blocking(|shared| shared.log.head()).await?);
            }
        }
        Ok(())
    }

    /// Ids from whoever coordinates, above what the files tell if it does not know.
    async fn draw(self: &Arc<Self>, count: usize, floor: Option<u64>) -> Result<Option<Range<u64>>> {
        let count = count as u64;
        let mut drawn = self.coordination.draw(count, floor).await;
        if drawn == Drawn::Unknown {
            let head = self.blocking(|shared| shared.log.head()).await?;
            drawn = self.coordination.draw(count, Some(head)).await;
        }
        match drawn {
            Drawn::Ids(ids) => self.near(ids).await,
            Drawn::Unknown | Drawn::Away => Ok(None),
        }
    }

    /// Drawn ids, unless they are so far ahead that the counter must be wrong: then it is put right, and the files decide.
    async fn near(self: &Arc<Self>, ids: Range<u64>) -> Result<Option<Range<u64>>> {
        let is_near = |newest: u64| ids.start <= newest + names::FAR;
        if is_near(self.newest.load(Ordering::Relaxed)) {
            return Ok(Some(ids));
        }
        let head = self.blocking(|shared| shared.log.head()).await?;
        self.newest.fetch_max(head, Ordering::Relaxed);
        if is_near(head) {
            return Ok(Some(ids));
        }
        tracing::error!(drawn = ids.start, newest = head, "the counter is wrong, and is lowered");
        self.coordination.lower(ids.end, head + 1).await;
        Ok(None)
    }

    /// Writes events to disk, without ids; all of them or none. `store`: its relay publishes them.
    pub(crate) fn stage(
        &self,
        records: &[RecordedEvent],
        created_at: OffsetDateTime,
        store: Option<Uuid>,
    ) -> Result<VecDeque<Staged>> {
        let mut payload_files = Vec::new();
        let mut content = |record: &RecordedEvent| {
            // also of one that is compressed: a small file may stand for more than there is memory
            disk::check_size(record.payload().len() as u64, Some(record.metadata().event_id()))?;
            let payload_file = self.payloads.write(record)?;
            payload_files.extend(payload_file.clone());
            let event = Some(WrittenRecord::new(record, payload_file)?);
            let worker_id = self.worker.clone();
            let file = EventFile { created_at, worker_id, store, gap: None, again: None, event };
            let content = event::pretty("the event", &file)?;
            disk::check_size(content.len() as u64, Some(record.metadata().event_id()))?;
            Ok(content)
        };
        let contents: Result<Vec<_>> = records.iter().map(&mut content).collect();
        let staged = contents.and_then(|contents| self.disk.stage_all(&contents));
        match staged {
            Ok(staged) => {
                self.metrics.payloads_compressed.add(payload_files.len() as u64);
                Ok(staged.into())
            }
            Err(error) => {
                for name in payload_files {
                    // one that stays is told as unused
                    let _ = self.payloads.remove(&name);
                }
                Err(error)
            }
        }
    }

    /// Forgets what was staged and got no id, with the payloads of their own.
    pub(crate) fn unstage(&self, staged: &mut VecDeque<Staged>) {
        for staged in staged.drain(..).filter(Staged::is_nameless) {
            if let Ok(Some(name)) = log::payload_file_at(&staged.path) {
                // one that stays is told as unused
                let _ = self.payloads.remove(&name);
            }
        }
    }

    /// Tells everybody of events that are there.
    pub(crate) async fn tell_published(&self, ids: &[u64]) {
        let Some(newest) = ids.last() else {
            return;
        };
        self.metrics.events_published.add(ids.len() as u64);
        self.newest.fetch_max(*newest, Ordering::Relaxed);
        self.news.send_replace(());
        let messages = ids.iter().map(|id| about("event_id", *id)).collect();
        self.coordination.tell(kind::ADD_EVENT, messages).await;
    }
}
