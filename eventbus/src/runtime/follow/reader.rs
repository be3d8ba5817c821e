//! Reading on in a feed, without a seam between what is there and what comes.
//!
//! Keep: the position to read on from is moved past what was not asked for only to a head that was asked for *before*
//! reading. A later one may be beyond an event that the reading has not seen.

use std::{collections::VecDeque, sync::Arc};

use futures_util::StreamExt as _;

use super::FollowControl;
use crate::{
    domain::{error::Line, record::RecordedEvent, stream::Position},
    port::{EventStore, FeedFilter, Outage, ReadError},
    runtime::feed::FeedWatch,
};

/// How many events are taken from a page that the store has read; a bound in case it reads without end.
const PAGE: usize = 1_024;

/// Where someone is in a feed.
pub(super) struct Reader {
    store: Arc<dyn EventStore>,
    filter: FeedFilter,
    /// Everything up to here is in the page, or was handed out before.
    cursor: Position,
    page: VecDeque<RecordedEvent>,
    feed: FeedWatch,
    control: FollowControl,
    outage: Outage,
}

impl Reader {
    pub(super) fn new(store: Arc<dyn EventStore>, after: Position, filter: FeedFilter, control: FollowControl) -> Self {
        Self {
            feed: FeedWatch::new(&store, control.clock().clone()),
            store,
            filter,
            cursor: after,
            page: VecDeque::new(),
            outage: Outage::new(control.clock().clone()),
            control,
        }
    }

    /// The next event; `None` once it is stopped.
    pub(super) async fn next(&mut self) -> Option<Result<RecordedEvent, ReadError>> {
        let cancel = self.control.cancel().clone();
        loop {
            if !self.control.may_go_on().await {
                return None;
            }
            if let Some(event) = self.page.pop_front() {
                let position = event.position().unwrap_or(self.cursor);
                self.control.update(|status| status.position = position);
                return Some(Ok(event));
            }
            let looked = cancel.run_until_cancelled(self.read_on()).await?;
            if looked.is_ok()
                && let Some(lasted) = self.outage.ends()
            {
                tracing::info!(?lasted, "store is followed again");
            }
            let goes_on = match looked {
                Ok(true) => {
                    self.feed.made_progress();
                    true
                }
                Ok(false) => self.feed.idle(&cancel).await,
                Err(ReadError::Unavailable(error)) => {
                    self.report(&Line(&*error).to_string());
                    self.feed.failed(&cancel).await
                }
                Err(damaged) => return Some(Err(damaged)),
            };
            if !goes_on {
                return None;
            }
        }
    }

    /// Reads what comes next. False: the end is reached for now.
    async fn read_on(&mut self) -> Result<bool, ReadError> {
        let head = self.store.head().await?;
        if head > self.cursor {
            let read = self.store.read_feed(self.cursor, head, &self.filter).ready_chunks(PAGE).next().await;
            match read {
                Some(chunk) => self.take(chunk)?,
                None => self.cursor = head,
            }
        }
        let is_at_the_end = self.page.is_empty() && head <= self.cursor;
        let cursor = self.cursor;
        self.control.update(|status| {
            status.trouble = None;
            if is_at_the_end {
                (status.position, status.is_live) = (cursor, true);
            }
        });
        Ok(!is_at_the_end)
    }

    /// Takes the events of a page; an error behind them is met again by the next reading.
    fn take(&mut self, chunk: Vec<Result<RecordedEvent, ReadError>>) -> Result<(), ReadError> {
        for record in chunk {
            match record {
                Ok(event) => {
                    self.cursor = event.position().unwrap_or(self.cursor);
                    self.page.push_back(event);
                }
                Err(error) if self.page.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn report(&mut self, error: &str) {
        if self.outage.begins() {
            tracing::warn!(error, "store cannot be followed, trying again");
        } else {
            tracing::debug!(error, "store still cannot be followed");
        }
        self.control.update(|status| status.trouble = Some(error.to_owned()));
    }
}
