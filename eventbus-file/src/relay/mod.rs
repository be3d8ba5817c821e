//! Publishing for relays: the store's events in the log show how far the store is published.
//!
//! Invariant: a relay links an event only to the id that directly follows all ids that it has read, none of them
//! missing. So the relay that links it has read all events published before, and of two relays one links it, however
//! long either was delayed. Setting the published position back uses an id in the same way.

mod floors;

use std::collections::VecDeque;

use async_trait::async_trait;
use eventbus::{
    EventId, Name, Position,
    port::{
        EventBus as _, GroupFloors, PublishError, PublishRange, PublishedPosition, Publisher, RangeOutcome,
        RelayTarget, ResyncOutcome, ResyncRequest, check_records,
    },
};

use crate::{
    FileQueue,
    bus::publish_error,
    disk::StagedFile,
    error::Result,
    event::{self, EventFile, RepublishFrom, message_id},
    inner::QueueInner,
    log::LinkOutcome,
    poll_backoff::PollBackoff,
    publish::PublishFailure,
    relay_log::RelayState,
};

/// An invalid range, or an event in it that cannot be published.
#[derive(Debug, thiserror::Error)]
enum Unpublishable {
    #[error("event {event_id} has no place in a store, so no relay can publish it")]
    NoPosition { event_id: EventId },
    #[error("event {event_id} at position {position} is not between {after} and {through}, in order")]
    OutOfOrder { event_id: EventId, position: Position, after: Position, through: Position },
    #[error("a range from {after} cannot end at {through}")]
    Backwards { after: Position, through: Position },
}

impl Unpublishable {
    const fn event_id(&self) -> Option<EventId> {
        match self {
            Self::NoPosition { event_id } | Self::OutOfOrder { event_id, .. } => Some(*event_id),
            Self::Backwards { .. } => None,
        }
    }
}

/// Outcome of one attempt.
enum RelayStep<T> {
    Done(T),
    /// The log or the record changed, perhaps by a second relay: repeat the attempt.
    Retry,
    /// An id is missing: wait for its publisher.
    WaitForGap,
}

/// A range that is being published.
struct PendingRange {
    publisher: Publisher,
    /// Published position of the store, unless a second relay publishes.
    position: u64,
    /// Published position of the store once this range is published.
    through: u64,
    /// Position and id of each event that is not published yet.
    unpublished: VecDeque<(u64, EventId)>,
    staged: VecDeque<StagedFile>,
    /// The ids of the events that were linked.
    ids: Vec<u64>,
}

#[async_trait]
impl RelayTarget for FileQueue {
    async fn publish_range(&self, publisher: Publisher, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        let unpublished = range_positions(range).map_err(|error| {
            let (destination, event_id) = (self.destination().clone(), error.event_id());
            PublishError::Refused { destination, event_id, source: error.into() }
        })?;
        check_records(self.destination(), range.events)?;
        let (position, through) = (range.after.get(), range.through.get());
        let mut pending =
            PendingRange { publisher, position, through, unpublished, staged: VecDeque::new(), ids: Vec::new() };
        if !range.events.is_empty() {
            if let Some(refusal) =
                self.blocking_for_relay(move |queue| queue.early_refusal(publisher, position)).await?
            {
                return Ok(refusal);
            }
            let (events, store) = (range.events.to_vec(), Some(publisher.store));
            pending.staged =
                self.blocking_for_relay(move |queue| queue.log.stage(&events, event::now(), store)).await?;
        }
        self.publish_pending(pending).await
    }

    async fn resync(&self, publisher: Publisher, request: ResyncRequest<'_>) -> Result<ResyncOutcome, PublishError> {
        let (floor, shared_too, groups) = (request.floor, request.is_shared, request.groups.to_vec());
        self.blocking_for_relay(move |queue| queue.resync_store(publisher, floor, shared_too, &groups)).await
    }

    async fn published_positions(&self, publisher: Publisher) -> Result<Vec<PublishedPosition>, PublishError> {
        let relayed = self.blocking_for_relay(move |queue| queue.relays.load_relay_state(publisher.store)).await?;
        Ok(relayed.map(|relayed| relayed.record.published_position()).into_iter().collect())
    }

