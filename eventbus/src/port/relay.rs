//! What the relay asks of a bus: to publish a range of a store's feed.

use super::MessageId;
use crate::domain::{record::RecordedEvent, stream::Position};

/// Everything a store's feed holds after one position up to another.
///
/// It is a pure function of the store, so whoever publishes it publishes the same.
#[derive(Debug, Clone, Copy)]
pub struct PublishRange<'a> {
    /// Where the range begins: this position was published before.
    pub after: Position,
    /// Where it ends: this position is part of it, whether it holds an event or not.
    pub through: Position,
    /// The events between, in position order.
    pub events: &'a [RecordedEvent],
}

/// What came of publishing a range.
#[derive(Debug)]
#[non_exhaustive]
pub enum RangeOutcome {
    /// It is published; the ids are in the order of the events.
    Published(Vec<MessageId>),
    /// Someone else published meanwhile: continue from here.
    Moved(Position),
    /// A newer relay has taken over: step down.
    Fenced,
    /// The bus lost what was published before: adopt it anew.
    Lost,
    /// The bus carries the events of another store: stop and say so.
    OtherStore,
}
