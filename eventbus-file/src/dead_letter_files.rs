//! Dead letters: the jobs that failed for good, each a file with the event, named by the event's id.

use std::{path::PathBuf, sync::Arc, time::Duration};

use eventbus::{
    Name, RecordedEvent,
    clock::SharedClock,
    delivery::DeliveryAttempts,
    port::{DeadLetter, DeadLetterFilter, DeadLetterPage},
    support::PAGE_BYTES,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    disk::{self, Disk},
    error::{FileQueueError, Result},
    event::{self, WrittenRecord, message_id},
    names,
};

/// Content of the file of a dead letter.
///
/// | state | event | next state |
/// |---|---|---|
/// | none | a job fails for good | dead letter |
/// | dead letter | an operator replays it: the event is published again, as a new job | removed |
/// | dead letter | an operator discards it | removed |
#[derive(Debug, Serialize, Deserialize)]
struct DeadLetterFile {
    id: u64,
    #[serde(with = "time::serde::rfc3339")]
    dead_lettered_at: OffsetDateTime,
    worker_id: String,
    handler: String,
    error: String,
    attempts: u32,
    /// The handlers that succeeded, and those that failed, how often and when.
    delivery_attempts: DeliveryAttempts,
    event: WrittenRecord,
}

impl DeadLetterFile {
    fn into_dead_letter(self, queue: &Name) -> Result<DeadLetter, eventbus::BoxError> {
        let mut dead_letter = DeadLetter::new(message_id(self.id));
        dead_letter.original_message_id = Some(message_id(self.id));
        dead_letter.group = Some(queue.to_string());
        dead_letter.handler = Some(self.handler);
        dead_letter.error = Some(self.error);
        dead_letter.attempts = Some(self.attempts);
        dead_letter.retry_count = Some(self.attempts.saturating_sub(1));
        let after = |millis: u64| time::Duration::try_from(Duration::from_millis(millis)).ok();
        let at = |millis: u64| OffsetDateTime::UNIX_EPOCH.checked_add(after(millis)?);
        dead_letter.first_failed_at = self.delivery_attempts.first_failed_at.and_then(at);
        dead_letter.last_failed_at = self.delivery_attempts.last_failed_at.and_then(at);
        dead_letter.dead_lettered_at = Some(self.dead_lettered_at);
        dead_letter.done_handlers = self.delivery_attempts.done;
        let record = self.event.into_record(None)?;
        dead_letter.event_type = Some(record.event_type().to_string());
        dead_letter.aggregate_id = Some(record.metadata().aggregate_id().to_string());
        dead_letter.record = Some(record);
        Ok(dead_letter)
    }
}

/// The files of dead letters.
#[derive(Debug)]
pub(crate) struct DeadLetterFiles {
    disk: Arc<Disk>,
    queue: Name,
    worker_id: String,
    clock: SharedClock,
}

impl DeadLetterFiles {
    pub(crate) const fn new(disk: Arc<Disk>, queue: Name, worker_id: String, clock: SharedClock) -> Self {
        Self { disk, queue, worker_id, clock }
    }

    fn folder(&self) -> PathBuf {
        self.disk.root().join(names::DEAD_LETTERS)
    }

    fn path(&self, id: u64) -> PathBuf {
        self.folder().join(names::file_name(id))
    }

    /// Returns the ids of all dead letters, the oldest event first.
    pub(crate) fn list_ids(&self) -> Result<Vec<u64>> {
        let mut ids = disk::list_numbers(&self.folder())?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Makes a job a dead letter; replaces the file of a worker that died before it wrote the result.
    pub(crate) fn write(&self, id: u64, record: &RecordedEvent, attempts: DeliveryAttempts) -> Result<()> {
        let (handler, error, most_attempts) = (attempts.handlers(), attempts.errors(), attempts.most_attempts());
        let file = DeadLetterFile {
            id,
            dead_lettered_at: self.clock.now(),
            worker_id: self.worker_id.clone(),
            handler,
            error,
            attempts: most_attempts,
            delivery_attempts: attempts,
            event: WrittenRecord::new(record, None)?,
        };
        self.disk.replace(&self.path(id), &event::to_pretty_json("the dead letter", &file)?)?;
        self.disk.sync_folder(&self.folder())?;
        let DeadLetterFile { handler, error, attempts, .. } = file;
        let (queue, event_type) = (&self.queue, record.event_type());
        tracing::error!(%queue, id, handler, error, attempts, %event_type, "job given up: it is a dead letter now");
        Ok(())
    }

    /// Loads a dead letter; `None` if there is none of this id.
    pub(crate) fn load(&self, id: u64) -> Result<Option<DeadLetter>> {
        let path = self.path(id);
        let file = disk::read_json::<DeadLetterFile>(&path, "dead letter")?.filter(|file| file.id == id);
        let dead_letter = file.map(|file| file.into_dead_letter(&self.queue)).transpose();
        dead_letter.map_err(|error| FileQueueError::torn("dead letter", path, error))
    }

    /// Loads the page of matching dead letters after an id; passes torn ones over.
    pub(crate) fn load_page(&self, filter: &DeadLetterFilter, after: u64, limit: usize) -> Result<DeadLetterPage> {
        let (mut dead_letters, mut bytes) = (Vec::<DeadLetter>::new(), 0_usize);
        for id in self.list_ids()?.into_iter().filter(|id| *id > after) {
            if let Some(dead_letter) = self.load_intact(id)?.filter(|found| filter.matches(found)) {
                if dead_letters.len() == limit.max(1) || bytes >= PAGE_BYTES {
                    let next = dead_letters.last().map(|dead_letter| dead_letter.id.clone());
                    return Ok(DeadLetterPage::new(dead_letters, next));
                }
                bytes = bytes.saturating_add(dead_letter.bytes());
                dead_letters.push(dead_letter);
            }
        }
        Ok(DeadLetterPage::new(dead_letters, None))
    }

    /// Loads a dead letter; logs a torn one and passes it over.
    pub(crate) fn load_intact(&self, id: u64) -> Result<Option<DeadLetter>> {
        match self.load(id) {
            Err(error @ FileQueueError::Torn { .. }) => {
                tracing::error!(error = error.log(), "torn dead letter passed over");
                Ok(None)
            }
            dead_letter => dead_letter,
        }
    }

    /// Removes a dead letter. Returns `false` if there is none of this id.
    pub(crate) fn remove(&self, id: u64) -> Result<bool> {
        self.disk.remove(&self.path(id))
    }
}
