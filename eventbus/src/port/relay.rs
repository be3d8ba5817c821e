//! The contract between a relay and a bus that keeps the events it publishes.
//!
//! The events that a store holds after one position up to a later one are a pure function of the store. So each relay
//! publishes the same events for a range, and it is enough that the bus moves the position together with the events,
//! and only from where the range begins.

use async_trait::async_trait;
use uuid::Uuid;

use super::{MessageId, PublishError};
use crate::domain::{metadata::EventId, name::Name, record::RecordedEvent, stream::Position};

/// A bus that keeps the position of each store beside the events, in the same atomic step.
///
/// Invariant: from the last resync or rewind on, the events of a store follow each other in position order, each once,
/// also over crashes and with several publishers, as long as the bus keeps the entries that it acknowledged.
#[async_trait]
pub trait RelayTarget: Send + Sync {
    /// Publishes a range if the bus holds all events before it and none after it. A range that ends where it begins
    /// only queries the outcome.
    ///
    /// # Errors
    /// [`PublishError`]; after an unknown outcome the relay sends the same range again, and the answer covers both
    /// calls.
    async fn publish_range(&self, publisher: Publisher, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError>;

    /// Begins to publish a store, or begins again after [`RangeOutcome::Lost`]: creates the missing groups, so that
    /// they get all events that follow, and sets the position to the floor. Checks first that this is needed.
    ///
    /// # Errors
    /// [`PublishError`]; the relay calls it again.
    async fn resync(&self, publisher: Publisher, request: ResyncRequest<'_>) -> Result<ResyncOutcome, PublishError>;

    /// Returns the published position in each part of the bus that has one; empty if the bus does not know it.
    ///
    /// # Errors
    /// [`PublishError`] if the bus cannot be reached.
    async fn published_positions(&self, publisher: Publisher) -> Result<Vec<PublishedPosition>, PublishError> {
        let _ = publisher;
        Ok(Vec::new())
    }

    /// Returns a store whose events the bus carries, unless it carries those of the store `own` too. The default is
    /// `None`: [`resync`](Self::resync) refuses such a bus all the same.
    ///
    /// # Errors
    /// [`PublishError`] if the bus cannot be reached.
    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        let _ = own;
        Ok(None)
    }

    /// Returns the floor of each group, and the `known` groups that are missing. A caller without the lease passes
    /// epoch 0: a gap that the bus reports to it does not count as reported to the relay.
    ///
    /// # Errors
    /// [`PublishError`] if the bus cannot be reached.
    async fn group_floors(&self, publisher: Publisher, known: &[Name]) -> Result<GroupFloors, PublishError>;

    /// Sets the published position back, so that the relay publishes again from there, while the stream is intact;
    /// never forward.
    ///
    /// # Errors
    /// [`PublishError`]; the relay calls it again.
    async fn rewind(&self, publisher: Publisher, to: Position) -> Result<ResyncOutcome, PublishError>;
}

/// The store whose events are published, and the relay that holds its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publisher {
    /// The store.
    pub store: Uuid,
    /// The epoch of the relay's lease.
    pub epoch: u64,
}

/// The position up to which a store is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPosition {
    /// All events up to here are published.
    pub position: Position,
    /// The last event of the range that ended here, whichever part of the bus holds it: the store must hold it at this
    /// position, unless the store was restored from an older copy. `None` if a resync or rewind set the position, or if
    /// it is the position of an event that the relay skips.
    pub event_id: Option<EventId>,
}

/// All events of a store's feed after one position up to a later one.
#[derive(Debug, Clone, Copy)]
pub struct PublishRange<'a> {
    /// The position after which the range begins; all events up to it are published.
    pub after: Position,
    /// The position of the last event, or of a later one that the relay skips; `after` if there is neither.
    pub through: Position,
    /// The events between, in position order.
    pub events: &'a [RecordedEvent],
}

/// The outcome of publishing a range.
#[derive(Debug)]
#[non_exhaustive]
pub enum RangeOutcome {
    /// The range is published; the ids are in the order of the events, where the bus knows them.
    Published(Vec<MessageId>),
    /// The bus is at a different position, set by an earlier call or a different relay: continue from there.
    Moved(Position),
    /// A relay with a higher epoch has taken over: step down.
    Fenced,
    /// The bus does not hold the entry published last, or has no record of the store: [resync](RelayTarget::resync).
    Lost,
}

/// The position from which a relay begins to publish a store again, and the groups that need the events.
#[derive(Debug, Clone, Copy)]
pub struct ResyncRequest<'a> {
    /// The lowest floor of the known groups.
    pub floor: Position,
    /// The known groups.
    pub groups: &'a [Name],
    /// The known groups that have finished no event, while `floor` is higher: a bus with [`Backlogs`](super::Backlogs)
    /// delivers the events before `floor` to these groups only.
    pub new_groups: &'a [Name],
    /// Set if the stream may carry the events of other stores too.
    pub is_shared: bool,
}

/// The outcome of a resync or a rewind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResyncOutcome {
    /// The position was set: publish from here.
    At(Position),
    /// No change was needed: continue from here.
    Moved(Position),
    /// A relay with a higher epoch has taken over: step down.
    Fenced,
    /// The stream carries the events of this other store, and must not be shared.
    OtherStore(Uuid),
}

/// The low-water marks of the groups of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupFloors {
    /// Each group of the bus, and each known group that is missing.
    Groups(Vec<(Name, GroupFloor)>),
    /// The bus does not hold the entry published last: [resync](RelayTarget::resync).
    Lost,
}

/// The low-water mark of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupFloor {
    /// The group has finished all events up to here.
    At(Position),
    /// The bus cannot tell now: the former floor still holds.
    Unknown,
    /// The group is gone; the next consumer of the group creates it again.
    Missing,
    /// Entries that the group had not finished were removed by other software: publish again from its former floor. The
    /// bus reports the gap until the relay that it was reported to [sets the position back](RelayTarget::rewind).
    Gap,
}
