//! The reader of a follower: reads stored events, then new ones, without a gap or a repetition between them.
//!
//! Invariant: past events that the filter leaves out, the cursor moves only to a head that the reader loaded *before*
//! it read the page, from the same server. A later head may lie beyond an event that this read did not see.

use std::{collections::VecDeque, sync::Arc};

use futures_util::StreamExt as _;
use time::OffsetDateTime;

use super::FollowControl;
use crate::{
    domain::{error::ErrorLine, name::Name, record::RecordedEvent, stream::Position},
    port::{EventStore, FeedFilter, ReadError},
    runtime::{
        feed_head::FeedHead,
        feed_poller::{EndCheck, FeedPoller},
    },
    support::{Outage, spans::FeedRead},
};

/// Largest page: bounds memory in case the store's stream is always ready.
const PAGE_EVENTS_MAX: usize = 1_024;

/// A reader's place in a feed.
pub(super) struct FeedReader {
    store: Arc<dyn EventStore>,
    filter: FeedFilter,
    /// All selected events up to here are in the buffer or were yielded before.
    cursor: Position,
    buffer: VecDeque<RecordedEvent>,
    poller: FeedPoller,
    end_check: EndCheck,
    control: FollowControl,
    outage: Outage,
    /// When it was created: the traces of older events have ended.
    created_at: OffsetDateTime,
}

impl FeedReader {
    pub(super) fn new(feed_head: &FeedHead, after: Position, filter: FeedFilter, control: FollowControl) -> Self {
        Self {
            poller: FeedPoller::new(feed_head),
            end_check: EndCheck::new(&**feed_head.store()),
            store: Arc::clone(feed_head.store()),
            filter,
            cursor: after,
            buffer: VecDeque::new(),
            outage: Outage::new(control.clock().clone()),
            created_at: control.clock().now(),
            control,
        }
    }

    /// Returns the next event; `None` once the follower is stopped.
    pub(super) async fn next(&mut self) -> Option<Result<RecordedEvent, ReadError>> {
        let cancel = self.control.cancel().clone();
        loop {
            if !self.control.wait_while_paused().await {
                return None;
            }
            if let Some(event) = self.buffer.pop_front() {
                let position = event.position().unwrap_or(self.cursor);
                self.control.update(|status| status.position = position);
                return Some(Ok(event));
            }
            let read = cancel.run_until_cancelled(self.read_page()).await?;
            if read.is_ok()
                && let Some(lasted) = self.outage.ends()
            {
                tracing::info!(?lasted, "store is followed again");
            }
            let goes_on = match read {
                Ok(true) => {
                    self.poller.reset();
                    true
                }
                Ok(false) => self.poller.wait_idle(None, &cancel).await,
                Err(ReadError::Unavailable(error)) => {
                    self.log_outage(&ErrorLine(&*error).to_string());
                    self.poller.wait_after_failure(&cancel).await
                }
                Err(damaged) => return Some(Err(damaged)),
            };
            if !goes_on {
                return None;
            }
        }
    }

    /// Reads the next page. Returns `false` at the end of the feed.
    async fn read_page(&mut self) -> Result<bool, ReadError> {
        let head = self.poller.head().await?;
        if head > self.cursor {
            let span = FeedRead::begin(|| Name::from_static("follow")).since(Some(self.created_at));
            let read = self.store.read_feed(self.cursor, head, &self.filter).ready_chunks(PAGE_EVENTS_MAX).next().await;
            match read {
                Some(chunk) => self.take_page(chunk, span)?,
                None => self.cursor = self.end_check.passed(&*self.store, self.cursor, head),
            }
        }
        let is_at_the_end = self.buffer.is_empty() && head <= self.cursor;
        let cursor = self.cursor;
        self.control.update(|status| {
            status.trouble = None;
            if is_at_the_end {
                (status.position, status.is_live) = (cursor, true);
            }
        });
        Ok(!is_at_the_end)
    }

    /// Buffers the events of a page; the next read meets an error behind them again.
    fn take_page(&mut self, chunk: Vec<Result<RecordedEvent, ReadError>>, mut span: FeedRead) -> Result<(), ReadError> {
        for record in chunk {
            match record {
                Ok(event) => {
                    span.add(&event);
                    self.cursor = event.position().unwrap_or(self.cursor);
                    self.buffer.push_back(event);
                }
                Err(error) if self.buffer.is_empty() => {
                    span.fail(&error);
                    return Err(error);
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn log_outage(&mut self, error: &str) {
        if self.outage.begins() {
            tracing::warn!(error, "store cannot be followed, trying again");
        } else {
            tracing::debug!(error, "store still cannot be followed");
        }
        self.control.update(|status| status.trouble = Some(error.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        memory::InMemoryEventStore,
        runtime::{
            feed_poller::tests::{FailedOver, MINUTE},
            follow::Follow,
        },
    };

    #[tokio::test(start_paused = true)]
    async fn an_event_that_a_promoted_server_stores_before_the_head_of_the_former_one_is_read() {
        let store = FailedOver::over(InMemoryEventStore::new()).await;
        let mut following = Follow::new(store.clone()).after(Position::new(1)).start();
        let control = following.control();
        let next = tokio::spawn(async move { following.try_next().await });
        assert!(control.wait_until_live(MINUTE).await);
        let position = store.append().await;
        let event = timeout(MINUTE, next).await.unwrap().unwrap().unwrap().unwrap();
        assert_eq!((position, event.position()), (Position::new(2), Some(position)));
    }
}
