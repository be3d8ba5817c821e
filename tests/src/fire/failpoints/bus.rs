//! A bus that ends the process at calls of the relay.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use eventbus::{
    Uuid,
    port::{EventBus, MessageId, PublishError, RelayTarget},
    relay::{PublishRange, PublishedPosition, RangeOutcome},
    testkit::delegate,
};

use super::FailPoints;

/// A bus that ends the process at calls of the relay.
#[derive(Clone)]
pub struct FailPointBus {
    bus: Arc<dyn EventBus>,
    fail_points: FailPoints,
}

impl FailPointBus {
    /// Wraps a bus.
    pub fn new(bus: impl EventBus, fail_points: FailPoints) -> Self {
        Self { bus: Arc::new(bus), fail_points }
    }

    fn target(&self) -> Result<&dyn RelayTarget, PublishError> {
        self.bus.relay_target().ok_or_else(|| PublishError::Refused {
            destination: self.bus.destination().clone(),
            event_id: None,
            source: "the bus keeps no positions".into(),
        })
    }
}

impl fmt::Debug for FailPointBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailPointBus").field("fail_points", &self.fail_points).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RelayTarget for FailPointBus {
    async fn publish_range(&self, store: Uuid, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        self.fail_points.around("publish", self.target()?.publish_range(store, range)).await
    }

    async fn published_position(&self, store: Uuid) -> Result<Option<PublishedPosition>, PublishError> {
        self.target()?.published_position(store).await
    }

    async fn set_position(
        &self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> Result<PublishedPosition, PublishError> {
        self.fail_points.around("begin", self.target()?.set_position(store, from, to)).await
    }

    fn outlives_process(&self) -> bool {
        self.bus.relay_target().is_none_or(RelayTarget::outlives_process)
    }

    async fn published_before(
        &self,
        store: Uuid,
        before: Option<&MessageId>,
    ) -> Result<Vec<(MessageId, PublishedPosition)>, PublishError> {
        self.target()?.published_before(store, before).await
    }

    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        self.target()?.other_store(own).await
    }
}

delegate!(FailPointBus, self => self.bus; EventBus {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.fail_points.around("publish", self.bus.publish(events)).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        self.bus.relay_target().is_some().then_some(self)
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        self.bus.dead_letters()
    }
});
