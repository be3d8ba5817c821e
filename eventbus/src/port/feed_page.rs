//! A page of a feed, read together with the end of the feed.

use std::num::NonZeroUsize;

use futures_util::TryStreamExt as _;

use super::{ReadError, RecordStream, feed_end::FeedEnd};
use crate::domain::{record::RecordedEvent, stream::Position};

/// The most that a [page](FeedPage) holds; it ends with the event that reaches a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimits {
    /// The number of events.
    pub events: NonZeroUsize,
    /// The bytes of their payloads.
    pub bytes: usize,
}

/// The first events of a feed after a position, and the end of the feed, see
/// [`ReadFeed::read_page`](super::ReadFeed::read_page).
#[derive(Debug, Clone, PartialEq)]
pub struct FeedPage {
    /// The end of the feed, as it was before the events were read.
    pub end: FeedEnd,
    /// The events, in position order.
    pub events: Vec<RecordedEvent>,
    /// The position up to which the page has all events that match: the next page begins after it. It is the head if
    /// there are no more.
    pub through: Position,
}

impl FeedPage {
    /// Takes a page from a read of the feed after `after`, up to the head of `end`.
    ///
    /// # Errors
    /// If the first event cannot be read; before a later one that cannot be read the page ends.
    pub async fn take(
        mut read: RecordStream<'_>,
        end: FeedEnd,
        after: Position,
        limits: PageLimits,
    ) -> Result<Self, ReadError> {
        let batch = FeedBatch::read(&mut read, limits.events.get(), limits.bytes.max(1)).await?;
        let through = batch.through(end.head).max(after);
        Ok(Self { end, events: batch.events, through })
    }
}

/// Consecutive events of a feed.
pub(crate) struct FeedBatch {
    pub(crate) events: Vec<RecordedEvent>,
    pub(crate) end: BatchEnd,
}

/// Reason why a batch holds no more events.
#[derive(Debug)]
pub(crate) enum BatchEnd {
    Full,
    EndOfFeed,
    /// The feed fails behind the events.
    Failed(ReadError),
}

impl FeedBatch {
    /// Reads the next events of a feed, at most `events_max`; ends with the event that reaches `bytes_max`. May search
    /// for long before it finds one.
    ///
    /// # Errors
    /// The error of the feed, if there is no event before it.
    pub(crate) async fn read(
        feed: &mut RecordStream<'_>,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Self, ReadError> {
        let (mut events, mut bytes): (Vec<RecordedEvent>, _) = (Vec::new(), 0);
        while events.len() < events_max && bytes < bytes_max {
            match feed.try_next().await {
                Ok(Some(event)) => {
                    bytes += event.payload().len();
                    events.push(event);
                }
                Ok(None) => return Ok(Self { events, end: BatchEnd::EndOfFeed }),
                Err(error) if events.is_empty() => return Err(error),
                Err(error) => return Ok(Self { events, end: BatchEnd::Failed(error) }),
            }
        }
        Ok(Self { events, end: BatchEnd::Full })
    }

    /// Returns the position up to which this batch covers the feed, which ends at `target`.
    pub(crate) fn through(&self, target: Position) -> Position {
        match self.end {
            BatchEnd::EndOfFeed => target,
            BatchEnd::Full | BatchEnd::Failed(_) => {
                self.events.last().and_then(RecordedEvent::position).unwrap_or_default()
            }
        }
    }
}
