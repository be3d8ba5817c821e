//! The optional ports of the bus: each method calls a function of the module for its subject.

use std::sync::Arc;

use async_trait::async_trait;
use eventbus::{
    Name, Position, RecordedEvent,
    port::{
        BacklogFill, Backlogs, DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, EventStore,
        FillOutcome, MessageId, PublishError, RelayTarget,
    },
    relay::{GroupFloors, PublishRange, PublishedPosition, Publisher, RangeOutcome, ResyncOutcome, ResyncRequest},
};
use uuid::Uuid;

use crate::{
    RedisEventBus, backlog, dead_letter_copies,
    dead_letters::{self, DeadLetterAction},
    relay,
};

#[async_trait]
impl RelayTarget for RedisEventBus {
    async fn publish_range(&self, publisher: Publisher, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        relay::publish_range(self.inner(), publisher, range).await
    }

    async fn resync(&self, publisher: Publisher, request: ResyncRequest<'_>) -> Result<ResyncOutcome, PublishError> {
        relay::resync(self.inner(), publisher, request).await
    }

    async fn published_positions(&self, publisher: Publisher) -> Result<Vec<PublishedPosition>, PublishError> {
        relay::published_positions(self.inner(), publisher).await
    }

    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        relay::other_store(self.inner(), own).await
    }

    /// Beyond the `known` groups, returns groups that are listed, have a consumer or have read an entry; a group that
    /// no consumer ever joined has no progress. Leaves out a group whose name is no valid [`Name`].
    async fn group_floors(&self, publisher: Publisher, known: &[Name]) -> Result<GroupFloors, PublishError> {
        relay::group_floors(self.inner(), publisher, known).await
    }

    async fn rewind(&self, publisher: Publisher, to: Position) -> Result<ResyncOutcome, PublishError> {
        relay::rewind(self.inner(), publisher, to).await
    }
}

#[async_trait]
impl Backlogs for RedisEventBus {
    async fn fills(&self, store: Uuid) -> Result<Vec<BacklogFill>, PublishError> {
        backlog::list_fills(self.inner(), store).await
    }

    async fn fill(
        &self,
        fill: &BacklogFill,
        through: Position,
        events: &[RecordedEvent],
    ) -> Result<FillOutcome, PublishError> {
        backlog::fill(self.inner(), fill, through, events).await
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

    async fn copy_dead_letters(&self, store: Arc<dyn EventStore>) {
        if self.inner().config().enable_dlq && store.notes().is_some() {
            dead_letter_copies::run_copier(Arc::clone(self.inner()), store).await;
        }
    }
}