    /// Reports no gaps: an event that is removed before a group has finished it was removed on purpose, by
    /// [`RemovalCondition::Result`].
    ///
    /// [`RemovalCondition::Result`]: crate::RemovalCondition::Result
    async fn group_floors(&self, publisher: Publisher, known: &[Name]) -> Result<GroupFloors, PublishError> {
        let known = known.to_vec();
        self.blocking_for_relay(move |queue| queue.group_floors(publisher, known)).await
    }

    async fn rewind(&self, publisher: Publisher, to: Position) -> Result<ResyncOutcome, PublishError> {
        let mut poll_backoff = PollBackoff::new(&self.inner);
        loop {
            match self.blocking_for_relay(move |queue| queue.rewind_store(publisher, to.get())).await? {
                RelayStep::Done(outcome) => return Ok(outcome),
                RelayStep::Retry => {}
                RelayStep::WaitForGap => poll_backoff.wait().await,
            }
        }
    }
}

/// Returns the positions of the events of a range, which must be in order.
fn range_positions(range: PublishRange<'_>) -> Result<VecDeque<(u64, EventId)>, Unpublishable> {
    let PublishRange { mut after, through, events } = range;
    let mut positions = VecDeque::with_capacity(events.len());
    for event in events {
        let event_id = event.metadata().event_id();
        let position = event.position().ok_or(Unpublishable::NoPosition { event_id })?;
        if position <= after || position > through {
            return Err(Unpublishable::OutOfOrder { event_id, position, after, through });
        }
        positions.push_back((position.get(), event_id));
        after = position;
    }
    match after <= through {
        true => Ok(positions),
        false => Err(Unpublishable::Backwards { after: range.after, through }),
    }
}

impl FileQueue {
    /// Runs `ask` on a thread that may block on the file system; refuses after the shutdown.
    async fn blocking_for_relay<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&QueueInner) -> Result<T> + Send + 'static,
    ) -> Result<T, PublishError> {
        if self.inner.consuming.is_closed() {
            return Err(PublishError::ShutDown { destination: self.destination().clone() });
        }
        self.inner.blocking(ask).await.map_err(|error| publish_error(self.destination(), error.into()))
    }

    async fn publish_pending(&self, mut pending: PendingRange) -> Result<RangeOutcome, PublishError> {
        let unknown = |error| publish_error(self.destination(), PublishFailure { is_partial: true, error });
        let (mut poll_backoff, mut notified) = (PollBackoff::new(&self.inner), 0);
        loop {
            let send = move |queue: &QueueInner| {
                let sent = queue.try_publish(&mut pending);
                if let Ok(RelayStep::Done(_)) = &sent {
                    queue.log.discard_staged(&mut pending.staged);
                }
                Ok((sent, pending))
            };
            let (sent, rest) = self.inner.blocking(send).await.map_err(unknown)?;
            pending = rest;
            // announce the linked events, even if the rest fails
            self.inner.notify_published(&pending.ids[notified..]).await;
            self.inner.counters.events_published((pending.ids.len() - notified) as u64);
            notified = pending.ids.len();
            match sent.map_err(unknown)? {
                RelayStep::Done(outcome) => return Ok(outcome),
                RelayStep::Retry => {}
                RelayStep::WaitForGap => poll_backoff.wait().await,
            }
        }
    }
}

impl QueueInner {
    /// Returns the refusal of a range if it is certain already, so that the relay stages no events in vain.
    fn early_refusal(&self, publisher: Publisher, position: u64) -> Result<Option<RangeOutcome>> {
        Ok(match self.relays.load_relay_state(publisher.store)? {
            Some(relayed) if relayed.has_missing_id => None,
            Some(relayed) => refusal(&relayed, publisher, position),
            None => Some(RangeOutcome::Lost),
        })
    }

