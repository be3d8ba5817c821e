//! Publishing to a bus that keeps no position beside its events.
//!
//! Keep: publish, then move the position. A crash between the two repeats events; the other way round would lose them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    checkpoint_name,
    progress::Board,
    range::{Range, Ranges},
    tenure::{Publish, Step, publish_until},
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
        Self { bus, board, ranges: Ranges::of(store) }
    }

    pub(super) async fn run(mut self, store: &Arc<dyn EventStore>, cancel: &CancellationToken) {
        let board = self.board;
        publish_until(cancel, &mut self, store, board).await;
    }

    /// Publishes the next range and returns it; the position is to be moved. `None`: everything is published.
    async fn publish_next(&mut self) -> Result<Option<(Range, Vec<MessageId>)>, BoxError> {
        let range = self.ranges.next(self.board.position()).await?;
        self.board.set_behind(!range.events.is_empty());
        if range.events.is_empty() {
            return Ok(None);
        }
        let ids = self.bus.publish_feed(&range.events).await?;
        Ok(Some((range, ids)))
    }
}

impl Publish for Forgetful<'_> {
    const SAVES_CHECKPOINT: bool = true;

    async fn step(&mut self) -> Result<Step, BoxError> {
        let Some((range, ids)) = self.publish_next().await? else {
            return Ok(Step::CaughtUp);
        };
        self.board.published(&range, ids);
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
        if self.unsaved.is_none() {
            self.unsaved = self.inner.publish_next().await?;
        }
        let Some((range, _)) = &self.unsaved else {
            return Ok(Step::CaughtUp);
        };
        self.store.save_checkpoint(&self.checkpoint, range.through).await?;
        if let Some((range, ids)) = self.unsaved.take() {
            self.inner.board.published(&range, ids);
        }
        Ok(Step::Done)
    }
}
