//! Following a stream: reads without an end.
//!
//! Invariant: the cursor is after the entries that were read, and each call returns the next of them, even if a call in
//! between fails or is dropped.
//!
//! Real time, not the given clock: connecting to Redis again.

use std::{collections::VecDeque, fmt, time::Duration};

use eventbus::support::{BackoffTimer, Outage};
use redis::{RedisError, RedisResult};
use tokio::time::Instant;

use super::{HistoryEntry, HistoryError, cursor::Cursor};
use crate::{
    blocking_read::{BlockingPageReader, READ_BLOCK_MAX, RECONNECT_BACKOFF},
    command::pages::EntryPage,
    error::CommandError,
};

/// A reader of the stream that waits for new entries; made by [`History::follow`](super::History::follow).
#[derive(derive_more::Debug)]
#[debug("Follow {{ history: {cursor:?}, read: {}, .. }}", buffered.len())]
pub struct Follow {
    /// After the entries that were read, not after those returned.
    cursor: Cursor,
    page_reader: BlockingPageReader,
    /// Entries that were read and not returned: at most those of one page.
    buffered: VecDeque<HistoryEntry>,
    /// Set if there are more entries to read without waiting.
    has_more: bool,
    /// The delays between failed reads.
    backoff: BackoffTimer,
    retry_at: Option<Instant>,
    outage: Outage,
}

impl Follow {
    pub(super) fn new(cursor: Cursor) -> Self {
        let outage = Outage::new(cursor.bus().config().clock.clone());
        let ((page_reader, buffered), backoff) = (Default::default(), BackoffTimer::new(RECONNECT_BACKOFF));
        Self { cursor, page_reader, buffered, has_more: false, backoff, retry_at: None, outage }
    }

    /// Returns the next entry, as soon as there is one.
    ///
    /// While the server is away, waits for it, and then continues after the last entry. Dropping the future, as
    /// `select!` and timeouts do, loses no entry.
    ///
    /// # Errors
    /// [`HistoryError::ShutDown`] after a shutdown of the bus, within about a second; [`HistoryError::InvalidId`];
    /// [`HistoryError::Refused`], after which the caller may try again.
    pub async fn next(&mut self) -> Result<HistoryEntry, HistoryError> {
        loop {
            if let Some(entry) = self.buffered.pop_front() {
                return Ok(entry);
            }
            self.cursor.check_open()?;
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            match self.read_page().await? {
                Ok(page) => self.buffer_page(page),
                Err(error) => self.handle_read_error(error)?,
            }
        }
    }

    /// Waits for entries, up to [`READ_BLOCK_MAX`], and reads a page of them.
    async fn read_page(&mut self) -> Result<RedisResult<EntryPage>, HistoryError> {
        let after = self.cursor.id()?;
        let (bus, stream) = (self.cursor.bus(), self.cursor.stream());
        let config = bus.config();
        let block = Duration::from_millis(config.block_ms).min(READ_BLOCK_MAX);
        let block = Some(block).filter(|_| !self.has_more);
        let timeout = config.socket_timeout.saturating_add(READ_BLOCK_MAX);
        Ok(self.page_reader.read_page(bus.connection(), timeout, &[stream], after, config.batch_size, block).await)
    }

    fn buffer_page(&mut self, page: EntryPage) {
        self.record_success();
        self.has_more = page.has_more;
        self.buffered.extend(page.entries.into_iter().map(HistoryEntry::from));
        if let Some(last) = self.buffered.back() {
            self.cursor.move_behind(&last.id);
        }
    }

    /// Schedules the next attempt; returns an error that the caller must handle.
    fn handle_read_error(&mut self, error: RedisError) -> Result<(), HistoryError> {
        self.schedule_retry(&error);
        let error = HistoryError::from_command_error(self.cursor.bus().destination(), CommandError::Sent(error));
        if error.is_retryable() { Ok(()) } else { Err(error) }
    }

    /// Ends an outage: the server replied.
    fn record_success(&mut self) {
        self.backoff.reset();
        if let Some(lasted) = self.outage.ends() {
            tracing::info!(stream = self.cursor.bus().stream(), ?lasted, "following goes on");
        }
    }

    fn schedule_retry(&mut self, error: &dyn fmt::Display) {
        self.retry_at = Some(Instant::now() + self.backoff.next_jittered());
        if self.outage.begins() {
            tracing::warn!(stream = self.cursor.bus().stream(), %error, "following interrupted, trying again");
        }
    }
}
