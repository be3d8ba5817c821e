//! The contract between a relay and a bus that keeps the events it publishes.
//!
//! The events that a store holds after one position up to a later one are a pure function of the store. So each relay
//! publishes the same events for a range, and it is enough that the bus moves its record of the store together with the
//! events, and only from where the range begins.

use async_trait::async_trait;
use uuid::Uuid;

use super::{MessageId, PublishError};
use crate::domain::{metadata::EventId, record::RecordedEvent, stream::Position};

/// A bus that keeps a record of each store beside the events: how far the store is published.
///
/// Invariant: record and events change in one atomic step, and the bus keeps both or loses both. So the events of a
/// store follow each other in position order, each once, also over crashes and with several publishers, until an
/// operator sets the record back.
#[async_trait]
pub trait RelayTarget: Send + Sync {
    /// Publishes a range if it begins where the bus's record of the store is.
    ///
    /// # Errors
    /// [`PublishError`]; after an unknown outcome the relay sends the same range again, and the answer covers both
    /// calls.
    async fn publish_range(&self, store: Uuid, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError>;

    /// Returns the record of a store; `None` if the bus has none: it never had one, or has lost its data.
    ///
    /// # Errors
    /// [`PublishError`] if the bus cannot be reached.
    async fn published_position(&self, store: Uuid) -> Result<Option<PublishedPosition>, PublishError>;

    /// Sets the record of a store to `to`, unless it has moved from `from` meanwhile; returns the record.
    ///
    /// # Errors
    /// [`PublishError`]; calling again is safe.
    async fn set_position(
        &self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> Result<PublishedPosition, PublishError>;

    /// Returns `true` if the bus outlives the process that publishes: only then has one without a record of a store that
    /// was published before lost its data. The default is `true`.
    fn outlives_process(&self) -> bool {
        true
    }

    /// Returns events of a store that the bus carries, the newest first, with the ids of their entries: some of those before
    /// `before`, or of all. None at the beginning of the stream; that is the default, for a bus that does not keep what it
    /// carried.
    ///
    /// # Errors
    /// [`PublishError`] if the bus cannot be reached.
    async fn published_before(
        &self,
        store: Uuid,
        before: Option<&MessageId>,
    ) -> Result<Vec<(MessageId, PublishedPosition)>, PublishError> {
        let _ = (store, before);
        Ok(Vec::new())
    }

    /// Returns a store whose events the bus carries, unless it carries those of the store `own` too. The default is
    /// `None`.
    ///
    /// # Errors
    /// [`PublishError`] if the bus cannot be reached.
    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        let _ = own;
        Ok(None)
    }
}

/// The position up to which a store is published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishedPosition {
    /// All events up to here are published.
    pub position: Position,
    /// The event at the position: the store must hold it there, unless the store was restored from an older copy.
    /// `None` if a relay or an operator set the position, or if it is the position of an event that the relay skips.
    pub event_id: Option<EventId>,
}

/// All events of a store's feed after one position up to a later one.
#[derive(Debug, Clone, Copy)]
pub struct PublishRange<'a> {
    /// Where the range begins: the record of the store, as the relay knows it.
    pub after: PublishedPosition,
    /// The position of the last event, or of a later one that the relay skips.
    pub through: Position,
    /// The events between, in position order.
    pub events: &'a [RecordedEvent],
}

impl PublishRange<'_> {
    /// Returns the record of the store once the range is published.
    #[must_use]
    pub fn end(&self) -> PublishedPosition {
        let last = self.events.last().filter(|last| last.position() == Some(self.through));
        PublishedPosition { position: self.through, event_id: last.map(|last| last.metadata().event_id()) }
    }
}

/// The outcome of publishing a range.
#[derive(Debug)]
#[non_exhaustive]
pub enum RangeOutcome {
    /// The range is published; the ids are in the order of the events, where the bus knows them.
    Published(Vec<MessageId>),
    /// The record is a different one, set by an earlier call or a different relay: continue from there.
    Moved(PublishedPosition),
    /// The bus has no record of the store.
    Lost,
}
