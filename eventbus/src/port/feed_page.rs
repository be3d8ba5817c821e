//! A page of a feed, read together with the end of the feed.

use std::num::NonZeroUsize;

use futures_util::StreamExt as _;

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
        let mut page = Self { end, events: Vec::new(), through: after };
        let mut bytes = 0;
        while let Some(event) = read.next().await {
            match event {
                Ok(event) => {
                    bytes += event.payload().len();
                    page.through = event.position().unwrap_or(page.through);
                    page.events.push(event);
                }
                Err(error) if page.events.is_empty() => return Err(error),
                Err(_) => return Ok(page),
            }
            if page.events.len() >= limits.events.get() || bytes >= limits.bytes {
                return Ok(page);
            }
        }
        page.through = page.through.max(end.head);
        Ok(page)
    }
}
