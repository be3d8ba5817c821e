//! A feed that is read event by event, with a span for each of its reads.

use std::{future::poll_fn, task::Poll};

use futures_util::StreamExt as _;

use super::spans::FeedRead;
use crate::{
    domain::record::RecordedEvent,
    port::{ReadError, RecordStream},
};

/// A feed that is read event by event.
///
/// A read is a wait for the store, with all events that follow without a wait: mostly those of one page.
pub(crate) struct FeedReads<'a, F> {
    records: RecordStream<'a>,
    begin: F,
    read: FeedRead,
}

impl<'a, F: Fn() -> FeedRead> FeedReads<'a, F> {
    /// Begins the first read; calls `begin` for the span of each.
    pub(crate) fn new(records: RecordStream<'a>, begin: F) -> Self {
        let read = begin();
        Self { records, begin, read }
    }

    /// Returns the next event; `None` at the end of the feed.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordedEvent>, ReadError> {
        let next = poll_fn(|context| {
            let polled = self.records.poll_next_unpin(context);
            match &polled {
                Poll::Pending if self.read.has_events() => self.read = (self.begin)(),
                Poll::Ready(Some(Ok(event))) => self.read.add(event),
                Poll::Ready(Some(Err(error))) => self.read.fail(error),
                Poll::Pending | Poll::Ready(None) => {}
            }
            polled
        });
        next.await.transpose()
    }
}
