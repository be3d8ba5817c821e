//! Publishing to a bus that keeps no position beside its events.
//!
//! Invariant: publish, then move the position. A crash between the two repeats events; the other order would lose them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    RelayError,
    error::relay_error_of_publish,
    leadership::{FeedPublisher, LEASE_CHECK_INTERVAL, PublishEnd, PublishStep, STOPPED_RETRY_INTERVAL, publish_until},
    range::{FeedRange, RangeReader},
    restore_watch::{RestoreWatch, holds_event},
    status::RelayStatusCell,
};
use crate::{
    domain::{error::BoxError, metadata::EventId, name::Name, stream::Position},
    port::{CheckpointError, EventBus, EventStore, MessageId},
    runtime::feed_head::FeedHead,
    support::{is_beyond_end, relay_to, spans},
};

/// Publishes to a bus that keeps no position: the store keeps it for a durable bus. Any other bus lives as long as the
/// process, and so does its position.
pub(super) struct AtLeastOncePublisher<'a> {
    store: &'a dyn EventStore,
    bus: &'a dyn EventBus,
    status: &'a RelayStatusCell,
    reader: RangeReader<'a>,
    /// The checkpoint in the store, for a durable bus.
    checkpoint: Option<Name>,
    is_position_loaded: bool,
    /// The last event that it published.
    last_event: Option<(Position, EventId)>,
    restore_watch: RestoreWatch,
    /// The range that is published, with its messages, and whose position is not saved yet.
    unsaved: Option<(FeedRange, Vec<MessageId>)>,
}

impl<'a> AtLeastOncePublisher<'a> {
    pub(super) fn new(store: &'a dyn EventStore, bus: &'a dyn EventBus, status: &'a RelayStatusCell) -> Self {
        let checkpoint = bus.is_durable().then(|| relay_to(bus.destination()));
        let reader = RangeReader::new(store, bus.destination(), status.clock());
        Self {
            store,
            bus,
            status,
            reader,
            checkpoint,
            is_position_loaded: false,
            last_event: None,
            restore_watch: RestoreWatch::new(store),
            unsaved: None,
        }
    }

    /// Publishes without a lease, until cancelled.
    pub(super) async fn run(mut self, feed_head: &FeedHead, gather: Duration, cancel: &CancellationToken) {
        let status = self.status;
        while let PublishEnd::Stopped(error) = publish_until(cancel, &mut self, feed_head, status, gather).await {
            status.set_stopped(error);
            self.wait_while_stopped(cancel).await;
        }
    }

    /// Sleeps until a retry can succeed: an operator has changed the skipped events, or [`STOPPED_RETRY_INTERVAL`] has
    /// passed.
    async fn wait_while_stopped(&mut self, cancel: &CancellationToken) {
        let clock = self.status.clock();
        let since = clock.instant();
        while !cancel.is_cancelled() && clock.elapsed(since) < STOPPED_RETRY_INTERVAL {
            cancel.run_until_cancelled(clock.sleep(LEASE_CHECK_INTERVAL)).await;
            // if the store cannot be reached, the next round asks it
            if matches!(self.reader.have_skips_changed().await, Ok(true)) {
                return;
            }
        }
    }

    /// Publishes the next range; its position is still [unsaved](Self::unsaved).
    async fn publish_next_range(&mut self) -> Result<PublishStep, BoxError> {
        let mut range = self.reader.read_next(self.status.position(), self.restore_watch.head()).await?;
        self.restore_watch.note_restores(self.store);
        if self.restore_watch.is_check_due() {
            // the range may be from the older copy: the next step checks the store, and reads again
            return Ok(PublishStep::Published);
        }
        if range.events.is_empty() && !range.moves_position() {
            return Ok(PublishStep::CaughtUp);
        }
        while !range.events.is_empty() {
            let span = spans::relay(self.bus.destination(), &range.events);
            let published = self.bus.publish_feed(&range.events).instrument(span.clone()).await;
            let error = match published.inspect_err(|_| spans::record_error(&span, "publish_failed")) {
                Ok(ids) => {
                    self.last_event =
                        range.events.last().and_then(|last| Some((last.position()?, last.metadata().event_id())));
                    self.unsaved = Some((range, ids));
                    return Ok(PublishStep::Published);
                }
                Err(error) => relay_error_of_publish(error, &range.events)?,
            };
            if !matches!(error, RelayError::EventRefused { position, .. } if range.truncate_before(position)) {
                return Ok(PublishStep::Stopped(error));
            }
        }
        // a range of skipped events only moves the position
        self.unsaved = Some((range, Vec::new()));
        Ok(PublishStep::Published)
    }

    /// Returns the error that stops the relay if the store lacks the event that was published last.
    async fn check_store(&mut self) -> Result<Option<RelayError>, BoxError> {
        let newest = self.restore_watch.head();
        let published = self.last_event.map_or_else(|| self.status.position(), |(position, _)| position);
        let has_lost = match self.last_event {
            Some((_, event_id)) => !holds_event(self.store, published, event_id).await?,
            None => published > newest && is_beyond_end(self.store, published).await?,
        };
        // events that were read before the check may be of the former copy
        self.reader.close_feed();
        if has_lost {
            let destination = self.bus.destination().clone();
            return Ok(Some(RelayError::StoreLostEvents { destination, published, newest }));
        }
        self.restore_watch.mark_checked();
        Ok(None)
    }

    /// Saves the position of the range that was published last.
    async fn save_position(&mut self) -> Result<(), CheckpointError> {
        if let (Some(checkpoint), Some((range, _))) = (&self.checkpoint, &self.unsaved) {
            self.store.save_checkpoint(checkpoint, range.through).await?;
        }
        if let Some((range, ids)) = self.unsaved.take() {
            self.status.record_published(&range, ids);
        }
        Ok(())
    }
}

impl FeedPublisher for AtLeastOncePublisher<'_> {
    const SAVES_CHECKPOINT: bool = true;
    const IDLE_INTERVAL: Option<Duration> = None;

    fn note_failure(&mut self) {
        self.restore_watch.note_failure();
    }

    async fn step(&mut self, head: Position) -> Result<PublishStep, BoxError> {
        self.restore_watch.note_head(head);
        self.restore_watch.note_restores(self.store);
        if let Some(checkpoint) = &self.checkpoint
            && !self.is_position_loaded
        {
            self.status.set_position(self.store.load_checkpoint(checkpoint).await?.unwrap_or_default());
            self.is_position_loaded = true;
        }
        if self.restore_watch.is_check_due()
            && let Some(error) = self.check_store().await?
        {
            return Ok(PublishStep::Stopped(error));
        }
        if self.unsaved.is_none() {
            match self.publish_next_range().await? {
                PublishStep::Published => {}
                step => return Ok(step),
            }
        }
        self.restore_watch.note_restores(self.store);
        // the next step checks the store: an older copy must not take the position of the lost events
        if !self.restore_watch.is_check_due() {
            self.save_position().await?;
        }
        Ok(PublishStep::Published)
    }
}
