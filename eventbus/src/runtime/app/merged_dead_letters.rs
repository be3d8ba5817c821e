//! The dead letters of several buses as one list.

use std::sync::Arc;

use async_trait::async_trait;

use crate::port::{
    BoxFuture, DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, EventBus, MessageId,
};

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

    /// Searches each bus, until one has the dead letter. A bus that takes the id for none of its own counts only if all do.
    async fn find_in_each<'a, T>(
        &'a self,
        find: impl Fn(&'a dyn DeadLetters) -> BoxFuture<'a, Result<Option<T>, DeadLetterError>>,
    ) -> Result<Option<T>, DeadLetterError> {
        let (mut invalid, mut is_valid) = (None, false);
        for dead_letters in self.each() {
            match find(dead_letters).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => is_valid = true,
                Err(error @ DeadLetterError::InvalidId { .. }) => invalid = invalid.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        invalid.filter(|_| !is_valid).map_or(Ok(None), Err)
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
        self.find_in_each(|dead_letters| dead_letters.find_dead_letter(id)).await
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let ended =
            self.find_in_each(|dead_letters| Box::pin(async move { Ok(dead_letters.replay(id).await?.then_some(())) }));
        Ok(ended.await?.is_some())
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let mut replayed = 0;
        for dead_letters in self.each() {
            replayed += dead_letters.replay_all(filter).await?;
        }
        Ok(replayed)
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        let ended = self
            .find_in_each(|dead_letters| Box::pin(async move { Ok(dead_letters.discard(id).await?.then_some(())) }));
        Ok(ended.await?.is_some())
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        let mut discarded = 0;
        for dead_letters in self.each() {
            discarded += dead_letters.discard_all(filter).await?;
        }
        Ok(discarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::name::Name, memory::InMemoryEventBus, testkit::delegate};

    /// A bus without dead letters, whose ids begin with its name.
    struct Named(&'static str, InMemoryEventBus);

    delegate!(Named, self => self.1; EventBus {
        async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
            self.1.publish(events).await
        }

        fn relay_target(&self) -> Option<&dyn RelayTarget> {
            None
        }

        fn dead_letters(&self) -> Option<&dyn DeadLetters> {
            Some(self)
        }
    });

    impl Named {
        fn check(&self, id: &MessageId) -> Result<(), DeadLetterError> {
            let destination = Name::from_static(self.0);
            let invalid = || DeadLetterError::InvalidId { destination, id: id.clone() };
            id.as_str().starts_with(self.0).then_some(()).ok_or_else(invalid)
        }
    }

    #[async_trait]
    impl DeadLetters for Named {
        async fn list_dead_letters(
            &self,
            _: &DeadLetterFilter,
            _: Option<&MessageId>,
            _: usize,
        ) -> Result<DeadLetterPage, DeadLetterError> {
            Ok(DeadLetterPage::new(Vec::new(), None))
        }

        async fn find_dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
            self.check(id).map(|()| None)
        }

        async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
            self.check(id).map(|()| false)
        }

        async fn replay_all(&self, _: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
            Ok(0)
        }

        async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
            self.check(id).map(|()| false)
        }

        async fn discard_all(&self, _: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
            Ok(0)
        }
    }

    #[tokio::test]
    async fn an_id_is_invalid_only_if_it_is_that_for_each_bus() {
        let named = |name| Arc::new(Named(name, InMemoryEventBus::new())) as Arc<dyn EventBus>;
        let merged = MergedDeadLetters::new([named("store"), named("stream")]);
        for known in ["store-1", "stream-1"].map(MessageId::new) {
            assert!(merged.find_dead_letter(&known).await.unwrap().is_none());
            assert!(!merged.replay(&known).await.unwrap() && !merged.discard(&known).await.unwrap());
        }
        let unknown = MessageId::new("7");
        let error = merged.find_dead_letter(&unknown).await.unwrap_err();
        assert!(matches!(&error, DeadLetterError::InvalidId { destination, .. } if destination == "store"), "{error}");
        merged.replay(&unknown).await.unwrap_err();
        merged.discard(&unknown).await.unwrap_err();
    }
}
