//! Following a stream: reads without an end.
//!
//! Invariant: the cursor is after the entries that were read, and each call returns the next of them, even if a call in
//! between fails or is dropped.
//!
//! Real time, not the given clock: connecting to Redis again.

use std::{collections::VecDeque, time::Duration};

use eventbus::support::{BackoffTimer, Outage};
use tokio::time::Instant;

use super::{History, HistoryEntry};
use crate::{
    RedisCommandError,
    blocking_read::{READ_BLOCK_MAX, RECONNECT_BACKOFF},
};

/// A reader of the stream that waits for new entries; made by [`History::follow`](super::History::follow).
#[derive(derive_more::Debug)]
#[debug("Follow {{ history: {history:?}, read: {}, .. }}", buffered.len())]
pub struct Follow {
    /// After the entries that were read, not after those returned.
    history: History,
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
    pub(super) fn new(history: History) -> Self {
        let outage = Outage::new(history.bus.config().clock.clone());
        let (buffered, backoff) = (VecDeque::new(), BackoffTimer::new(RECONNECT_BACKOFF));
        Self { history, buffered, has_more: false, backoff, retry_at: None, outage }
    }

    /// Returns the next entry, as soon as there is one.
    ///
    /// While the server is away, waits for it, and then continues after the last entry. Dropping the future, as
    /// `select!` and timeouts do, loses no entry.
    ///
    /// # Errors
    /// [`RedisCommandError::ShutDown`] after a shutdown of the bus, within about a second;
    /// [`RedisCommandError::Refused`], after which the caller may try again, also for an id that is none.
    pub async fn next(&mut self) -> Result<HistoryEntry, RedisCommandError> {
        loop {
            if let Some(entry) = self.buffered.pop_front() {
                return Ok(entry);
            }
            self.history.bus.ensure_open()?;
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            let config = self.history.bus.config();
            let block = Duration::from_millis(config.block_ms).min(READ_BLOCK_MAX);
            let block = Some(block).filter(|_| !self.has_more);
            match self.history.cursor.wait(config.batch_size, block).await {
                Ok(page) => {
                    self.backoff.reset();
                    if let Some(lasted) = self.outage.ends() {
                        tracing::info!(stream = self.history.bus.stream(), ?lasted, "following goes on");
                    }
                    self.has_more = page.has_more;
                    self.buffered.extend(page.entries.into_iter().map(HistoryEntry::from));
                }
                Err(error) => {
                    self.retry_at = Some(Instant::now() + self.backoff.next_jittered());
                    if self.outage.begins() {
                        tracing::warn!(stream = self.history.bus.stream(), %error, "following interrupted, trying again");
                    }
                    if !error.is_retryable() {
                        return Err(error);
                    }
                }
            }
        }
    }
}
