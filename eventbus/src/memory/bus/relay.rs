//! The in-process bus as the target of a relay.

use std::collections::BTreeMap;

use async_trait::async_trait;
use uuid::Uuid;

use super::InMemoryEventBus;
use crate::port::{
    PublishError, RelayTarget,
    relay::{PublishRange, PublishedPosition, RangeOutcome},
};

/// The record of each store.
pub(super) type Records = BTreeMap<Uuid, PublishedPosition>;

#[async_trait]
impl RelayTarget for InMemoryEventBus {
    /// Waits while a group lags by the bus's capacity, as [`publish`](crate::bus::EventBus::publish) does.
    async fn publish_range(&self, store: Uuid, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        let mut records = self.inner.records().lock().await;
        match records.get(&store) {
            None => return Ok(RangeOutcome::Lost),
            Some(record) if *record != range.after => return Ok(RangeOutcome::Moved(*record)),
            Some(_) => {}
        }
        let ids = self.inner.publish(range.events).await?;
        records.insert(store, range.end());
        Ok(RangeOutcome::Published(ids))
    }

    async fn published_position(&self, store: Uuid) -> Result<Option<PublishedPosition>, PublishError> {
        Ok(self.inner.records().lock().await.get(&store).copied())
    }

    async fn set_position(
        &self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> Result<PublishedPosition, PublishError> {
        let mut records = self.inner.records().lock().await;
        if records.get(&store).copied() == from {
            records.insert(store, to);
        }
        Ok(records.get(&store).copied().unwrap_or(to))
    }

    fn outlives_process(&self) -> bool {
        false
    }

    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        let records = self.inner.records().lock().await;
        Ok(records.keys().next().copied().filter(|_| !records.contains_key(&own)))
    }
}
