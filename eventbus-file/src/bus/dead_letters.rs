//! The dead letters of the queue as a bus.

use std::sync::Arc;

use async_trait::async_trait;
use eventbus::port::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, MessageId};

use crate::{
    FileQueue,
    dead_letter_files::DeadLetterFiles,
    error::{FileQueueError, Result},
    inner::QueueInner,
    publish,
};

#[async_trait]
impl DeadLetters for FileQueue {
    async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let after = after.map(|id| parse_id(self.inner(), id)).transpose()?.unwrap_or_default();
        let filter = filter.clone();
        with_dead_letters(self.inner(), move |letters| letters.load_page(&filter, after, limit)).await
    }

    async fn find_dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let id = parse_id(self.inner(), id)?;
        with_dead_letters(self.inner(), move |letters| letters.load(id)).await
    }

    /// Publishes the event again, as a new job for the handlers that had not succeeded, then removes the dead letter. A
    /// process that dies between the two leaves both.
    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let Some(DeadLetter { record: Some(record), done_handlers, .. }) = self.find_dead_letter(id).await? else {
            return Ok(false);
        };
        let published = publish::publish(self.inner(), vec![record], done_handlers).await;
        published.map_err(|stopped| dead_letter_error(self.inner(), stopped.error))?;
        let id = parse_id(self.inner(), id)?;
        with_dead_letters(self.inner(), move |letters| letters.remove(id)).await
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let mut replayed = 0;
        for id in matching(self, filter).await? {
            replayed += u64::from(self.replay(&id).await?);
        }
        Ok(replayed)
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let id = parse_id(self.inner(), id)?;
        with_dead_letters(self.inner(), move |letters| letters.remove(id)).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let mut discarded = 0;
        for id in matching(self, filter).await? {
            discarded += u64::from(self.discard(&id).await?);
        }
        Ok(discarded)
    }
}

/// Returns the ids of the dead letters that match; passes torn ones over.
async fn matching(queue: &FileQueue, filter: &DeadLetterFilter) -> Result<Vec<MessageId>, DeadLetterError> {
    let filter = filter.clone();
    with_dead_letters(queue.inner(), move |letters| {
        let mut matching = Vec::new();
        for id in letters.list_ids()? {
            let found = letters.load_intact(id)?.filter(|found| filter.matches(found));
            matching.extend(found.map(|dead_letter| dead_letter.id));
        }
        Ok(matching)
    })
    .await
}

async fn with_dead_letters<T: Send + 'static>(
    queue: &Arc<QueueInner>,
    ask: impl FnOnce(&DeadLetterFiles) -> Result<T> + Send + 'static,
) -> Result<T, DeadLetterError> {
    if queue.consuming().is_closed() {
        return Err(DeadLetterError::ShutDown { destination: queue.name().clone() });
    }
    let answer = queue.blocking(move |queue| ask(queue.dead_letters())).await;
    answer.map_err(|error| dead_letter_error(queue, error))
}

fn dead_letter_error(queue: &QueueInner, error: FileQueueError) -> DeadLetterError {
    let destination = queue.name().clone();
    match error {
        FileQueueError::ShutDown => DeadLetterError::ShutDown { destination },
        error if error.is_retryable() => DeadLetterError::Unavailable { destination, source: error.into() },
        error => DeadLetterError::Refused { destination, source: error.into() },
    }
}

fn parse_id(queue: &QueueInner, id: &MessageId) -> Result<u64, DeadLetterError> {
    let invalid = |_| DeadLetterError::InvalidId { destination: queue.name().clone(), id: id.clone() };
    id.as_str().parse().map_err(invalid)
}
