//! Publishing for relays: the store's events in the log show how far the store is published.
//!
//! Invariant: a relay links an event only to the id that directly follows all ids that it has read, none of them
//! missing. So the relay that links it has read all events published before, and of two relays one links it, however
//! long either was delayed. Setting the published position back uses an id in the same way.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use eventbus::{
    port::{EventBus as _, PublishError, RelayTarget},
    relay::{PublishRange, PublishedPosition, RangeOutcome},
    support::{check_range, check_records},
};
use uuid::Uuid;

use crate::{
    FileQueue,
    bus::publish_error,
    error::Result,
    event,
    inner::QueueInner,
    poll_backoff::PollBackoff,
    publish::{self, PublishFailure},
    relay_log::{PendingRange, RelayStep},
};

#[async_trait]
impl RelayTarget for FileQueue {
    async fn publish_range(&self, store: Uuid, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        check_range(self.destination(), range)?;
        check_records(self.destination(), range.events)?;
        let positions = range.events.iter().map(|event| (event.position(), event.metadata().event_id()));
        let unpublished = positions.filter_map(|(position, event_id)| Some((position?.get(), event_id))).collect();
        let (position, through) = (range.after.position.get(), range.through.get());
        let mut pending =
            PendingRange { store, position, through, unpublished, staged: VecDeque::new(), ids: Vec::new() };
        if !range.events.is_empty() {
            if let Some(refusal) =
                blocking_for_relay(self.inner(), move |queue| queue.relays().early_refusal(store, position)).await?
            {
                return Ok(refusal);
            }
            let events = range.events.to_vec();
            pending.staged =
                blocking_for_relay(self.inner(), move |queue| queue.log().stage(&events, event::now(), Some(store)))
                    .await?;
        }
        publish_pending(self.inner(), pending).await
    }

    async fn published_position(&self, store: Uuid) -> Result<Option<PublishedPosition>, PublishError> {
        let relayed = blocking_for_relay(self.inner(), move |queue| queue.relays().load_relay_state(store)).await?;
        Ok(relayed.map(|relayed| relayed.record.published_position()))
    }

    async fn set_position(
        &self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> Result<PublishedPosition, PublishError> {
        let mut poll_backoff = PollBackoff::new(self.inner());
        loop {
            match blocking_for_relay(self.inner(), move |queue| queue.relays().set_position(store, from, to)).await? {
                RelayStep::Done(position) => return Ok(position),
                RelayStep::Retry => {}
                RelayStep::WaitForGap => poll_backoff.wait().await,
            }
        }
    }

    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        blocking_for_relay(self.inner(), move |queue| queue.relays().other_store(own)).await
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

async fn publish_pending(queue: &Arc<QueueInner>, mut pending: PendingRange) -> Result<RangeOutcome, PublishError> {
    let unknown = |error| publish_error(queue.name(), PublishFailure { is_partial: true, error });
    let (mut poll_backoff, mut notified) = (PollBackoff::new(queue), 0);
    loop {
        let send = move |queue: &QueueInner| {
            let sent = queue.relays().try_publish(&mut pending);
            // no further step links the staged events: removed on this thread, which may block
            if !matches!(sent, Ok(RelayStep::Retry | RelayStep::WaitForGap)) {
                pending.staged.clear();
            }
            Ok((sent, pending))
        };
        let (sent, rest) = queue.blocking(send).await.map_err(unknown)?;
        pending = rest;
        // announce the linked events, even if the rest fails
        publish::notify_published(queue, &pending.ids[notified..]).await;
        queue.counters().events_published((pending.ids.len() - notified) as u64);
        notified = pending.ids.len();
        match sent.map_err(unknown)? {
            RelayStep::Done(outcome) => return Ok(outcome),
            RelayStep::Retry => {}
            RelayStep::WaitForGap => poll_backoff.wait().await,
        }
    }
}
