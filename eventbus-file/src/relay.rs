//! Publishing for relays: at least once, in the order of the store.
//!
//! Invariant: a relay publishes a range, then records its end. If the worker dies between the two steps, the next relay
//! publishes the range again.

use std::sync::Arc;

use async_trait::async_trait;
use eventbus::{
    Name, Position,
    port::{EventBus as _, PublishError, RelayTarget},
    relay::{
        GroupFloor, GroupFloors, PublishRange, PublishedPosition, Publisher, RangeOutcome, ResyncOutcome, ResyncRequest,
    },
    support::{check_range, check_records},
};

use crate::{
    FileQueue,
    bus::{publish_error, publish_records},
    error::Result,
    inner::QueueInner,
    relay_records::RelayRecord,
};

#[async_trait]
impl RelayTarget for FileQueue {
    async fn publish_range(&self, publisher: Publisher, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        check_range(self.destination(), range)?;
        check_records(self.destination(), range.events)?;
        let (queue, through) = (self.inner(), range.through);
        loop {
            let Some((number, last)) =
                blocking_for_relay(queue, move |queue| queue.relays().load_last(publisher.store)).await?
            else {
                return Ok(RangeOutcome::Lost);
            };
            if publisher.epoch < last.epoch {
                return Ok(RangeOutcome::Fenced);
            }
            if last.position != range.after.get() {
                return Ok(RangeOutcome::Moved(last.position.into()));
            }
            if range.after == through && last.epoch == publisher.epoch {
                return Ok(RangeOutcome::Published(Vec::new()));
            }
            let ids = publish_records(queue, range.events.to_vec()).await?;
            let newest = range.events.last().filter(|event| event.position() == Some(through));
            let newest = newest.map(|event| event.metadata().event_id());
            let event_id = if range.after == through { last.event_id } else { newest };
            let record =
                move |queue: &QueueInner| queue.relays().create(number + 1, publisher, through.get(), event_id);
            if blocking_for_relay(queue, record).await? {
                return Ok(RangeOutcome::Published(ids));
            }
            // a second relay was faster: its record tells the outcome
        }
    }

    async fn resync(&self, publisher: Publisher, request: ResyncRequest<'_>) -> Result<ResyncOutcome, PublishError> {
        let (floor, is_shared) = (request.floor, request.is_shared);
        blocking_for_relay(self.inner(), move |queue| {
            loop {
                if let Some((_, last)) = queue.relays().load_last(publisher.store)? {
                    return Ok(match publisher.epoch < last.epoch {
                        true => ResyncOutcome::Fenced,
                        false => ResyncOutcome::Moved(last.position.into()),
                    });
                }
                if !is_shared && let Some(other) = queue.relays().find_other_store(publisher.store)? {
                    return Ok(ResyncOutcome::OtherStore(other));
                }
                if queue.relays().create(1, publisher, floor.get(), None)? {
                    return Ok(ResyncOutcome::At(floor));
                }
            }
        })
        .await
    }

    async fn published_positions(&self, publisher: Publisher) -> Result<Vec<PublishedPosition>, PublishError> {
        let last = blocking_for_relay(self.inner(), move |queue| queue.relays().load_last(publisher.store)).await?;
        Ok(last.map(|(_, last)| last.published_position()).into_iter().collect())
    }

    /// Returns the published position for each known group: the queue has no groups, and keeps all that is published
    /// until it has a result.
    async fn group_floors(&self, publisher: Publisher, known: &[Name]) -> Result<GroupFloors, PublishError> {
        let last = blocking_for_relay(self.inner(), move |queue| queue.relays().load_last(publisher.store)).await?;
        let floors = |last: RelayRecord| {
            known.iter().map(|group| (group.clone(), GroupFloor::At(last.position.into()))).collect()
        };
        Ok(last.map_or(GroupFloors::Lost, |(_, last)| GroupFloors::Groups(floors(last))))
    }

    async fn rewind(&self, publisher: Publisher, to: Position) -> Result<ResyncOutcome, PublishError> {
        blocking_for_relay(self.inner(), move |queue| {
            loop {
                let Some((number, last)) = queue.relays().load_last(publisher.store)? else {
                    // no record to rewind: the next range gets `Lost`, and the relay resyncs
                    return Ok(ResyncOutcome::Moved(to));
                };
                if publisher.epoch < last.epoch {
                    return Ok(ResyncOutcome::Fenced);
                }
                if to.get() >= last.position {
                    return Ok(ResyncOutcome::Moved(last.position.into()));
                }
                if queue.relays().create(number + 1, publisher, to.get(), None)? {
                    return Ok(ResyncOutcome::At(to));
                }
            }
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
