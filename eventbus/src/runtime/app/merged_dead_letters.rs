//! The dead letters of several buses as one list.

use std::sync::Arc;

use async_trait::async_trait;

use crate::port::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, EventBus, MessageId};

/// The dead letters of several buses, those of the first bus first. Each kind of bus has ids of its own form.
#[derive(Clone, derive_more::Debug)]
#[debug("MergedDeadLetters({} buses)", _0.len())]
pub struct MergedDeadLetters(Vec<Arc<dyn EventBus>>);

impl MergedDeadLetters {
    /// Merges the dead letters of the buses that keep any.
    #[must_use]
    pub fn new(buses: impl IntoIterator<Item = Arc<dyn EventBus>>) -> Self {
        Self(buses.into_iter().collect())
    }

    fn each(&self) -> impl Iterator<Item = &dyn DeadLetters> {
        self.0.iter().filter_map(|bus| bus.dead_letters())
    }

    /// Ends the dead letter on the bus that has it.
    async fn end(&self, id: &MessageId, is_replay: bool) -> Result<bool, DeadLetterError> {
        let (mut invalid, mut is_valid) = (None, false);
        for dead_letters in self.each() {
            let ended = match is_replay {
                true => dead_letters.replay(id).await,
                false => dead_letters.discard(id).await,
            };
            match ended {
                Ok(true) => return Ok(true),
                Ok(false) => is_valid = true,
                Err(error @ DeadLetterError::InvalidId { .. }) => invalid = invalid.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        invalid.filter(|_| !is_valid).map_or(Ok(false), Err)
    }
}

#[async_trait]
impl DeadLetters for MergedDeadLetters {
    async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let (mut after, limit, mut found) = (after.cloned(), limit.max(1), Vec::new());
        let mut buses = self.each().peekable();
        while let Some(dead_letters) = buses.next() {
            let page = dead_letters.list_dead_letters(filter, after.as_ref(), limit - found.len()).await;
            let page = match page {
                // the former page ended on a later bus
                Err(DeadLetterError::InvalidId { .. }) if buses.peek().is_some() => continue,
                page => page?,
            };
            found.extend(page.letters);
            let is_full = found.len() >= limit && buses.peek().is_some();
            let last = || found.last().filter(|_| is_full).map(|last: &DeadLetter| last.id.clone());
            if let Some(next) = page.next.or_else(last) {
                return Ok(DeadLetterPage::new(found, Some(next)));
            }
            after = None;
        }
        Ok(DeadLetterPage::new(found, None))
    }

    async fn find_dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let (mut invalid, mut is_valid) = (None, false);
        for dead_letters in self.each() {
            match dead_letters.find_dead_letter(id).await {
                Ok(Some(dead_letter)) => return Ok(Some(dead_letter)),
                Ok(None) => is_valid = true,
                Err(error @ DeadLetterError::InvalidId { .. }) => invalid = invalid.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        invalid.filter(|_| !is_valid).map_or(Ok(None), Err)
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end(id, true).await
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let mut replayed = 0;
        for dead_letters in self.each() {
            replayed += dead_letters.replay_all(filter).await?;
        }
        Ok(replayed)
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end(id, false).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let mut discarded = 0;
        for dead_letters in self.each() {
            discarded += dead_letters.discard_all(filter).await?;
        }
        Ok(discarded)
    }
}
