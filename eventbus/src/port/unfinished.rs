//! Deliveries that a group has not finished, kept in the store for a bus that keeps no progress of its own.
//!
//! A delivery with a row does not hold back the group's checkpoint. After a restart the bus reads the feed from the
//! checkpoint on. Of the events up to the checkpoint, it delivers again only those with a row.

use async_trait::async_trait;
use auto_impl::auto_impl;
use time::OffsetDateTime;

use super::{CheckpointError, attempts::DeliveryAttempts};
use crate::domain::{name::Name, stream::Position};

/// A delivery of an event of the store that a consumer group has not finished: it waits for a retry, waits behind a
/// delivery that does, is far behind the rest, was not finished when the group stopped, or is a dead letter.
///
/// | row of the event | call | next |
/// |---|---|---|
/// | none, waits | `save_progress` with the delivery | waits |
/// | none, waits | `save_progress` with the delivery and `dead_since` | dead letter |
/// | waits | `save_progress` with the event as finished | none |
/// | dead letter | `end_dead_delivery` with attempts | waits |
/// | dead letter | `end_dead_delivery` without attempts | none |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedDelivery {
    /// The event.
    pub position: Position,
    /// The attempts of its handlers so far; empty if no run has ended, as while it waits behind an earlier event of its
    /// aggregate.
    pub attempts: DeliveryAttempts,
    /// The time when it became a dead letter, in whole microseconds; `None` while it waits.
    pub dead_since: Option<OffsetDateTime>,
}

/// A dead letter among the unfinished deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadDelivery {
    /// The consumer group that gave it up.
    pub group: Name,
    /// The event.
    pub position: Position,
    /// The attempts of its handlers.
    pub attempts: DeliveryAttempts,
    /// The time when the group gave it up, in whole microseconds.
    pub dead_since: OffsetDateTime,
}

/// A change in the progress of a consumer group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressUpdate {
    /// The checkpoint to move, and its new position: all events up to there are finished or have a row.
    pub checkpoint: Option<(Name, Position)>,
    /// The rows to write, which replace those that these events have; each position once.
    pub unfinished: Vec<UnfinishedDelivery>,
    /// The events whose rows to remove; an event without a row is no error.
    pub finished: Vec<Position>,
}

impl ProgressUpdate {
    /// Returns `true` if it holds no change.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.checkpoint.is_none() && self.unfinished.is_empty() && self.finished.is_empty()
    }
}

/// The deliveries of a store's events that consumer groups have not finished.
///
/// Implementations must pass the event-store suite of `eventbus::testkit`.
#[async_trait]
#[auto_impl(Arc)]
pub trait UnfinishedDeliveries: Send + Sync {
    /// Saves the progress of a group: rows and checkpoint, all or nothing.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached; the progress may still be saved.
    /// Saving it again does no harm.
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError>;

    /// Loads the deliveries of a group that wait, in the order of their positions; no dead letters.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached or a row cannot be read.
    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError>;

    /// Loads the positions after `after` that are dead letters of a group, in order.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached.
    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError>;

    /// Loads up to `limit` dead letters of all groups, oldest first; the store chooses the order within one
    /// microsecond. `after` is the last one of the former page.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached or a row cannot be read.
    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError>;

    /// Loads the dead letter of an event for a group; `None` if the event is no dead letter.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached or the row cannot be read.
    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError>;

    /// Counts the dead letters of all groups, up to `at_most`.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
    async fn count_dead_deliveries(&self, at_most: u64) -> Result<u64, CheckpointError>;

    /// Ends a dead letter: with `attempts` it waits from now on, without them its row is removed. Returns `true` if it
    /// was a dead letter until now.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached; the change may be made or not.
    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        attempts: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError>;
}
