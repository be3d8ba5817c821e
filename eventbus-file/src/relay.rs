//! Publishing for relays: at least once, in the order of the store.
//!
//! Invariant: a relay publishes a range, then records its end. If the worker dies between the two steps, the next relay
//! publishes the range again.

use std::sync::Arc;

use async_trait::async_trait;
use eventbus::{
    port::{EventBus as _, PublishError, RelayTarget},
    relay::{PublishRange, PublishedPosition, RangeOutcome},
    support::{check_range, check_records},
};
use uuid::Uuid;

use crate::{
    FileQueue,
    bus::{publish_error, publish_records},
    error::Result,
    inner::QueueInner,
};

#[async_trait]
impl RelayTarget for FileQueue {
    async fn publish_range(&self, store: Uuid, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        check_range(self.destination(), range)?;
        check_records(self.destination(), range.events)?;
        let queue = self.inner();
        loop {
            let Some((number, last)) = blocking_for_relay(queue, move |queue| queue.relays().load_last(store)).await?
            else {
                return Ok(RangeOutcome::Lost);
            };
            if last.published_position() != range.after {
                return Ok(RangeOutcome::Moved(last.published_position()));
            }
            let ids = publish_records(queue, range.events.to_vec()).await?;
            let end = range.end();
            if blocking_for_relay(queue, move |queue| queue.relays().create(number + 1, store, end)).await? {
                return Ok(RangeOutcome::Published(ids));
            }
            // a second relay was faster: its record tells the outcome
        }
    }

    async fn published_position(&self, store: Uuid) -> Result<Option<PublishedPosition>, PublishError> {
        let last = blocking_for_relay(self.inner(), move |queue| queue.relays().load_last(store)).await?;
        Ok(last.map(|(_, last)| last.published_position()))
    }

    async fn set_position(
        &self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> Result<PublishedPosition, PublishError> {
        blocking_for_relay(self.inner(), move |queue| {
            loop {
                let last = queue.relays().load_last(store)?;
                let (number, record) =
                    last.map_or((0, None), |(number, last)| (number, Some(last.published_position())));
                if let Some(record) = record
                    && Some(record) != from
                {
                    return Ok(record);
                }
                if queue.relays().create(number + 1, store, to)? {
                    return Ok(to);
                }
            }
        })
        .await
    }

    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        blocking_for_relay(self.inner(), move |queue| match queue.relays().load_last(own)? {
            Some(_) => Ok(None),
            None => queue.relays().find_other_store(own),
        })
        .await
    }
}

/// Runs `ask` on a thread that may block on the file system; refuses after the shutdown.
async fn blocking_for_relay<T: Send + 'static>(
    queue: &Arc<QueueInner>,
    ask: impl FnOnce(&QueueInner) -> Result<T> + Send + 'static,
) -> Result<T, PublishError> {
    if queue.consuming().is_closed() {
        return Err(PublishError::ShutDown { destination: queue.name().clone() });
    }
    queue.blocking(ask).await.map_err(|error| publish_error(queue.name(), error.into()))
}
