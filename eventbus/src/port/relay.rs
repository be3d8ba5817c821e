//! What a relay asks of a bus that keeps what it publishes.
//!
//! Everything a store holds after one position up to another is a pure function of the store. So whoever publishes a
//! range publishes the same, and it is enough that the bus moves the position together with the events, and only from
//! where the range begins.

use async_trait::async_trait;
use uuid::Uuid;

use super::{MessageId, PublishError};
use crate::domain::{metadata::EventId, name::Name, record::RecordedEvent, stream::Position};

/// A bus that keeps the position of each store beside the events, in the same atomic step.
///
/// Keep: whatever dies and whoever else publishes, the events of a store follow each other in position order, each once,
/// from the last adoption on, as long as the bus keeps what it acknowledged.
#[async_trait]
pub trait RelayTarget: Send + Sync {
    /// Publishes a range if the bus holds everything before it and nothing after; one that ends
    /// where it begins only asks.
    ///
    /// # Errors
    /// [`PublishError`]; after an unknown outcome the same range is sent again, and the answer tells what happened.
    async fn publish_range(&self, publisher: Publisher, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError>;

    /// Begins, or begins anew after [`RangeOutcome::Lost`]: makes the groups that are missing, so that they get all that
    /// follows, and sets the position to the floor. It looks again whether that is needed.
    ///
    /// # Errors
    /// [`PublishError`]; to be asked again.
    async fn resync(&self, publisher: Publisher, request: ResyncRequest<'_>) -> Result<ResyncOutcome, PublishError>;

    /// How far the store is published in each part of the bus that has a position of its own; nothing, if the bus cannot
    /// tell.
    ///
    /// # Errors
    /// [`PublishError`] if the bus cannot be asked.
    async fn published_positions(&self, publisher: Publisher) -> Result<Vec<PublishedPosition>, PublishError> {
        let _ = publisher;
        Ok(Vec::new())
    }

    /// How far each group has finished, and what became of the known ones. Whoever only asks, and has no lease, has epoch 0:
    /// the holes that it is told of stay to be told to the relay.
    ///
    /// # Errors
    /// [`PublishError`] if the bus cannot be asked.
    async fn group_floors(&self, publisher: Publisher, known: &[Name]) -> Result<GroupFloors, PublishError>;

    /// Sets the position back to publish again from there, while the stream is intact; never forward.
    ///
    /// # Errors
    /// [`PublishError`]; to be asked again.
    async fn rewind(&self, publisher: Publisher, to: Position) -> Result<ResyncOutcome, PublishError>;
}

/// Who publishes: a store, through the relay that has its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publisher {
    /// The store.
    pub store: Uuid,
    /// The epoch of the relay's lease.
    pub epoch: u64,
}

/// How far a store is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPosition {
    /// Everything up to here is published.
    pub position: Position,
    /// The last event of the range that ended here, wherever that event itself went: what the store must hold at this
    /// position, unless it was restored from an older copy. `None` if the position was set by adopting or rewinding, or is that of
    /// an event that the relay skips.
    pub event_id: Option<EventId>,
}

/// Everything a store's feed holds after one position up to another.
#[derive(Debug, Clone, Copy)]
pub struct PublishRange<'a> {
    /// Where the range begins: this position was published before.
    pub after: Position,
    /// Where it ends: the position of its last event, or of one behind it that the relay skips; `after` if there is neither.
    pub through: Position,
    /// The events between, in position order.
    pub events: &'a [RecordedEvent],
}

/// What came of publishing a range.
#[derive(Debug)]
#[non_exhaustive]
pub enum RangeOutcome {
    /// It is published; the ids are in the order of the events, where the bus knows them.
    Published(Vec<MessageId>),
    /// The bus is at another position, where somebody else left it: continue from there.
    Moved(Position),
    /// A relay with a higher epoch has taken over: step down.
    Fenced,
    /// The bus does not hold what was published last, or never heard of the store: adopt.
    Lost,
}

/// From where a store's events are to be published, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct ResyncRequest<'a> {
    /// The lowest floor of the known groups.
    pub floor: Position,
    /// The known groups.
    pub groups: &'a [Name],
    /// Those of them that have finished nothing at all, while `floor` is higher: they are given what is before it for
    /// themselves, on a bus with [`Backlogs`](super::Backlogs).
    pub new_groups: &'a [Name],
    /// Whether the stream may carry the events of other stores too.
    pub is_shared: bool,
}

/// What came of adopting, or of setting the position back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResyncOutcome {
    /// It is to be published from here.
    At(Position),
    /// It was not needed: continue from here.
    Moved(Position),
    /// A relay with a higher epoch has taken over: step down.
    Fenced,
    /// The stream carries the events of this other store, and is not to be shared.
    OtherStore(Uuid),
}

/// How far the groups of a bus have finished.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupFloors {
    /// Each group there is, and each known group that is missing.
    Groups(Vec<(Name, GroupFloor)>),
    /// The bus does not hold what was published last: adopt.
    Lost,
}

/// How far one group has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupFloor {
    /// Everything up to here.
    At(Position),
    /// It cannot be told now: what was known before still holds.
    Unknown,
    /// The group is gone; whoever consumes next makes it again.
    Missing,
    /// Somebody removed entries that the group had not finished: publish again from its former floor. It is told until the
    /// relay that was told [sets the position back](RelayTarget::rewind).
    Gap,
}
