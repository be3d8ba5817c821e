//! Publishing to a bus that keeps no position beside its events.
//!
//! Invariant: publish, then move the position. A crash between the two repeats events; the other order would lose them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    RelayError,
    error::relay_error_of_publish,
    leadership::{FeedPublisher, LEASE_CHECK_INTERVAL, PublishEnd, PublishStep, STOPPED_RETRY_INTERVAL, publish_until},
    range::{FeedRange, RangeReader},
    status::RelayStatusCell,
};
use crate::{
    domain::{error::BoxError, name::Name},
    port::{EventBus, EventStore, MessageId},
    support::relay_to,
};

/// Publishes to a bus that keeps no position: the store keeps it for a durable bus. The groups of any other bus keep
/// their own progress in the store.
pub(super) struct AtLeastOncePublisher<'a> {
    store: &'a dyn EventStore,
    bus: &'a dyn EventBus,
    status: &'a RelayStatusCell,
    reader: RangeReader<'a>,
    /// The checkpoint in the store, for a durable bus.
    checkpoint: Option<Name>,
    is_position_loaded: bool,
    /// Published, but not yet saved in the checkpoint.
    unsaved: Option<(FeedRange, Vec<MessageId>)>,
}

impl<'a> AtLeastOncePublisher<'a> {
    pub(super) fn new(store: &'a dyn EventStore, bus: &'a dyn EventBus, status: &'a RelayStatusCell) -> Self {
        let checkpoint = bus.is_durable().then(|| relay_to(bus.destination()));
        let reader = RangeReader::new(store, bus.destination(), status.clock());
        Self { store, bus, status, reader, checkpoint, is_position_loaded: false, unsaved: None }
    }

    /// Publishes without a lease, until cancelled.
    pub(super) async fn run(mut self, store: &Arc<dyn EventStore>, cancel: &CancellationToken) {
        let status = self.status;
        while let PublishEnd::Stopped(error) = publish_until(cancel, &mut self, store, status).await {
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

    /// Publishes the next range; the caller moves the position. Returns the step if no range was published.
    async fn publish_next_range(&mut self) -> Result<Result<(FeedRange, Vec<MessageId>), PublishStep>, BoxError> {
        let mut range = self.reader.read_next(self.status.position()).await?;
        if range.events.is_empty() {
            // a range of skipped events only moves the position, too
            return Ok(if range.moves_position() { Ok((range, Vec::new())) } else { Err(PublishStep::CaughtUp) });
        }
        loop {
            let error = match self.bus.publish_feed(&range.events).await {
                Ok(ids) => return Ok(Ok((range, ids))),
                Err(error) => relay_error_of_publish(error, &range.events)?,
            };
            if !matches!(error, RelayError::EventRefused { position, .. } if range.truncate_before(position)) {
                return Ok(Err(PublishStep::Stopped(error)));
            }
        }
    }
}

impl FeedPublisher for AtLeastOncePublisher<'_> {
    const SAVES_CHECKPOINT: bool = true;

    async fn step(&mut self) -> Result<PublishStep, BoxError> {
        if let Some(checkpoint) = &self.checkpoint
            && !self.is_position_loaded
        {
            self.status.set_position(self.store.load_checkpoint(checkpoint).await?.unwrap_or_default());
            self.is_position_loaded = true;
        }
        let (range, ids) = match self.unsaved.take() {
            Some(unsaved) => unsaved,
            None => match self.publish_next_range().await? {
                Ok(published) => published,
                Err(step) => return Ok(step),
            },
        };
        if let Some(checkpoint) = &self.checkpoint
            && let Err(error) = self.store.save_checkpoint(checkpoint, range.through).await
        {
            self.unsaved = Some((range, ids));
            return Err(error.into());
        }
        self.status.record_published(&range, ids);
        Ok(PublishStep::Published)
    }
}
