//! Publishing to a bus that keeps no position beside its events.
//!
//! Keep: publish, then move the position. A crash between the two repeats events; the other way round would lose them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    LOOK_AGAIN, PACE, RelayError, checkpoint_name,
    error::stopped_by,
    progress::Board,
    range::{Range, Ranges},
    turn::{Publish, Step, publish_until},
};
use crate::{
    domain::{error::BoxError, name::Name},
    port::{EventBus, EventStore, MessageId},
};

/// Publishes to a bus that forgets: its groups keep their own progress in the store.
pub(super) struct Forgetful<'a> {
    bus: &'a dyn EventBus,
    board: &'a Board,
    ranges: Ranges<'a>,
}

impl<'a> Forgetful<'a> {
    pub(super) fn new(store: &'a dyn EventStore, bus: &'a dyn EventBus, board: &'a Board) -> Self {
        Self { bus, board, ranges: Ranges::of(store).around_skipped(bus.destination(), board.clock()) }
    }

    pub(super) async fn run(mut self, store: &Arc<dyn EventStore>, cancel: &CancellationToken) {
        let board = self.board;
        while let Step::Stopped(error) = publish_until(cancel, &mut self, store, board).await {
            board.stopped(error);
            self.wait_stopped(cancel).await;
        }
    }

    /// Waits until a look is worth it: an operator has decided what is skipped, or a while has passed.
    async fn wait_stopped(&mut self, cancel: &CancellationToken) {
        let clock = self.board.clock();
        let since = clock.instant();
        while !cancel.is_cancelled() && clock.elapsed(since) < LOOK_AGAIN {
            cancel.run_until_cancelled(clock.sleep(PACE)).await;
            // a store that cannot say so is asked again
            if matches!(self.ranges.has_other_skips().await, Ok(true)) {
                return;
            }
        }
    }

    /// Publishes the next range; the position is to be moved.
    async fn publish_next(&mut self) -> Result<Next, BoxError> {
        let mut range = self.ranges.next(self.board.position()).await?;
        if range.events.is_empty() {
            // what the relay skips is passed all the same
            return Ok(if range.is_ahead() { Next::Published(range, Vec::new()) } else { Next::None });
        }
        loop {
            let error = match self.bus.publish_feed(&range.events).await {
                Ok(ids) => return Ok(Next::Published(range, ids)),
                Err(error) => stopped_by(error, &range.events)?,
            };
            if !matches!(error, RelayError::EventRefused { position, .. } if range.end_before(position)) {
                return Ok(Next::Refused(error));
            }
        }
    }
}

/// What came of publishing the next range.
enum Next {
    Published(Range, Vec<MessageId>),
    /// Everything is published.
    None,
    Refused(RelayError),
}

impl Publish for Forgetful<'_> {
    const SAVES_CHECKPOINT: bool = true;

    async fn step(&mut self) -> Result<Step, BoxError> {
        match self.publish_next().await? {
            Next::Published(range, ids) => self.board.published(&range, ids),
            Next::None => return Ok(Step::CaughtUp),
            Next::Refused(error) => return Ok(Step::Stopped(error)),
        }
        Ok(Step::Done)
    }
}

/// Publishes to a bus that keeps its events; how far, the store keeps.
pub(super) struct Plain<'a> {
    store: &'a dyn EventStore,
    checkpoint: Name,
    has_begun: bool,
    /// Published, and not saved yet.
    unsaved: Option<(Range, Vec<MessageId>)>,
    inner: Forgetful<'a>,
}

impl<'a> Plain<'a> {
    pub(super) fn new(store: &'a dyn EventStore, bus: &'a dyn EventBus, board: &'a Board) -> Self {
        let checkpoint = checkpoint_name(bus.destination());
        Self { store, checkpoint, has_begun: false, unsaved: None, inner: Forgetful::new(store, bus, board) }
    }
}

impl Publish for Plain<'_> {
    const SAVES_CHECKPOINT: bool = true;

    async fn step(&mut self) -> Result<Step, BoxError> {
        if !self.has_begun {
            let position = self.store.load_checkpoint(&self.checkpoint).await?.unwrap_or_default();
            self.inner.board.moved(position);
            self.has_begun = true;
        }
        let (range, ids) = match self.unsaved.take() {
            Some(unsaved) => unsaved,
            None => match self.inner.publish_next().await? {
                Next::Published(range, ids) => (range, ids),
                Next::None => return Ok(Step::CaughtUp),
                Next::Refused(error) => return Ok(Step::Stopped(error)),
            },
        };
        if let Err(error) = self.store.save_checkpoint(&self.checkpoint, range.through).await {
            self.unsaved = Some((range, ids));
            return Err(error.into());
        }
        self.inner.board.published(&range, ids);
        Ok(Step::Done)
    }
}