    fn try_publish(&self, pending: &mut PendingRange) -> Result<RelayStep<RangeOutcome>> {
        let publisher = pending.publisher;
        let Some(mut relayed) = self.relays.load_relay_state(publisher.store)? else {
            return Ok(RelayStep::Done(RangeOutcome::Lost));
        };
        if relayed.has_missing_id {
            return self.fill_missing_or_wait(&relayed);
        }
        if let Some(refusal) = refusal(&relayed, publisher, pending.position) {
            return Ok(RelayStep::Done(refusal));
        }
        if pending.unpublished.is_empty() {
            if relayed.record.position < pending.through {
                // the range ends after its last event, and no event file shows that: only a record does
                let now = &mut relayed.record;
                (now.epoch, now.position, now.event_id) = (publisher.epoch, pending.through, None);
                if !self.relays.write_record(&mut relayed)? {
                    return Ok(RelayStep::Retry);
                }
            }
            self.relays.remember(&mut relayed)?;
            let ids = pending.ids.iter().map(|id| message_id(*id)).collect();
            return Ok(RelayStep::Done(RangeOutcome::Published(ids)));
        }
        if publisher.epoch > relayed.record.epoch {
            relayed.record.epoch = publisher.epoch;
            if !self.relays.write_record(&mut relayed)? {
                return Ok(RelayStep::Retry);
            }
        }
        let LinkOutcome { ids, error } = self.log.link_after(&mut pending.staged, relayed.record.through)?;
        for (id, (position, event_id)) in ids.iter().zip(pending.unpublished.drain(..ids.len())) {
            relayed.record.set_published(*id, position, event_id);
            pending.position = position;
        }
        pending.ids.extend(ids);
        if let Some(error) = error {
            return Err(error);
        }
        self.relays.remember(&mut relayed)?;
        Ok(RelayStep::Retry)
    }

    /// Fills the first missing id if its publisher is overdue; waits for it otherwise.
    fn fill_missing_or_wait<T>(&self, relayed: &RelayState) -> Result<RelayStep<T>> {
        let is_filled = self.log.fill_overdue_gap(relayed.record.through + 1)?;
        Ok(if is_filled { RelayStep::Retry } else { RelayStep::WaitForGap })
    }

    fn resync_store(
        &self,
        publisher: Publisher,
        floor: Position,
        is_shared: bool,
        groups: &[Name],
    ) -> Result<ResyncOutcome> {
        let Publisher { store, epoch } = publisher;
        loop {
            if let Some(relayed) = self.relays.load_relay_state(store)? {
                let is_fenced = epoch < relayed.record.epoch;
                return Ok(if is_fenced {
                    ResyncOutcome::Fenced
                } else {
                    ResyncOutcome::Moved(relayed.record.position.into())
                });
            }
            if !is_shared
                && let Some(other) = self.relays.list_relayed_stores()?.into_iter().find(|other| *other != store)
            {
                return Ok(ResyncOutcome::OtherStore(other));
            }
            groups.iter().try_for_each(|group| self.groups.make_group(group))?;
            if self.relays.create_first_record(store, epoch, floor.get())? {
                return Ok(ResyncOutcome::At(floor));
            }
        }
    }

    fn rewind_store(&self, publisher: Publisher, to: u64) -> Result<RelayStep<ResyncOutcome>> {
        let Publisher { store, epoch } = publisher;
        let Some(relayed) = self.relays.load_relay_state(store)? else {
            return Ok(RelayStep::Done(ResyncOutcome::Moved(to.into()))); // the next range is answered with `Lost`
        };
        if epoch < relayed.record.epoch {
            return Ok(RelayStep::Done(ResyncOutcome::Fenced));
        }
        if to >= relayed.record.position {
            return Ok(RelayStep::Done(ResyncOutcome::Moved(relayed.record.position.into())));
        }
        if relayed.has_missing_id {
            return self.fill_missing_or_wait(&relayed);
        }
        let gap = EventFile::for_gap(&self.worker_id, "the relay of a store publishes again what it published before");
        let gap = EventFile { store: Some(store), again: Some(RepublishFrom { after: to, epoch }), ..gap };
        let mut staged = VecDeque::from([self.disk.stage(&event::to_pretty_json("the gap", &gap)?)?]);
        let LinkOutcome { ids, error } = self.log.link_after(&mut staged, relayed.record.through)?;
        match error {
            Some(error) => Err(error),
            None if ids.is_empty() => Ok(RelayStep::Retry),
            None => Ok(RelayStep::Done(ResyncOutcome::At(to.into()))),
        }
    }
}

/// Returns the refusal of a relay that would publish after a position; `None` if it may.
fn refusal(relayed: &RelayState, publisher: Publisher, position: u64) -> Option<RangeOutcome> {
    let record = &relayed.record;
    if publisher.epoch < record.epoch {
        return Some(RangeOutcome::Fenced);
    }
    (record.position != position).then(|| RangeOutcome::Moved(record.position.into()))
}
