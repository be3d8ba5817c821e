//! Publishing to a bus that keeps no position beside its events.
//!
//! Invariant: publish, then move the position. A crash between the two repeats events; the other order would lose them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    RelayError,
    checkpoint_names::checkpoint_name,
    error::relay_error_of_publish,
    leadership::{FeedPublisher, LEASE_CHECK_INTERVAL, PublishEnd, PublishStep, STOPPED_RETRY_INTERVAL, publish_until},
    range::{FeedRange, RangeReader},
    status::RelayStatusCell,
};
use crate::{
    domain::{error::BoxError, name::Name},
    port::{EventBus, EventStore, MessageId},
};

/// Publishes to a bus that is not durable: its groups keep their own progress in the store.
pub(super) struct VolatileBusPublisher<'a> {
    bus: &'a dyn EventBus,
    status: &'a RelayStatusCell,
    reader: RangeReader<'a>,
}

impl<'a> VolatileBusPublisher<'a> {
    pub(super) fn new(store: &'a dyn EventStore, bus: &'a dyn EventBus, status: &'a RelayStatusCell) -> Self {
        Self { bus, status, reader: RangeReader::new(store).with_skips(bus.destination(), status.clock()) }
    }

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

    /// Publishes the next range; the caller moves the position.
    async fn publish_next_range(&mut self) -> Result<RangePublishResult, BoxError> {
        let mut range = self.reader.read_next(self.status.position()).await?;
        if range.events.is_empty() {
            // a range of skipped events only moves the position, too
            return Ok(if range.moves_position() {
                RangePublishResult::Published(range, Vec::new())
            } else {
                RangePublishResult::CaughtUp
            });
        }
        loop {
            let error = match self.bus.publish_feed(&range.events).await {
                Ok(ids) => return Ok(RangePublishResult::Published(range, ids)),
                Err(error) => relay_error_of_publish(error, &range.events)?,
            };
            if !matches!(error, RelayError::EventRefused { position, .. } if range.truncate_before(position)) {
                return Ok(RangePublishResult::Refused(error));
            }
        }
    }
}

/// Outcome of publishing the next range.
enum RangePublishResult {
    Published(FeedRange, Vec<MessageId>),
    /// All events are published.
    CaughtUp,
    Refused(RelayError),
}

impl FeedPublisher for VolatileBusPublisher<'_> {
    const SAVES_CHECKPOINT: bool = true;

    async fn step(&mut self) -> Result<PublishStep, BoxError> {
        match self.publish_next_range().await? {
            RangePublishResult::Published(range, ids) => self.status.record_published(&range, ids),
            RangePublishResult::CaughtUp => return Ok(PublishStep::CaughtUp),
            RangePublishResult::Refused(error) => return Ok(PublishStep::Stopped(error)),
        }
        Ok(PublishStep::Published)
    }
}

/// Publishes to a durable bus; the store keeps the position.
pub(super) struct AtLeastOncePublisher<'a> {
    store: &'a dyn EventStore,
    checkpoint: Name,
    is_position_loaded: bool,
    /// Published, but not yet saved in the checkpoint.
    unsaved: Option<(FeedRange, Vec<MessageId>)>,
    publisher: VolatileBusPublisher<'a>,
}

impl<'a> AtLeastOncePublisher<'a> {
    pub(super) fn new(store: &'a dyn EventStore, bus: &'a dyn EventBus, status: &'a RelayStatusCell) -> Self {
        let checkpoint = checkpoint_name(bus.destination());
        Self {
            store,
            checkpoint,
            is_position_loaded: false,
            unsaved: None,
            publisher: VolatileBusPublisher::new(store, bus, status),
        }
    }
}

impl FeedPublisher for AtLeastOncePublisher<'_> {
    const SAVES_CHECKPOINT: bool = true;

    async fn step(&mut self) -> Result<PublishStep, BoxError> {
        if !self.is_position_loaded {
            let position = self.store.load_checkpoint(&self.checkpoint).await?.unwrap_or_default();
            self.publisher.status.set_position(position);
            self.is_position_loaded = true;
        }
        let (range, ids) = match self.unsaved.take() {
            Some(unsaved) => unsaved,
            None => match self.publisher.publish_next_range().await? {
                RangePublishResult::Published(range, ids) => (range, ids),
                RangePublishResult::CaughtUp => return Ok(PublishStep::CaughtUp),
                RangePublishResult::Refused(error) => return Ok(PublishStep::Stopped(error)),
            },
        };
        if let Err(error) = self.store.save_checkpoint(&self.checkpoint, range.through).await {
            self.unsaved = Some((range, ids));
            return Err(error.into());
        }
        self.publisher.status.record_published(&range, ids);
        Ok(PublishStep::Published)
    }
}
