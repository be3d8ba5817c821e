//! The dead letters of the queue as a bus.

use std::sync::Arc;

use async_trait::async_trait;
use eventbus::port::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, MessageId};

use crate::{
    FileQueue,
    coordination::{message_data, message_kind},
    dead_letter_files::{DeadLetterFiles, parse_stem},
    error::Result,
    inner::QueueInner,
};

#[async_trait]
impl DeadLetters for FileQueue {
    async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let after = after.map(|id| parse_id(self.inner(), id)).transpose()?;
        let filter = filter.clone();
        with_dead_letters(self.inner(), move |letters| letters.load_dead_letter_page(&filter, after.as_deref(), limit))
            .await
    }

    async fn find_dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let stem = parse_id(self.inner(), id)?;
        with_dead_letters(self.inner(), move |letters| letters.load_dead_letter(&stem)).await
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let Some(dead_letter) = self.find_dead_letter(id).await? else {
            return Ok(false);
        };
        if dead_letter.record.is_none() {
            return Err(DeadLetterError::Empty { destination: self.inner().name().clone(), id: id.clone() });
        }
        let stem = parse_id(self.inner(), id)?;
        let replayed = with_dead_letters(self.inner(), move |letters| letters.start_replay(&stem)).await?;
        notify_replayed(self.inner(), id.as_str()).await;
        Ok(replayed)
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let filter = filter.clone();
        let replay = |letters: &DeadLetterFiles, dead_letter: &DeadLetter| match dead_letter.record {
            Some(_) => letters.start_replay(dead_letter.id.as_str()),
            None => Ok(false),
        };
        let replayed =
            with_dead_letters(self.inner(), move |letters| letters.for_each_matching(&filter, replay)).await?;
        notify_replayed(self.inner(), "all").await;
        Ok(replayed)
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let stem = parse_id(self.inner(), id)?;
        with_dead_letters(self.inner(), move |letters| letters.remove_dead_letter(&stem)).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let filter = filter.clone();
        let discard =
            |letters: &DeadLetterFiles, dead_letter: &DeadLetter| letters.remove_dead_letter(dead_letter.id.as_str());
        with_dead_letters(self.inner(), move |letters| letters.for_each_matching(&filter, discard)).await
    }
}

async fn with_dead_letters<T: Send + 'static>(
    queue: &Arc<QueueInner>,
    ask: impl FnOnce(&DeadLetterFiles) -> Result<T> + Send + 'static,
) -> Result<T, DeadLetterError> {
    let destination = queue.name().clone();
    if queue.consuming().is_closed() {
        return Err(DeadLetterError::ShutDown { destination });
    }
    let answer = queue.blocking(move |queue| ask(queue.dead_letters())).await;
    answer.map_err(|error| match error.is_retryable() {
        true => DeadLetterError::Unavailable { destination, source: error.into() },
        false => DeadLetterError::Refused { destination, source: error.into() },
    })
}

/// Wakes the consumer of the group, here or in a different worker.
async fn notify_replayed(queue: &QueueInner, what: &str) {
    queue.change_signal().send_replace(());
    queue.coordination().broadcast(message_kind::REPLAY_EVENT, vec![message_data("dead_letter_id", what)]).await;
}

fn parse_id(queue: &QueueInner, id: &MessageId) -> Result<String, DeadLetterError> {
    let invalid = || DeadLetterError::InvalidId { destination: queue.name().clone(), id: id.clone() };
    parse_stem(id.as_str()).map(|_| id.as_str().into()).ok_or_else(invalid)
}
