//! Deliveries that a group has not finished, kept in the store for a bus that keeps nothing itself.
//!
//! What is in a row does not hold the group's checkpoint back: after a restart the feed goes on behind the checkpoint,
//! and of what came before only the rows are delivered again.

use async_trait::async_trait;
use time::OffsetDateTime;

use super::{CheckpointError, DeliveryAttempts};
use crate::domain::{name::Name, stream::Position};

/// A delivery of an event of the store that a consumer group has not finished: it waits for a retry, is parked behind
/// one that does, or is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedDelivery {
    /// The event.
    pub position: Position,
    /// What its handlers made of it so far; empty where it is parked behind another event of its aggregate.
    pub attempts: DeliveryAttempts,
    /// Since when it is a dead letter, in whole microseconds; `None` while it waits.
    pub dead_since: Option<OffsetDateTime>,
}

/// A dead letter among the unfinished deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadDelivery {
    /// The consumer group that gave it up.
    pub group: Name,
    /// The event.
    pub position: Position,
    /// What its handlers made of it.
    pub attempts: DeliveryAttempts,
    /// When it was given up, in whole microseconds.
    pub dead_since: OffsetDateTime,
}

/// What changed in the progress of a consumer group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressUpdate {
    /// The checkpoint that moves, and where to: all events up to there are finished or have a row.
    pub checkpoint: Option<(Name, Position)>,
    /// The rows to write, over those that these events have; each position once.
    pub unfinished: Vec<UnfinishedDelivery>,
    /// The events whose rows are to be removed; one without a row is no error.
    pub finished: Vec<Position>,
}

impl ProgressUpdate {
    /// Whether nothing changed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.checkpoint.is_none() && self.unfinished.is_empty() && self.finished.is_empty()
    }
}

/// Keeps what consumer groups have not finished of a store's events.
///
/// Implementations must pass the event-store suite of `eventbus::testkit`.
#[async_trait]
pub trait UnfinishedDeliveries: Send + Sync {
    /// Saves the progress of a group: rows and checkpoint, all or nothing.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached; the progress may still be saved.
    /// Saving it again does no harm.
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError>;

    /// The deliveries of a group that wait, in the order of their positions; no dead letters.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached or a row cannot be read.
    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError>;

    /// The positions after `after` that are dead letters of a group, in order.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached.
    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError>;

    /// Up to `limit` dead letters of all groups, oldest first, and in an order of the store's own where several are of
    /// one microsecond. `after` is the last one of the former page.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached or a row cannot be read.
    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError>;

    /// The dead letter that an event is for a group; `None` if it is none.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached or the row cannot be read.
    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError>;

    /// How many dead letters there are, of all groups.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
    async fn count_dead_deliveries(&self) -> Result<u64, CheckpointError>;

    /// Ends a dead letter: with tries in `again` it waits from now on, without it is removed. Returns `true` if it was a
    /// dead letter until now.
    ///
    /// # Errors
    /// [`CheckpointError`], named after the group, if the store cannot be reached; it may be done or not.
    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        again: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError>;
}

__delegate!(<S> Arc<S>, self => (**self); UnfinishedDeliveries);
