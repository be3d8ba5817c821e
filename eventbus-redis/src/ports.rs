//! The optional ports of the bus: each method calls a function of the module for its subject.

use async_trait::async_trait;
use eventbus::{
    port::{
        DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, MessageId, PublishError,
        RelayTarget,
    },
    relay::{PublishRange, PublishedPosition, RangeOutcome},
};
use uuid::Uuid;

use crate::{
    RedisEventBus,
    dead_letters::{self, DeadLetterAction},
    relay,
};

#[async_trait]
impl RelayTarget for RedisEventBus {
    async fn publish_range(&self, store: Uuid, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        relay::publish_range(self.inner(), store, range).await
    }

    async fn published_position(&self, store: Uuid) -> Result<Option<PublishedPosition>, PublishError> {
        relay::published_position(self.inner(), store).await
    }

    async fn set_position(
        &self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> Result<PublishedPosition, PublishError> {
        relay::set_position(self.inner(), store, from, to).await
    }

    async fn published_before(
        &self,
        store: Uuid,
        before: Option<&MessageId>,
    ) -> Result<Vec<(MessageId, PublishedPosition)>, PublishError> {
        relay::published_before(self.inner(), store, before).await
    }

    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        relay::other_store(self.inner(), own).await
    }
}

#[async_trait]
impl DeadLetters for RedisEventBus {
    async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        dead_letters::load_page(self.inner(), filter, after, limit).await
    }

    async fn find_dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        dead_letters::load(self.inner(), id).await
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        dead_letters::replay(self.inner(), id).await
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        dead_letters::end_all(self.inner(), filter, DeadLetterAction::Replay).await
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        dead_letters::discard(self.inner(), id).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        dead_letters::end_all(self.inner(), filter, DeadLetterAction::Discard).await
    }
}
